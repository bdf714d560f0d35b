"""Audio shards → pairs of recordings, one consistent and one not, in the layout of SALMon.

SALMon (arXiv 2409.07437) tests whether a speech language model notices a change of voice,
background or room in the middle of a recording. Both recordings of a pair start with the same half.
The consistent one continues with the same version of the speech, the other with another version.
Every two versions give two pairs, each version being consistent in one of them: a model that just
prefers one voice, or clean speech, is right in one pair and wrong in the other.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import soundfile

from pipeline.cluster.progress import bar
from pipeline.evaluation.phone_labels import PhoneLabels, metadata_text
from pipeline.evaluation.versions import (
    Recording,
    VersionPair,
    background_versions,
    pitch_versions,
    room_versions,
    voice_versions,
)
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.effects import level
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder

SHORTEST_S, LONGEST_S = 1.5, 20.0
# All recordings have one level, so that the level does not give the change away.
LEVEL_DBFS = -23.0
# Samples of fade-out and fade-in where two halves meet, in all recordings alike.
FADE = SAMPLE_RATE // 200


@dataclass(frozen=True)
class ConsistencyTask:
    """A kind of change. folder: SALMon's name for it, if it has one.

    needs: the recordings that it needs, for messages.
    """

    folder: str
    needs: str
    make: Callable[[list[Recording], np.random.Generator], Iterator[VersionPair]]


def _speaker(recordings: list[Recording], random: np.random.Generator) -> Iterator[VersionPair]:
    return voice_versions(recordings, random, lambda a, b: a.speaker != b.speaker)


def _gender(recordings: list[Recording], random: np.random.Generator) -> Iterator[VersionPair]:
    return voice_versions(recordings, random, lambda a, b: {a.gender, b.gender} == {"f", "m"})


TASKS = {
    "speaker": ConsistencyTask("speaker_consistency", "the same text by two speakers", _speaker),
    "gender": ConsistencyTask("gender_consistency", "the same text by a woman and a man", _gender),
    "pitch": ConsistencyTask("pitch_consistency", "recordings", pitch_versions),
    "noise": ConsistencyTask("bg_all_consistency", "recordings", background_versions),
    "room": ConsistencyTask("rir_consistency", "recordings", room_versions),
}


def read_recordings(shards: list[Shard], phones: PhoneLabels | None) -> list[Recording]:
    """All recordings of 1.5 to 20 s, in order, with "speaker", "gender", "text" and "language".

    These come from the json member of a sample. All audio is held in memory: 230 MB an hour.
    """
    found = []
    with bar("read", "recordings") as progress:
        for shard in shards:
            with open_shard(shard) as stream:
                for sample, utterance, _ in read_utterances(stream, int(LONGEST_S * SAMPLE_RATE)):
                    wave = utterance.waveform if utterance else None
                    if wave is None or len(wave) < SHORTEST_S * SAMPLE_RATE or not wave.any():
                        continue
                    found.append(
                        Recording(
                            key=sample.key,
                            wave=level(wave, LEVEL_DBFS),
                            speaker=metadata_text(sample.metadata, "speaker"),
                            gender=metadata_text(sample.metadata, "gender")[:1].lower(),
                            text=metadata_text(sample.metadata, "text"),
                            language=metadata_text(sample.metadata, "language"),
                            phones=phones.seconds_and_names(sample.key) if phones else None,
                        )
                    )
                    progress.update()
    return found


def make_pairs(
    recordings: list[Recording],
    tasks: Sequence[str],
    pairs_per_task: int,
    seed: int,
    output: Folder,
) -> dict[str, int]:
    """Write OUTPUT/TASK/sample_N_0.wav, sample_N_1.wav and metadata.json for each task.

    tasks: keys of TASKS. Samples 2 i and 2 i + 1 come from the same two versions and form a group.
    Returns {task: pairs made}, fewer than pairs_per_task if the recordings give no more. The same
    recordings and seed give the same bytes.
    """
    made = {}
    with (
        scratch_folder() as scratch,
        bar("made", "pairs", len(tasks) * pairs_per_task) as progress,
    ):
        for name in tasks:
            task, rows = TASKS[name], list[dict]()
            random = np.random.default_rng([seed, list(TASKS).index(name)])
            for versions in islice(task.make(recordings, random), pairs_per_task // 2):
                for order in ((0, 1), (1, 0)):
                    for option, ending in enumerate(order):
                        path = scratch / "sample.wav"
                        wave = join_halves(versions, order[0], ending)
                        soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
                        output.publish(path, f"{task.folder}/sample_{len(rows)}_{option}.wav")
                    rows.append(_metadata_row(versions, len(rows), order))
                    progress.update()
            if rows:
                text = json.dumps(rows, indent=1) + "\n"
                output.publish_text(text, f"{task.folder}/metadata.json")
            made[name] = len(rows)
    output.sweep()
    return made


def _metadata_row(versions: VersionPair, index: int, order: tuple[int, int]) -> dict:
    """The row of a pair in metadata.json. order[0]: the version that both recordings start with."""
    return {
        "index": index,
        "group": index // 2,
        "text": versions.text,
        "keys": [versions.keys[i] for i in order],
        "speakers": [versions.speakers[i] for i in order],
        "versions": [versions.names[i] for i in order],
        "cut_s": [versions.cuts[i] / SAMPLE_RATE for i in order],
    }


def join_halves(versions: VersionPair, first: int, second: int) -> np.ndarray:
    """The first half of version `first` and the second half of version `second`.

    They are faded out and in where they meet, also if both are of one version, so that the joint
    does not give the change away.
    """
    start = versions.waves[first][: versions.cuts[first]].copy()
    end = versions.waves[second][versions.cuts[second] :].copy()
    fade = np.linspace(0, 1, FADE, dtype=np.float32)
    start[-FADE:] *= fade[::-1]
    end[:FADE] *= fade
    return np.concatenate([start, end])
