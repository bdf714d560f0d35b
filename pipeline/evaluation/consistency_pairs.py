"""Audio shards → pairs of recordings of which one hangs together, as SALMon lays them out.

SALMon (arXiv 2409.07437) asks whether a speech language model minds when the voice, the background
or the room changes in the middle. Both recordings of a pair begin with the same half; then one goes
on as it began and the other as another version of the same speech would. Here every two versions
make two pairs, either being once the one that goes on and once the one that breaks in: a model that
merely prefers one voice, or clean speech, is right in one of them and wrong in the other.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from pipeline.cluster.progress import bar
from pipeline.evaluation.phone_labels import PhoneLabels
from pipeline.evaluation.versions import (
    Recording,
    Versions,
    another_background,
    another_pitch,
    another_room,
    another_voice,
)
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.effects import level
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.storage.folder import Folder

SHORTEST_S, LONGEST_S = 1.5, 20.0
# All recordings come at one level, so that a change of it gives nothing away.
LEVEL_DBFS = -23.0
# To nothing and up again where two halves meet, in all recordings alike.
FADE = SAMPLE_RATE // 200


@dataclass(frozen=True)
class Task:
    """folder: SALMon's name for it where it has one. needs: what the metadata must say."""

    folder: str
    needs: str
    make: Callable[[list[Recording], np.random.Generator], Iterator[Versions]]


def _speaker(recordings: list[Recording], random: np.random.Generator) -> Iterator[Versions]:
    return another_voice(recordings, random, lambda a, b: a.speaker != b.speaker)


def _gender(recordings: list[Recording], random: np.random.Generator) -> Iterator[Versions]:
    return another_voice(recordings, random, lambda a, b: {a.gender, b.gender} == {"f", "m"})


TASKS = {
    "speaker": Task("speaker_consistency", "the same text by two speakers", _speaker),
    "gender": Task("gender_consistency", "the same text by a woman and a man", _gender),
    "pitch": Task("pitch_consistency", "recordings", another_pitch),
    "noise": Task("bg_all_consistency", "recordings", another_background),
    "room": Task("rir_consistency", "recordings", another_room),
}


def read_recordings(shards: list[Shard], phones: PhoneLabels | None) -> list[Recording]:
    """The recordings of 1.5 to 20 s, in order, with what their own json says of them.

    Who speaks is under "speaker", whether a woman or a man under "gender", what is said under
    "text", in which language under "language". All are held in memory: 230 MB an hour.
    """
    found = []
    with bar("read", "recordings") as line:
        for shard in shards:
            with open_shard(shard) as stream:
                longest = int(LONGEST_S * SAMPLE_RATE)
                for sample, utterance, _ in read_utterances(stream, longest):
                    wave = utterance.waveform if utterance else None
                    if wave is None or len(wave) < SHORTEST_S * SAMPLE_RATE or not wave.any():
                        continue
                    about = sample.metadata if isinstance(sample.metadata, dict) else {}
                    own = phones.of_key.get(sample.key) if phones else None
                    names = list(phones.phones) if own else []
                    found.append(
                        Recording(
                            sample.key,
                            level(wave, LEVEL_DBFS),
                            speaker=_said(about, "speaker"),
                            gender=_said(about, "gender")[:1].lower(),
                            text=_said(about, "text"),
                            language=_said(about, "language"),
                            phones=(own[0] / 1000, [names[code] for code in own[1]])
                            if own
                            else None,
                        )
                    )
                    line.update()
    return found


def _said(about: dict, name: str) -> str:
    value = about.get(name)
    return str(value) if isinstance(value, str | int) else ""


def make_pairs(
    recordings: list[Recording],
    tasks: Sequence[str],
    pairs_per_task: int,
    seed: int,
    output: Folder,
) -> dict[str, int]:
    """Write OUTPUT/TASK/sample_N_0.wav, sample_N_1.wav and metadata.json for each task.

    tasks: some of TASKS. Samples 2 i and 2 i + 1 are of two versions and make one group. Returns
    {task: pairs made}, fewer than asked for where there is no more speech to make them of. The same
    recordings and seed give the same bytes.
    """
    made = {}
    with (
        tempfile.TemporaryDirectory(prefix="wavmill-") as scratch,
        bar("made", "pairs", len(tasks) * pairs_per_task) as line,
    ):
        for name in tasks:
            task, rows = TASKS[name], []
            random = np.random.default_rng([seed, list(TASKS).index(name)])
            for versions in islice(task.make(recordings, random), pairs_per_task // 2):
                for order in ((0, 1), (1, 0)):
                    for option, ending in enumerate(order):
                        path = Path(scratch) / "sample.wav"
                        wave = joined(versions, order[0], ending)
                        soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
                        output.publish(path, f"{task.folder}/sample_{len(rows)}_{option}.wav")
                    rows.append(_about(versions, len(rows), order))
                    line.update()
            if rows:
                text = json.dumps(rows, indent=1) + "\n"
                output.publish_text(text, f"{task.folder}/metadata.json")
            made[name] = len(rows)
    output.sweep()
    return made


def _about(versions: Versions, index: int, order: tuple[int, int]) -> dict:
    """A pair's row in metadata.json: first the version that both recordings begin with."""
    return {
        "index": index,
        "group": index // 2,
        "text": versions.text,
        "keys": [versions.keys[i] for i in order],
        "speakers": [versions.speakers[i] for i in order],
        "versions": [versions.names[i] for i in order],
        "cut_s": [versions.cuts[i] / SAMPLE_RATE for i in order],
    }


def joined(versions: Versions, beginning: int, ending: int) -> np.ndarray:
    """The first half of one version and the second half of one, faded out and in where they meet.

    The same is done where both are of one version, so that the joint tells nothing.
    """
    first = versions.waves[beginning][: versions.cuts[beginning]].copy()
    second = versions.waves[ending][versions.cuts[ending] :].copy()
    fade = np.linspace(0, 1, FADE, dtype=np.float32)
    first[-FADE:] *= fade[::-1]
    second[:FADE] *= fade
    return np.concatenate([first, second])
