"""jobs/evaluate.py generation: both columns against direct calls, and the command from outside."""

import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import SPEECH, run_here, run_job
from lm_models import small_config, small_lm
from refusals import assert_refused_after_bar
from small_lm import write_tokens
from small_models import save_ctc, save_whisper, save_x_vector
from text_models import save_text_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm.continuation import continuation_seed
from lm.evaluation.generation_measures import auto_bleu, repeated_ngrams, same_as_before, self_bleu
from lm.files import read_lm, save_lm
from lm.generation import Generator
from lm.model import SpeechLM
from pipeline.scores.recognition import Recognizer
from tokenizer.codec.decoder import Decoding
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

LENGTHS = (150, 140, 180, 99, 130, 60)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """lm, of wavlm-tiny-d1024 and its vocoder; mute, of a tokenizer without one; imported, of none;
    tokens: six utterances of tests/speech, of which two are short; asr, whisper, x-vector and text.
    """
    folder = tmp_path_factory.mktemp("generation")
    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-d1024")
    torch.manual_seed(0)
    model = SpeechLM.from_tokenizer(small_config(codebook_size=1024, window=80), files)
    save_lm(folder / "lm", model, tokenizer=files, made_by={})
    mute = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
    model = SpeechLM.from_tokenizer(small_config(codebook_size=256), mute)
    save_lm(folder / "mute", model, tokenizer=mute, made_by={})
    save_lm(folder / "imported", small_lm(), tokenizer=None, made_by={})
    (folder / "speech").mkdir()
    tokenizer, said = Tokenizer(files), []
    with tarfile.open(SPEECH / "speech-000000.tar") as shard:
        sounds = [member for member in shard if member.name.endswith(".flac")]
        waves = [soundfile.read(shard.extractfile(member))[0] for member in sounds[:8]]
    whole = np.concatenate(waves)
    for number, length in enumerate(LENGTHS):
        wave = whole[number * 16_000 :][: 320 * length + 80]
        said.append(tokenizer.encode(wave))
        soundfile.write(folder / f"speech/voice-{number}.flac", wave, 16_000)
    write_tokens(folder / "tokens", said, codebook_size=1024, tokenizer=files.fingerprint)
    write_tokens(folder / "others", [np.arange(32)] * 3, codebook_size=32)
    save_ctc(folder / "asr")
    save_whisper(folder / "whisper")
    save_x_vector(folder / "x-vector")
    save_text_lm(folder / "text")
    return folder


def evaluated(run, places: Path, json_file: Path, *flags) -> dict:
    """The figures of a run that succeeds."""
    done = run("evaluate", "generation", *flags, "--json", json_file)
    assert done.returncode == 0, done.stderr
    return {**json.loads(json_file.read_text()), "said": done.stdout}


def direct_perplexity(folder: Path, text: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text.strip().lower(), add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[tokenizer.bos_token_id, *ids]])
    with torch.no_grad():
        return math.exp(float(model(input_ids=tokens, labels=tokens).loss))


def test_both_columns_are_what_direct_calls_give(places, tmp_path):
    figures = evaluated(
        run_here,
        places,
        tmp_path / "figures.json",
        *("--lm", places / "lm", "--prompt-tokens", places / "tokens/shards", "--seed", 3),
        *("--prompt-seconds", 1, "--seconds", 2, "--precision", "fp32", "--device", "cpu"),
        *("--asr", places / "asr", "--text-lm", places / "text", "--batch-size", 3),
        *("--speaker-model", places / "x-vector"),
    )
    assert figures["left_out"].keys() == {"u3", "u5"}
    assert "99 tokens" in figures["left_out"]["u3"]
    keys = ["u0", "u1", "u2", "u4"]
    assert list(figures["utterances"]) == list(figures["reference_utterances"]) == keys
    model, files = read_lm(places / "lm")
    generator, decoding, hear = Generator(model), Decoding(files), Recognizer(str(places / "asr"))
    said = {f"u{n}": tokens for n, tokens in enumerate(encoded(places))}
    drawn, perplexities, columns = {}, {}, {"scores": {}, "reference": {}}
    for key in keys:
        prompt, real = said[key][:50], said[key][50:150]
        seed = continuation_seed(3, key, 0)
        (drawn[key],) = generator.generate([prompt], len(real), [seed])
        for name, tokens in (("scores", drawn[key]), ("reference", real)):
            columns[name][key] = tokens
            wave = decoding.waveform(np.concatenate([prompt, tokens]))[50 * 320 :]
            (text,) = hear.texts([wave])
            assert text
            perplexities[name, key] = direct_perplexity(places / "text", text)
    for name, of_one in (("scores", "utterances"), ("reference", "reference_utterances")):
        column, one = figures[name], figures[of_one]
        for score, measure in (
            ("auto_bleu_2", auto_bleu),
            ("same_as_before", same_as_before),
            ("repeated_4grams", repeated_ngrams),
        ):
            values = [measure(columns[name][key]) for key in keys]
            assert [one[key][score] for key in keys] == pytest.approx(values)
            assert column[score]["value"] == pytest.approx(np.mean(values))
            assert column[score]["low"] <= column[score]["value"] <= column[score]["high"]
            assert column[score]["count"] == 4
        among = self_bleu([columns[name][key] for key in keys])
        assert column["self_bleu_2"]["value"] == pytest.approx(among.mean())
        vert = math.sqrt(among.mean() * column["auto_bleu_2"]["value"])
        assert column["vert_2"]["value"] == pytest.approx(vert)
        values = [perplexities[name, key] for key in keys]
        assert [one[key]["gen_ppl"] for key in keys] == pytest.approx(values, rel=1e-3)
        assert column["gen_ppl"]["value"] == pytest.approx(np.mean(values), rel=1e-3)
        assert 1 < column["gen_ppl_all_tokens"]["value"] < max(values)
        assert "GPT2LMHeadModel" in column["gen_ppl"]["model"]
        assert "Wav2Vec2ForCTC" in column["gen_ppl"]["model"]
        assert 0 <= column["silence"]["value"] <= 1
        assert 1 <= column["dnsmos_ovrl"]["value"] <= 5
        assert -100 <= column["speaker_similarity"]["value"] <= 100
    shown = {line.split()[0]: line for line in figures["said"].splitlines() if line}
    assert f"{figures['reference']['auto_bleu_2']['value']:.3f}" in shown["auto_bleu_2"]


def encoded(places: Path) -> list[np.ndarray]:
    tokenizer = Tokenizer(read_lm(places / "lm")[1])
    files = sorted((places / "speech").glob("*.flac"))
    return [tokenizer.encode(soundfile.read(file)[0]) for file in files]


def test_from_sound_with_several_continuations_saved(places, tmp_path):
    """Sound as prompts gives the same as its tokens; what is saved can be listened to."""
    common = ("--lm", places / "lm", "--prompt-seconds", 1, "--seconds", 1, "--samples", 2)
    common += ("--limit", 2, "--precision", "fp32")
    figures = evaluated(
        run_job,
        places,
        tmp_path / "figures.json",
        *(*common, "--prompt", places / "speech", "--save", tmp_path / "heard"),
        *("--asr", places / "whisper", "--text-lm", places / "text"),
        *("--speaker-model", places / "x-vector"),
    )
    assert list(figures["utterances"]) == ["voice-0", "voice-1"]
    saved = {path.name for path in (tmp_path / "heard").iterdir() if path.is_file()}
    parts = ("joined.wav", "wav", "tokens.npy")
    assert saved == {
        f"voice-{n}.{part}"
        for n in range(2)
        for part in ("real.wav", *(f"{k}.{part}" for k in (1, 2) for part in parts))
    }
    tokens = [np.load(tmp_path / f"heard/voice-0.{k}.tokens.npy") for k in (1, 2)]
    assert not np.array_equal(*tokens)
    value = np.mean([auto_bleu(one) for one in tokens])
    assert figures["utterances"]["voice-0"]["auto_bleu_2"] == pytest.approx(value)
    joined, rate = soundfile.read(tmp_path / "heard/voice-0.1.joined.wav")
    alone, _ = soundfile.read(tmp_path / "heard/voice-0.1.wav")
    real, _ = soundfile.read(tmp_path / "heard/voice-0.real.wav")
    assert len(joined) - len(alone) == rate and len(real) == len(alone)
    assert joined.any() and "WhisperFor" in figures["scores"]["gen_ppl"]["model"]
    # The same tokens as from a shard, but for the key, which decides the seed.
    again = evaluated(
        run_here,
        places,
        tmp_path / "tokens.json",
        *(*common, "--prompt-tokens", places / "tokens/shards", "--tokens-only"),
    )
    one, other = again["reference"], figures["reference"]
    assert one["auto_bleu_2"] == other["auto_bleu_2"] and "silence" not in one


# (flags after --lm, what the line must say). {p}: places.
UNUSABLE = {
    "imported": ("imported", "--prompt-tokens {p}/others/shards", "--tokens-only"),
    "imported-audio": ("imported", "--prompt {p}/speech --tokens-only", "no tokenizer for audio"),
    "mute": ("mute", "--prompt {p}/speech", "no vocoder"),
    "too-short": ("lm", "--prompt {p}/speech --prompt-seconds 9", "no utterance is long enough"),
    "text-without-asr": ("lm", "--prompt {p}/speech --text-lm {p}/text", "--asr"),
    "asr-without-sound": ("lm", "--prompt {p}/speech --asr {p}/asr --tokens-only", "--tokens-only"),
    "no-text-lm": ("lm", "--prompt {p}/speech --asr {p}/asr --text-lm {p}/asr", "Wav2Vec2ForCTC"),
    "no-asr": ("lm", "--prompt {p}/speech --asr {p}/text", "GPT2LMHeadModel"),
    "over-prompts": ("lm", "--prompt {p}/speech --save {p}/speech", "a prompt lies in it"),
    "least": ("lm", "--prompt {p}/speech --least-seconds 20", "no continuation is longer"),
    "other-tokens": ("lm", "--prompt-tokens {p}/others/shards --tokens-only", "no tokenizer"),
}


@pytest.mark.parametrize("model, flags, said", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_flags(places, model, flags, said):
    flags = flags.format(p=places).split()
    done = run_here("evaluate", "generation", "--lm", places / model, *flags)
    assert_refused_after_bar(done, said)


def test_tokens_alone_need_no_tokenizer(places, tmp_path):
    figures = evaluated(
        run_here,
        places,
        tmp_path / "figures.json",
        *("--lm", places / "imported", "--prompt-tokens", places / "others/shards"),
        *("--prompt-seconds", 0.2, "--seconds", 0.4, "--least-seconds", 0.1, "--tokens-only"),
    )
    assert figures["reference"]["auto_bleu_2"]["value"] == 0
    assert figures["reference"]["self_bleu_2"]["value"] == 1
    assert not figures["left_out"] and figures["scores"]["auto_bleu_2"]["count"] == 3
