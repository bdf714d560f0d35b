"""Training speech of free synthesisers and recordings: which shards there are, and making them."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from shutil import which

import numpy as np
from tqdm import tqdm

from pipeline.synthesis.games import PLAYED, lines
from pipeline.synthesis.recordings import RECORDED, recordings
from pipeline.synthesis.sentences import english
from pipeline.synthesis.speech_shard import Recordings, ShardPlan, make_noise_shard, make_shard
from pipeline.synthesis.synthesizers import installed
from pipeline.synthesis.voices import (
    GAMES,
    HALVES,
    PACKAGES,
    PROGRAMS,
    RECORDINGS,
    SHARES,
    Voice,
    voices,
)
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder

# Games came later: the command that figures were published with is to make the same speech.
DEFAULT_ENGINES = (*SHARES, RECORDINGS)
ENGINES = (*DEFAULT_ENGINES, GAMES)
# The largest share of recordings and games where there are synthesisers too.
MOST_RECORDED = 0.6
MOST_NOISE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """What to make. hours: of speech, half of it in each half. engines: some of ENGINES.

    texts: files whose sentences are said too. same_texts: voices of a half say the same sentences,
    in English alone.
    """

    hours: float = 14.0
    seed: int = 0
    shard_minutes: float = 15.0
    engines: tuple[str, ...] = DEFAULT_ENGINES
    texts: tuple[str, ...] = ()
    same_texts: bool = False


def synthesize(settings: SynthesisSettings, output: Folder) -> dict:
    """Write OUTPUT/a, OUTPUT/b and OUTPUT/noise; shards that are there already are left.

    Each tar has a .jsonl beside it, with a row an utterance; from these come OUTPUT/a/phones.jsonl,
    OUTPUT/b/phones.jsonl and summary.json. Returns the summary and "failed": {shard: why}. Raises
    UsageError when a program or voice is missing, or the output was made with other settings.
    """
    # Recordings alone need no text.
    spoken = settings.texts or not SHARES.keys().isdisjoint(settings.engines)
    sentences = english(list(settings.texts)) if spoken else []
    # After the texts: it opens fourteen thousand recordings.
    _check_installed(settings.engines)
    plans = plan_shards(settings, sentences)
    _claim(output, settings, sentences=sentences, plans=plans)
    present = {name for folder in (*HALVES, "noise") for name in _tars(output, folder)}
    failed = {}
    todo = [plan for plan in plans if plan.name not in present]
    workers = max(1, min(len(todo), len(os.sched_getaffinity(0))))
    # Spawned: a fork would share what fsspec's threads hold.
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        tqdm(total=len(plans), initial=len(plans) - len(todo), unit="shard") as bar,
    ):
        jobs = {pool.submit(write_shard, plan, output.url): plan.name for plan in todo}
        try:
            for job in as_completed(jobs):
                if error := job.exception():
                    failed[jobs[job]] = f"{type(error).__name__}: {error}"
                bar.update()
        finally:
            # After Ctrl-C what has not begun does not begin.
            pool.shutdown(wait=False, cancel_futures=True)
    return _gather(output) | {"failed": failed}


def write_shard(plan: ShardPlan, url: str) -> None:
    """Make a shard and publish it; its tar comes last, so a tar that is there is finished."""
    output = Folder(url)
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        path = Path(scratch) / "shard.tar"
        rows = (make_noise_shard if plan.half == "noise" else make_shard)(plan, path)
        output.publish_text("".join(json.dumps(row) + "\n" for row in rows), f"{plan.name}.jsonl")
        output.publish(path, f"{plan.name}.tar")


def plan_shards(settings: SynthesisSettings, sentences: list[str]) -> list[ShardPlan]:
    """What every shard is made of: a pure function of the settings and of what is installed."""
    rng = np.random.default_rng(settings.seed)
    order = [sentences[i] for i in rng.permutation(len(sentences))]
    half_s = settings.hours * 1800
    count = max(1, round(half_s / 60 / settings.shard_minutes))
    shares = {family: share for family, share in SHARES.items() if family in settings.engines}
    plans = []
    for side, half in enumerate(HALVES):
        most = half_s * (MOST_RECORDED if shares else 1)
        recordings, recorded_s = _recordings(half, settings.engines, most=most, rng=rng)
        left = max(0.0, half_s - recorded_s) / count
        seconds = {family: left * share / sum(shares.values()) for family, share in shares.items()}
        for number in range(count):
            own = order[side * count + number :: 2 * count] or order
            name, seed = f"{half}/{half}-{number:03d}", (settings.seed, side, number)
            said = recordings[number::count]
            same = settings.same_texts
            plans.append(
                ShardPlan(
                    name,
                    half,
                    number=number,
                    seed=seed,
                    seconds=seconds,
                    sentences=own,
                    recordings=said,
                    same_texts=same,
                )
            )
    noise_s = min(MOST_NOISE_S, settings.hours * 3600 / 20)
    count = max(1, round(noise_s / 60 / settings.shard_minutes))
    for number in range(count):
        # Speech of every family for the babble.
        seconds = dict.fromkeys(shares, min(40.0, noise_s)) | {"noise": noise_s / count}
        name, seed = f"noise/noise-{number:03d}", (settings.seed, 2, number)
        plans.append(
            ShardPlan(
                name, "noise", number=number, seed=seed, seconds=seconds, sentences=order[:400]
            )
        )
    return plans


def _recordings(
    half: str, engines: tuple[str, ...], most: float, rng: np.random.Generator
) -> tuple[list, float]:
    """Prompts of a half, short ones that follow each other joined: (groups, seconds in all)."""
    groups = []
    for voice, said in _recorded(half, engines):
        group, seconds, enough = [], 0.0, rng.uniform(2.5, 9)
        for name, own in said:
            if group and seconds + own > 13:
                groups.append((Recordings(voice, tuple(group)), seconds))
                group, seconds, enough = [], 0.0, rng.uniform(2.5, 9)
            group.append(name)
            seconds += own
            if seconds >= enough:
                groups.append((Recordings(voice, tuple(group)), seconds))
                group, seconds, enough = [], 0.0, rng.uniform(2.5, 9)
        if group:
            groups.append((Recordings(voice, tuple(group)), seconds))
    chosen, total = [], 0.0
    for index in rng.permutation(len(groups)):
        if total + groups[index][1] <= most:
            chosen.append(groups[index][0])
            total += groups[index][1]
    return chosen, total


def _recorded(half: str, engines: tuple[str, ...]) -> list[tuple[Voice, list[tuple[str, float]]]]:
    """Whose recordings a half has, and the (name, seconds) of each."""
    known = {RECORDINGS: (RECORDED, recordings), GAMES: (PLAYED, lines)}
    return [
        (Voice(family, source.name, language=source.language, gender=source.gender), listed(source))
        for family, (sources, listed) in known.items()
        if family in engines
        for source in sources[half]
    ]


def _check_installed(engines: tuple[str, ...]) -> None:
    """Raises UsageError that names the apt-get line for whatever is missing."""
    missing = []
    for engine in engines:
        if not which(PROGRAMS[engine]):
            missing.append(engine)
            continue
        if engine in (RECORDINGS, GAMES):
            there = _recordings_installed(engine)
        else:
            there = all(installed(voice) for half in HALVES for voice in voices(half, engine))
        if not there:
            missing.append(engine)
    if missing:
        packages = dict.fromkeys(name for engine in missing for name in PACKAGES[engine].split())
        raise UsageError(
            "its program or some of its voices are not installed",
            f"apt-get install {' '.join(packages)}, or leave it out",
            value=" ".join(missing),
            argument="engines",
        )


def _recordings_installed(engine: str) -> bool:
    try:
        return all(said for half in HALVES for _, said in _recorded(half, (engine,)))
    except (OSError, ValueError) as error:
        raise UsageError(
            str(error),
            "install its package anew, or leave it out",
            value=engine,
            argument="engines",
        ) from error


def _claim(output: Folder, settings: SynthesisSettings, sentences: list, plans: list) -> None:
    """Write synthesis.json, or see that the one that is there says the same."""
    digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
    made_from = {
        "hours": settings.hours,
        "seed": settings.seed,
        "shard_minutes": settings.shard_minutes,
        "engines": list(settings.engines),
        "sentences": len(sentences),
        "sha256_of_sentences": digest,
        "recordings": sum(len(group.paths) for plan in plans for group in plan.recordings),
    }
    if settings.same_texts:
        made_from["same_texts"] = True
    if output.claim("synthesis.json", made_from) != made_from:
        raise UsageError(
            "it was made with other settings or other texts",
            "give another folder",
            value=output.url,
            argument="output",
        )


def _tars(output: Folder, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in output.names(folder, ".tar")]


def _gather(output: Folder) -> dict:
    """Write phones.jsonl of each half and summary.json from the rows beside the shards."""
    hours, labelled, utterances = Counter(), Counter(), 0
    speakers = {half: set() for half in HALVES}
    for half in (*HALVES, "noise"):
        phones = []
        for name in _tars(output, half):
            for line in (output.read_text(f"{name}.jsonl") or "").splitlines():
                row = json.loads(line)
                hours[f"{half} {row['engine']}"] += row["seconds"] / 3600
                utterances += half in HALVES
                if half in HALVES:
                    speakers[half].add(row["speaker"])
                if "phones" in row:
                    labelled[f"{half} {row['engine']}"] += row["seconds"] / 3600
                    phones.append({key: row[key] for key in ("key", "frame_ms", "phones")})
        if half in HALVES:
            text = "".join(json.dumps(row) + "\n" for row in phones)
            output.publish_text(text, f"{half}/phones.jsonl")
    summary = {
        "shards": sum(len(_tars(output, half)) for half in (*HALVES, "noise")),
        "utterances": utterances,
        "hours": {name: round(value, 3) for name, value in sorted(hours.items())},
        "hours_with_phones": {name: round(value, 3) for name, value in sorted(labelled.items())},
        "speakers": {half: len(names) for half, names in speakers.items()},
    }
    output.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    output.sweep()
    return summary
