"""jobs/evaluate.py tokens: figures of tokens and of what they decode to, files, unusable flags."""

import io
import json
import math
import re
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ONE_THREAD, SPEECH, as_flags, read_tokens, run_here, run_job
from refusals import assert_refused

from pipeline.evaluation import abx, abx_items, measures
from pipeline.evaluation.evaluate_decoding import FeatureFigures
from pipeline.evaluation.fast_abx import fastabx_errors, fastabx_version
from pipeline.evaluation.phone_labels import read_item_file, read_phones
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig
from tokenizer.errors import UsageError
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

HEADER = " ".join(abx_items.HEADER)
ENCODER, TOKENIZER = PRETRAINED / "wavlm-tiny", PRETRAINED / "wavlm-tiny-km1024"

# Two speakers with one sentence, a second sentence of one of them, and an utterance without labels.
KEYS = ("awb-s00", "en-us-f4-s00", "awb-s01", "en-gb-s00")


@pytest.fixture(scope="module")
def places(tmp_path_factory, good):
    """input.tar with its phones.jsonl and triples.item, and broken files."""
    folder = tmp_path_factory.mktemp("evaluate")
    with tarfile.open(folder / "input.tar", "w") as tar:
        for path in sorted(SPEECH.glob("*.tar")):
            with tarfile.open(path) as source:
                for member in source:
                    if member.name.split(".")[0] in KEYS:
                        tar.addfile(member, source.extractfile(member))
        tar.addfile(noise := tarfile.TarInfo("noise.flac"), io.BytesIO(b""))
        assert noise.size == 0
    tokens = {}
    for path in (good.output / "shards").glob("*.tar"):
        tokens.update(read_tokens(path))
    labels, segments = [], [HEADER]
    for key in KEYS[:3]:
        length = len(tokens[key][0])
        phones = ["SIL"] * 40 + ["AA", "B"] * length
        # Labels may miss the last frame. Those that end earlier belong to other audio.
        end = 20 if key == "awb-s01" else 2 * length - 1
        labels.append({"key": key, "frame_ms": 10, "phones": phones[:end]})
        for start in range(0, 120, 20):
            phone, speaker = "AB"[start // 20 % 2], key.rpartition("-")[0]
            times = f"{start / 100} {(start + 20) / 100}"
            segments.append(f"{key} {times} {phone} p n {speaker}")
    labels.append({"key": "no-such-key", "frame_ms": 10, "phones": ["AA"]})
    lines = [json.dumps(label) + "\n" for label in labels]
    (folder / "phones.jsonl").write_text("".join(lines))
    (folder / "triples.item").write_text("\n".join(segments) + "\n")
    (folder / "other.jsonl").write_text(lines[-1])
    (folder / "broken.jsonl").write_text(lines[0] + '{"key": "x", "frame_ms": 10, "pho\n')
    (folder / "header.item").write_text("file onset offset phone\n")
    return folder


def table_of(stdout: str) -> dict[str, str]:
    """{figure: value as printed}."""
    rows = [line.split() for line in stdout.splitlines()[1:]]
    return {row[0]: row[1] for row in rows if row[0] not in ("left", "written")}


def test_the_job(tokenizer, places, good):
    file = places / "out" / "figures.json"
    flags = ("--input", places / "input.tar", "--tokenizer", tokenizer, "--json", file)
    labels = ("--phones", places / "phones.jsonl", "--abx", places / "triples.item")
    done = run_job("evaluate", "tokens", *flags, *labels, *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    for name in ("input", "problems", "tokenizer"):
        figures.pop(name)
    scores, parts = figures.pop("scores"), figures.pop("utterances")
    speakers, left_out = figures.pop("speakers"), figures.pop("left_out")
    # A tokenizer without a vocoder makes no sound to score.
    assert figures.pop("unscored") == {}
    assert left_out == {
        "noise": "rejected: not_audio",
        "awb-s01": f"its labels end after 10 of {left_out['awb-s01'].split()[-2]} frames",
    }
    assert "left out noise: rejected: not_audio" in done.stdout
    tokens = {}
    for path in (good.output / "shards").glob("*.tar"):
        tokens.update(read_tokens(path))
    scored = [tokens[key][0] for key in KEYS[:2]]
    frames, phones = [], []
    for sequence in scored:
        # Frame i has label 2 i + 1; the label of the last frame is missing.
        frames += sequence[:-1].tolist()
        phones += [0] * 20 + [1] * (len(sequence) - 21)
    joint = measures.joint_counts(np.array(phones), np.array(frames), (2, 128))
    assert figures["pnmi"] == pytest.approx(measures.pnmi(joint))
    assert figures["phone_purity"] == pytest.approx(measures.phone_purity(joint))
    assert figures["cluster_purity"] == pytest.approx(measures.cluster_purity(joint))
    for name in ("pnmi", "phone_purity", "cluster_purity"):
        assert np.mean([part[name] for part in parts.values()]) == pytest.approx(figures[name])
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]
        assert scores[name]["count"] == 2
    fastabx = fastabx_version()
    # Each of the two has a speaker of its own.
    assert figures["pnmi_by_speaker"] == pytest.approx(
        np.mean([speaker["pnmi_by_speaker"] for speaker in speakers.values()])
    )
    assert speakers.keys() == {"awb", "en-us-f4"}
    expected = {
        "samples_rejected": 1,
        "utterances_tokenized": 4,
        "utterances_scored": 2,
        "frames_scored": len(frames),
        "phones": 2,
        "audio_without_labels": 1,
        "labels_without_audio": 1,
        "codebook_size": 128,
        "bitrate": 350.0,
        "same_text_pairs": 3,
        "abx_segments": 18,
        "abx_segments_without_audio": 0,
        "abx_source": f"fastabx {fastabx}" if fastabx else "wavmill",
    }
    assert {name: figures[name] for name in expected} == expected
    everything = np.concatenate([tokens[key][0] for key in KEYS])
    entropy = measures.entropy(np.bincount(everything))
    assert figures["codebook_perplexity"] == pytest.approx(math.exp(entropy))
    seconds = sum(tokens[key][1]["duration_s"] for key in KEYS)
    rate = len(everything) / seconds * entropy / math.log(2)
    assert figures["entropy_bitrate"] == pytest.approx(rate)
    centroids = TokenizerFiles.read(tokenizer).weights["codebook.codes"].numpy()
    items = abx_items.read_items((places / "triples.item").read_text().splitlines())
    codes = {key: tokens[key][0] for key in KEYS}
    abx_of = fastabx_errors if fastabx else abx.abx_errors
    errors = abx_of(items, codes, centroids)
    for name, value in errors.counts.items():
        assert figures[name] == value
    for name, error in (("abx_within", errors.within), ("abx_across", errors.across)):
        assert figures[name] == pytest.approx(error.value)
        assert scores[name]["low"] <= error.value <= scores[name]["high"]
    table = table_of(done.stdout)
    assert table.keys() == figures.keys()
    for name, value in figures.items():
        shown = table[name].replace(",", "")
        if isinstance(value, str):
            assert shown == value
        else:
            assert float(shown) == pytest.approx(value, abs=0.06 if value >= 100 else 6e-5)
    assert not (places / "out" / ".partial").exists()


def test_tokens_that_are_there_are_measured_without_making_them(tokenizer, good):
    flags = ("--input", SPEECH, "--tokenizer", tokenizer, "--output", good.output)
    done = run_job("evaluate", "tokens", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((good.output / "summary.json").read_text())
    table = table_of(done.stdout)
    assert table["tokens"] == f"{summary['tokens']:,}"
    assert float(table["codebook_perplexity"]) == pytest.approx(
        summary["codebook"]["perplexity"], rel=1e-3
    )
    assert 0 < float(table["same_text_closer"]) < 1 and "pnmi" not in table


# (flags that replace the usable ones, what the line must contain). {p}: places.
UNUSABLE = {
    "no-tokenizer": ({"tokenizer": "{p}/nothing"}, "no such folder"),
    "no-labels": ({"phones": "{p}/nothing.jsonl"}, "cannot be read"),
    "labels-of-other-audio": ({"phones": "{p}/other.jsonl"}, "no-such-key"),
    "broken-line": ({"phones": "{p}/broken.jsonl"}, "line 2 is not JSON"),
    "item-header": ({"abx": "{p}/header.item"}, "line 1 is not the header"),
    "json-folder": ({"json": "{p}"}, "folder"),
}


def test_unusable_flags(tokenizer, places):
    usable = {"input": places / "input.tar", "tokenizer": tokenizer}
    for changes, expected in UNUSABLE.values():
        given = {name: value.format(p=places) for name, value in changes.items()}
        done = run_here("evaluate", "tokens", *as_flags({**usable, **given}))
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
        name, value = next(iter(changes.items()))
        assert f"--{name} {value.format(p=places)}" in lines[0] and expected in lines[0]


GOOD_LABELS = '{"key": "a", "frame_ms": 10, "phones": ["SIL"]}'
BROKEN_FILES = {
    "not-an-object": (read_phones, "[]", "line 1 has no string"),
    "no-key": (read_phones, '{"frame_ms": 10, "phones": []}', "line 1 has no string"),
    "no-time": (
        read_phones,
        '\n{"key": "a", "frame_ms": 0, "phones": []}',
        "line 2 has no positive number",
    ),
    "no-phones": (read_phones, '{"key": "a", "frame_ms": 10, "phones": [1]}', "line 1 has no list"),
    "twice": (read_phones, f"{GOOD_LABELS}\n{GOOD_LABELS}", "line 2 has the key"),
    "no-line": (read_phones, "", "no labels"),
    "no-text": (read_phones, b"\xff", "not UTF-8"),
    "no-header": (read_item_file, "", "no segments"),
    "no-segment": (read_item_file, f"{HEADER}\n", "no segments"),
    "field": (read_item_file, f"{HEADER}\na 0 1 A b c", "line 2 has 6 fields"),
    "times": (read_item_file, f"{HEADER}\na one 2 A b c s", "line 2 has times"),
    "infinite": (read_item_file, f"{HEADER}\na 0 inf A b c s", "line 2 has times"),
    "not-a-number": (read_item_file, f"{HEADER}\na nan 1 A b c s", "line 2 has times"),
    "backwards": (read_item_file, f"{HEADER}\na 2 1 A b c s", "line 2 has a segment"),
    "before-the-start": (read_item_file, f"{HEADER}\na -1 1 A b c s", "line 2 has a segment"),
}


@pytest.mark.parametrize("read, content, expected", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_named_with_its_line(tmp_path, read, content, expected):
    file = tmp_path / "file"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=f"^{re.escape(str(file))}: .*{expected}"):
        read(str(file))


def test_perfect_features_have_no_error_and_the_mean_frame_has_one():
    files = TokenizerFiles.read(TOKENIZER)
    random = np.random.default_rng(0)
    waves = [random.standard_normal(n).astype(np.float32) for n in (16_000, 9_000)]
    bare = {k: v for k, v in files.weights.items() if k.startswith("encoder.")}
    true = Tokenizer(replace(files, weights=bare)).features(waves)
    mean = np.concatenate(true).mean(0)
    for decoded, error, cosine in (
        (true, 0, 1),
        ([np.broadcast_to(mean, rows.shape).copy() for rows in true], 1, None),
    ):
        figures = FeatureFigures(files, ENCODER)
        for wave, rows in zip(waves, decoded):
            figures.add(wave, rows)
        found = {name: np.sum(up) / np.sum(by) for name, (up, by) in figures.parts().items()}
        np.testing.assert_allclose(found["feature_error"], error, atol=1e-4)
        assert found["top_cosine"] < 0.99 if cosine is None else found["top_cosine"] > 0.9999


def test_decoding_figures_of_the_job(tmp_path):
    files = TokenizerFiles.read(TOKENIZER)
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig(width=files.width, hidden=16, layers=1, feed_forward=16))
    speaking = replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())
    speaking.save(tmp_path / "speaking")
    done = run_job(
        *("evaluate", "tokens", "--input", SPEECH, "--tokenizer", tmp_path / "speaking"),
        *("--encoder", "wavlm-tiny", "--json", tmp_path / "figures.json", *ONE_THREAD),
        *("--scores", "none"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    # The codes were fitted to features of the same encoder, for other speech.
    assert 0.1 < figures["feature_error"] < 0.9 and 0.5 < figures["top_cosine"] < 1
    # A vocoder with random weights does not make speech.
    assert figures["log_mel_distance"] > 1 and figures["tokens_back"] < 0.3
    rows = figures["utterances"].values()
    for name in ("feature_error", "top_cosine", "log_mel_distance", "tokens_back"):
        score = figures["scores"][name]
        assert score["low"] <= score["value"] <= score["high"] and score["count"] == len(rows)
        up, by = (sum(row[f"{name}_{part}"] for row in rows) for part in ("sum", "count"))
        assert figures[name] == score["value"] == pytest.approx(up / by)
    assert "feature_error" in done.stdout and "tokens_back" in done.stdout


def test_another_encoder_is_refused(tmp_path):
    flags = ("evaluate", "tokens", "--input", SPEECH, "--tokenizer", TOKENIZER, "--encoder")
    assert_refused(run_here(*flags, SPEECH), "--encoder")
