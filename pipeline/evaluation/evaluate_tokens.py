"""Audio shards and what is known of them → figures that say how good a tokenizer is.

The tokens are made by the main job itself, so rejects, windows and batches are the real ones.
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import ray

from pipeline.cluster.connect import connect
from pipeline.evaluation import measures
from pipeline.evaluation.abx import Item, abx_errors
from pipeline.evaluation.phone_labels import PhoneLabels
from pipeline.settings import EncoderSettings, TokenizeSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard
from pipeline.shards.samples import read_samples
from pipeline.tokenize.job import open_output, tokenize
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_shards import read_tokens
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Labels that end this many frames before the audio does are of this audio; their edge is not ours.
FRAMES_BEYOND_LABELS = 2


@dataclass
class Evaluation:
    """figures: {name: number, None where it is undefined}. left_out: {key: why it has no part}.

    problems: why not all of the input was tokenized. tokenizer: its fingerprint.
    """

    tokenizer: str
    figures: dict[str, float | int | str | None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Utterance:
    key: str
    tokens: np.ndarray
    about: dict

    def said(self, name: str) -> str | None:
        """What the sample's own json has under this name."""
        metadata = self.about["metadata"]
        value = metadata.get(name) if isinstance(metadata, dict) else None
        return str(value) if isinstance(value, str | int) else None


def check_keys(url: str, keys: set[str], shards: list[Shard]) -> None:
    """Raises UsageError when no sample of the shards has one of these keys."""
    for shard in shards:
        try:
            with open_shard(shard) as stream:
                for sample in read_samples(stream):
                    if sample.audio is not None:
                        sample.audio.close()
                    if sample.key in keys:
                        return
        except Exception:  # a shard that cannot be read is the tokenize job's to report
            return
    raise UsageError(
        f"none of its {len(keys):,} keys is in the input, such as {min(keys)}",
        "give the file that belongs to this audio",
        value=url,
    )


def evaluate_tokens(
    shards: list[Shard],
    inputs_root: str,
    files: TokenizerFiles,
    source: str,
    settings: TokenizeSettings,
    encoder_settings: EncoderSettings,
    phones: PhoneLabels | None = None,
    items: list[Item] | None = None,
    output: str | None = None,
) -> Evaluation:
    """Tokenize the shards, as jobs/tokenize.py does, and measure the tokens.

    source: where the tokenizer came from, for the record. output: folder or URL to keep the tokens
    in, else they are made in a temporary folder. Raises UsageError when `output` cannot be used, or
    when there is none on a cluster whose nodes share no temporary folder.
    """
    evaluation = Evaluation(files.fingerprint)
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        run = open_output(
            output or scratch, files, source=source, settings=settings, inputs_root=inputs_root
        )
        if output is None:
            connect()
            if sum(node["Alive"] for node in ray.nodes()) > 1:
                problem = "a cluster of several nodes makes the tokens"
                raise UsageError(
                    problem, "name a folder all of them reach", value="(none)", argument="output"
                )
        summary = tokenize(shards, run, encoder_settings)
        for name, why in summary["failed"].items():
            evaluation.problems.append(f"shard {name} failed: {why}; it is not in the figures")
        # An OUTPUT that was there before may hold more shards than these.
        names = [shard.name for shard in shards if shard.name not in summary["failed"]]
        for name in sorted(set(names) & set(summary["incomplete_shards"])):
            evaluation.problems.append(f"shard {name} is incomplete: its tar is broken")
        rejected = _rejected(run.folder, set(names))
        utterances = _distinct(_read_tokens(run.folder, names), evaluation)
    evaluation.left_out.update((row["key"], f"rejected: {row['reason']}") for row in rejected)
    if not utterances:
        evaluation.problems.append("no utterance of the input could be tokenized")
        return evaluation
    figures = evaluation.figures
    figures["samples_rejected"] = len(rejected)
    figures.update(_usage(utterances, files))
    # What is asked of frames has for each the token that stands for it.
    frames = {u.key: np.repeat(u.tokens, files.frames_per_token) for u in utterances}
    if phones is not None:
        figures.update(_phones(frames, files, labels=phones, evaluation=evaluation))
    figures.update(_speakers(utterances))
    if items is not None:
        figures.update(abx_errors(items, frames, files.weights["codebook.codes"].numpy()))
        figures["abx_source"] = "wavmill"
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            figures[name] = None
    return evaluation


def _rejected(folder: Folder, names: set[str]) -> list[dict]:
    with folder.fs.open(folder.path("manifest.parquet"), "rb") as file:
        rows = pq.read_table(file, filters=[("status", "=", "rejected")]).to_pylist()
    return [row for row in rows if row["shard"] in names]


def _read_tokens(folder: Folder, names: list[str]) -> Iterator[_Utterance]:
    """The utterances of token shards, in order."""
    for name in names:
        path = folder.path(f"shards/{name}.tar")
        with folder.fs.open(path, "rb") as file:
            yield from (_Utterance(*utterance) for utterance in read_tokens(file))


def _distinct(utterances: Iterator[_Utterance], evaluation: Evaluation) -> list[_Utterance]:
    """Those whose key no utterance of another shard has: labels go by the key alone."""
    of_key: dict[str, _Utterance | None] = {}
    for utterance in utterances:
        if utterance.key in of_key:
            evaluation.left_out[utterance.key] = "two shards have this key"
        of_key[utterance.key] = utterance
    return [u for u in of_key.values() if u.key not in evaluation.left_out]


def _usage(utterances: list[_Utterance], files: TokenizerFiles) -> dict[str, float | int]:
    counts = np.zeros(files.codebook_size, np.int64)
    for utterance in utterances:
        counts += np.bincount(utterance.tokens, minlength=files.codebook_size)
    seconds = sum(utterance.about["duration_s"] for utterance in utterances)
    entropy = measures.entropy(counts)
    tokens_per_second = FRAMES_PER_SECOND / files.frames_per_token
    return {
        "utterances": len(utterances),
        "audio_hours": seconds / 3600,
        "tokens": int(counts.sum()),
        "tokens_per_second": tokens_per_second,
        "codebook_size": files.codebook_size,
        "active_codes": int((counts > 0).sum()),
        "codebook_perplexity": math.exp(entropy),
        "bitrate": tokens_per_second * math.log2(files.codebook_size),
        "entropy_bitrate": float(counts.sum()) / seconds * entropy / math.log(2),
    }


def _phones(
    frames: dict[str, np.ndarray],
    files: TokenizerFiles,
    labels: PhoneLabels,
    evaluation: Evaluation,
) -> dict[str, float | int]:
    """frames: {key: (T,) the code of each frame}."""
    shape = (len(labels.phones), files.codebook_size)
    joint, scored, unlabelled = np.zeros(shape, np.int64), 0, 0
    for key, codes in frames.items():
        if key not in labels.of_key:
            unlabelled += 1
            continue
        label_ms, phones = labels.of_key[key]
        places = measures.label_indices(len(codes), label_ms)
        places = places[places < len(phones)]
        # The last token may stand for fewer frames than the others.
        if len(places) < len(codes) - FRAMES_BEYOND_LABELS - (files.frames_per_token - 1):
            evaluation.left_out[key] = f"its labels end after {len(places)} of {len(codes)} frames"
            continue
        joint += measures.joint_counts(phones[places], codes[: len(places)], shape)
        scored += 1
    figures = {
        "utterances_scored": scored,
        "frames_scored": int(joint.sum()),
        "phones": int((joint.sum(1) > 0).sum()),
        "audio_without_labels": unlabelled,
        "labels_without_audio": len(labels.of_key.keys() - frames.keys()),
    }
    if scored:
        figures["phone_purity"] = measures.phone_purity(joint)
        figures["cluster_purity"] = measures.cluster_purity(joint)
        figures["pnmi"] = measures.pnmi(joint)
    return figures


def _speakers(utterances: list[_Utterance]) -> dict[str, float | int]:
    known = [u for u in utterances if u.said("text") and u.said("speaker")]
    texts, speakers = ([u.said(name) for u in known] for name in ("text", "speaker"))
    return measures.compare_speakers([u.tokens for u in known], texts, speakers) if known else {}
