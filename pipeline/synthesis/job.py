"""Training speech of free synthesisers and recordings: make all shards, then summarise them."""

import hashlib
import json
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from shutil import which

from pipeline.cluster.progress import bar
from pipeline.synthesis.plan import ShardPlan, SynthesisSettings, plan_shards, recordings_by_voice
from pipeline.synthesis.sentences import english
from pipeline.synthesis.speech_shard import make_noise_shard, make_shard
from pipeline.synthesis.synthesizers import installed
from pipeline.synthesis.voices import GAMES, HALVES, PACKAGES, PROGRAMS, RECORDINGS, SHARES, voices
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder


def synthesize(settings: SynthesisSettings, output: Folder) -> dict:
    """Write OUTPUT/a, OUTPUT/b and OUTPUT/noise; shards that exist already stay as they are.

    Beside each tar lies a .jsonl with a row for each utterance. OUTPUT/a/phones.jsonl,
    OUTPUT/b/phones.jsonl and summary.json are made from these. Returns the summary and "failed":
    {shard: reason}. Raises UsageError when a program or voice is missing, or the output was made
    with other settings.
    """
    # Recordings need no text.
    needs_text = settings.text or not SHARES.keys().isdisjoint(settings.engines)
    sentences = english(list(settings.text)) if needs_text else []
    # After the texts, because it opens fourteen thousand recordings.
    _check_installed(settings.engines)
    plans = plan_shards(settings, sentences)
    _claim(output, settings, sentences=sentences, plans=plans)
    present = {name for folder in (*HALVES, "noise") for name in _tars(output, folder)}
    failed = {}
    todo = [plan for plan in plans if plan.name not in present]
    processes = max(1, min(len(todo), len(os.sched_getaffinity(0))))
    # Spawned, because a fork would share the locks of fsspec's threads.
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
        bar("made", "shards", len(plans)) as progress,
    ):
        progress.update(len(plans) - len(todo))
        jobs = {pool.submit(write_shard, plan, output.url): plan.name for plan in todo}
        try:
            for job in as_completed(jobs):
                if error := job.exception():
                    failed[jobs[job]] = one_line(error)
                progress.update()
        finally:
            # After Ctrl-C no further shard starts.
            pool.shutdown(wait=False, cancel_futures=True)
    return _gather(output) | {"failed": failed}


def write_shard(plan: ShardPlan, url: str) -> None:
    """Make a shard and publish it, the tar last: a shard whose tar exists is finished."""
    output = Folder(url)
    with scratch_folder() as scratch:
        path = scratch / "shard.tar"
        rows = (make_noise_shard if plan.half == "noise" else make_shard)(plan, path)
        output.publish_text("".join(json.dumps(row) + "\n" for row in rows), f"{plan.name}.jsonl")
        output.publish(path, f"{plan.name}.tar")


def _check_installed(engines: tuple[str, ...]) -> None:
    """Raises UsageError with the apt-get command that installs whatever is missing."""
    missing = []
    for engine in engines:
        if not which(PROGRAMS[engine]):
            missing.append(engine)
            continue
        if engine in (RECORDINGS, GAMES):
            complete = _recordings_installed(engine)
        else:
            complete = all(installed(voice) for half in HALVES for voice in voices(half, engine))
        if not complete:
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
        return all(listed for half in HALVES for _, listed in recordings_by_voice(half, (engine,)))
    except (OSError, ValueError) as error:
        raise UsageError(
            str(error),
            "install its package again, or leave it out",
            value=engine,
            argument="engines",
        ) from error


def _claim(
    output: Folder, settings: SynthesisSettings, sentences: list[str], plans: list[ShardPlan]
) -> None:
    """Write synthesis.json. Raises UsageError if there is one with other settings."""
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
    hours: defaultdict[str, float] = defaultdict(float)
    labelled_hours: defaultdict[str, float] = defaultdict(float)
    speakers: dict[str, set[str]] = {half: set() for half in HALVES}
    utterances = 0
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
                    labelled_hours[f"{half} {row['engine']}"] += row["seconds"] / 3600
                    phones.append({key: row[key] for key in ("key", "frame_ms", "phones")})
        if half in HALVES:
            text = "".join(json.dumps(row) + "\n" for row in phones)
            output.publish_text(text, f"{half}/phones.jsonl")
    summary = {
        "shards": sum(len(_tars(output, half)) for half in (*HALVES, "noise")),
        "utterances": utterances,
        "hours": {name: round(value, 3) for name, value in sorted(hours.items())},
        "hours_with_phones": {
            name: round(value, 3) for name, value in sorted(labelled_hours.items())
        },
        "speakers": {half: len(names) for half, names in speakers.items()},
    }
    output.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    output.sweep()
    return summary
