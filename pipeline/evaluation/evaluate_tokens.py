"""Audio shards and their annotation → figures of a tokenizer's quality.

The tokens are made by the tokenize job itself, so that rejects, windows and batches are the same.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import ray

from pipeline.cluster.connect import connect
from pipeline.evaluation import measures
from pipeline.evaluation.abx import abx_errors
from pipeline.evaluation.abx_items import Item
from pipeline.evaluation.compare_precision import precision_figures
from pipeline.evaluation.fast_abx import fastabx_errors, fastabx_version
from pipeline.evaluation.phone_labels import PhoneLabels, metadata_text
from pipeline.evaluation.phone_scores import PhoneCounts
from pipeline.scores.bootstrap import ScoreInterval, mean_interval
from pipeline.settings import EncoderSettings, TokenizeSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard
from pipeline.shards.samples import read_samples
from pipeline.tokenize.job import open_output, tokenize
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.token_folder import TokenFolder, read_report
from tokenizer.storage.token_shards import TokenUtterance
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Labels may end up to this many frames before the audio does. Labels that end earlier are taken to
# belong to other audio.
FRAMES_BEYOND_LABELS = 2


@dataclass
class Evaluation:
    """What was measured of a tokenizer.

    tokenizer: its fingerprint. figures: {name: number, or None where it is undefined}. scores: of
    some figures, with intervals. utterances, speakers: what these are made of, {key or speaker:
    {name: value}}. left_out: {key of an utterance that is not in the figures: reason}. problems:
    why part of the input was not tokenized.
    """

    tokenizer: str
    figures: dict[str, float | int | str | None] = field(default_factory=dict)
    scores: dict[str, dict] = field(default_factory=dict)
    utterances: dict[str, dict[str, float]] = field(default_factory=dict)
    speakers: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add_score(self, name: str, values: dict[str, float], table: dict[str, dict]) -> None:
        """Add a figure that is the mean of these values, which go to the table."""
        interval = mean_interval(list(values.values()))
        self.figures.setdefault(name, interval.value)
        self.scores[name] = interval.record("", "")
        for key, value in values.items():
            table.setdefault(key, {})[name] = value


def check_keys(url: str, keys: set[str], shards: list[Shard]) -> None:
    """Raises UsageError unless a sample of the shards has one of the keys.

    url: the annotation file that the keys come from.
    """
    for shard in shards:
        try:
            with open_shard(shard) as stream:
                for sample in read_samples(stream):
                    if sample.audio is not None:
                        sample.audio.close()
                    if sample.key in keys:
                        return
        except Exception:  # the tokenize job reports a shard that cannot be read
            return
    raise UsageError(
        f"none of its {len(keys):,} keys, such as {min(keys)}, is in the input",
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
    compare_precision: bool = False,
) -> Evaluation:
    """Tokenize the shards as jobs/tokenize.py does, and measure the tokens.

    source: where the tokenizer came from, for run.json. output: folder or URL for the tokens; None
    uses a temporary folder. compare_precision: tokenize in the other precision too, and say how
    many tokens are equal. Raises UsageError when `output` cannot be used, and when it is None on a
    cluster of several nodes, which share no temporary folder.
    """
    evaluation = Evaluation(files.fingerprint)
    with scratch_folder() as scratch:
        run = open_output(
            output or str(scratch), files, source=source, settings=settings, inputs_root=inputs_root
        )
        if output is None:
            connect()
            if sum(node["Alive"] for node in ray.nodes()) > 1:
                raise UsageError(
                    "the cluster has several nodes",
                    "name a folder that all of them can reach",
                    value="(none)",
                    argument="output",
                )
        summary = tokenize(shards, run, encoder_settings)
        for name, why in summary["failed"].items():
            evaluation.problems.append(f"shard {name} failed: {why}; it is not in the figures")
        # An OUTPUT that existed before may contain other shards too.
        names = [shard.name for shard in shards if shard.name not in summary["failed"]]
        for name in sorted(set(names) & set(summary["incomplete_shards"])):
            evaluation.problems.append(f"shard {name} is incomplete: its tar is broken")
        rejected = _rejected(run.folder, set(names))
        utterances = _distinct(_read_tokens(run.folder.url, names), evaluation)
        compared: dict[str, float | int | str | None] = {}
        if compare_precision:
            compared, problems = precision_figures(
                [shard for shard in shards if shard.name in names],
                run,
                source=source,
                inputs_root=inputs_root,
                encoder_settings=encoder_settings,
            )
            evaluation.problems.extend(problems)
    evaluation.left_out.update((row["key"], f"rejected: {row['reason']}") for row in rejected)
    if not utterances:
        evaluation.problems.append("no utterance of the input could be tokenized")
        return evaluation
    figures = evaluation.figures
    figures["samples_rejected"] = len(rejected)
    figures.update(_codebook_figures(utterances, files))
    figures.update(compared)
    codes = {u.key: np.repeat(u.tokens, files.frames_per_token) for u in utterances}
    if phones is not None:
        speakers = {u.key: _speaker(u) for u in utterances}
        _count_phones(codes, files, labels=phones, evaluation=evaluation, speakers=speakers)
    figures.update(_speaker_figures(utterances))
    if items is not None:
        device = encoder_settings.device
        _add_abx(evaluation, items, codes, files=files, device=device)
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            figures[name] = None
    return evaluation


def _rejected(folder: Folder, names: set[str]) -> list[dict]:
    tables = (read_report(folder, name, ["key", "status", "reason"]) for name in sorted(names))
    rows = (row for table in tables for row in table.to_pylist())
    return [row for row in rows if row["status"] == "rejected"]


def _read_tokens(url: str, names: list[str]) -> Iterator[TokenUtterance]:
    """The utterances of token shards, in order."""
    if names:
        tokens = TokenFolder.open(url)
        for name in names:
            yield from tokens.read(name)


def _distinct(utterances: Iterator[TokenUtterance], evaluation: Evaluation) -> list[TokenUtterance]:
    """Utterances whose key is in one shard only: annotation names the key, not the shard."""
    of_key: dict[str, TokenUtterance] = {}
    for utterance in utterances:
        if utterance.key in of_key:
            evaluation.left_out[utterance.key] = "two shards have this key"
        of_key[utterance.key] = utterance
    return [u for u in of_key.values() if u.key not in evaluation.left_out]


def _codebook_figures(
    utterances: list[TokenUtterance], files: TokenizerFiles
) -> dict[str, float | int]:
    counts = np.zeros(files.codebook_size, np.int64)
    for utterance in utterances:
        counts += np.bincount(utterance.tokens, minlength=files.codebook_size)
    seconds = sum(utterance.about["duration_s"] for utterance in utterances)
    entropy = measures.entropy(counts)
    tokens_per_second = FRAMES_PER_SECOND / files.frames_per_token
    return {
        "utterances_tokenized": len(utterances),
        "audio_hours": seconds / 3600,
        "tokens": int(counts.sum()),
        "tokens_per_second": tokens_per_second,
        "codebook_size": files.codebook_size,
        "active_codes": int((counts > 0).sum()),
        "code_usage": float((counts > 0).mean()),
        "codebook_perplexity": math.exp(entropy),
        "normalized_entropy": entropy / math.log(files.codebook_size),
        "bitrate": tokens_per_second * math.log2(files.codebook_size),
        "entropy_bitrate": float(counts.sum()) / seconds * entropy / math.log(2),
    }


def _count_phones(
    codes_of_key: dict[str, np.ndarray],
    files: TokenizerFiles,
    labels: PhoneLabels,
    evaluation: Evaluation,
    speakers: dict[str, str],
) -> None:
    """Add to the evaluation what the phone labels say.

    codes_of_key: {key: (T,) the code of each frame}. speakers: {key: speaker}, "" if unknown.
    """
    counts = PhoneCounts((len(labels.phones), files.codebook_size))
    unlabelled = 0
    for key, codes in codes_of_key.items():
        if key not in labels.of_key:
            unlabelled += 1
            continue
        label_ms, phones = labels.of_key[key]
        places = measures.label_indices(len(codes), label_ms)
        places = places[places < len(phones)]
        # The last token may cover fewer frames than the others. Left padding adds up to 2 frames.
        beyond = (
            FRAMES_BEYOND_LABELS + files.frames_per_token - 1 + (2 if files.left_padding else 0)
        )
        if len(places) < len(codes) - beyond:
            evaluation.left_out[key] = f"its labels end after {len(places)} of {len(codes)} frames"
            continue
        counts.add(key, phones[places], codes[: len(places)], speaker=speakers[key])
    evaluation.figures.update(
        {
            "utterances_scored": len(counts.phones),
            "frames_scored": int(counts.joint.sum()),
            "phones": int((counts.joint.sum(1) > 0).sum()),
            "audio_without_labels": unlabelled,
            "labels_without_audio": len(labels.of_key.keys() - codes_of_key.keys()),
        }
    )
    if counts.joint.any():
        evaluation.figures.update(counts.pooled())
        for name, of_key in counts.parts().items():
            evaluation.add_score(name, of_key, evaluation.utterances)
        if of_speaker := counts.by_speaker():
            evaluation.add_score("pnmi_by_speaker", of_speaker, evaluation.speakers)


def _speaker_figures(utterances: list[TokenUtterance]) -> dict[str, float | int]:
    codes, texts, speakers = [], [], []
    for utterance in utterances:
        text, speaker = metadata_text(utterance.about["metadata"], "text"), _speaker(utterance)
        if text and speaker:
            codes.append(utterance.tokens)
            texts.append(text)
            speakers.append(speaker)
    return measures.compare_speakers(codes, texts, speakers) if codes else {}


def _speaker(utterance: TokenUtterance) -> str:
    return metadata_text(utterance.about["metadata"], "speaker")


def _add_abx(
    evaluation: Evaluation,
    items: list[Item],
    codes: dict[str, np.ndarray],
    files: TokenizerFiles,
    device: str,
) -> None:
    """codes: {key: (T,) the code of each frame}. Intervals are ours with either source."""
    centroids, version = files.weights["codebook.codes"].numpy(), fastabx_version()
    errors = ours = abx_errors(items, codes, centroids)
    if version is not None:
        errors = fastabx_errors(items, codes, centroids, device=device)
    source = "wavmill" if version is None else f"fastabx {version}"
    for name in ("within", "across"):
        value, own = getattr(errors, name).value, getattr(ours, name)
        evaluation.figures[f"abx_{name}"] = value
        score = ScoreInterval(value, own.low, own.high, count=own.count)
        evaluation.scores[f"abx_{name}"] = score.record("", source)
    evaluation.figures.update({**errors.counts, "abx_source": source})
