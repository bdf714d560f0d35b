"""The Python API: `from tokenizer import Tokenizer`, by name, folder or URL, on any array.

Tokens are compared with those of jobs/tokenize.py; each refusal has its message.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import uuid
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from conftest import ONE_THREAD, ROOT, read_tokens, run_job
from models import distilled, small_tokenizer
from tars import waves

from tokenizer import Tokenizer
from tokenizer.config import FocalConfig
from tokenizer.errors import UsageError
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerError, TokenizerFiles

NAME = "wavlm-tiny-d1024"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(NAME)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Eight seconds of the shipped speech, (128000,) int16 at 16 kHz."""
    return np.concatenate(waves(dtype="int16"))[:128_000]


def test_importing_the_package_loads_nothing_heavy():
    """Not even PyTorch; and the tokenizer at work needs neither Ray, FAISS nor transformers."""
    program = """
import sys
def loaded(*names): return [name for name in names if name in sys.modules]
import tokenizer
assert not loaded("torch", "numpy", "soundfile", "ray", "faiss", "transformers"), loaded
from tokenizer import Tokenizer
Tokenizer.from_pretrained("wavlm-tiny-d1024").decode([1, 2, 3])
assert "torch" in sys.modules
assert not loaded("ray", "faiss", "transformers", "pyarrow", "webdataset", "lm", "pipeline")
try:
    tokenizer.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'tokenizer' has no attribute 'nothing'\n"


def test_a_name_a_folder_and_a_url_give_one_tokenizer(tokenizer, speech, tmp_path):
    shutil.copytree(PRETRAINED / NAME, tmp_path / "mine")
    url = f"memory://{uuid.uuid4().hex}/tokenizer"
    fsspec.filesystem("memory").put(str(tmp_path / "mine") + "/", url, recursive=True)
    tokens = tokenizer.encode(speech)
    for where in (tmp_path / "mine", str(tmp_path / "mine"), url):
        other = Tokenizer.from_pretrained(where, device="cpu", precision="fp32")
        assert other.fingerprint == tokenizer.fingerprint
        assert np.array_equal(other.encode(speech), tokens)
    half = Tokenizer.from_pretrained(NAME, precision="bf16").encode(speech)
    assert half.shape == tokens.shape and np.mean(half == tokens) > 0.8

    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"wavlm-tiny-d1025.*wavlm-tiny-d1024"):
        Tokenizer.from_pretrained("wavlm-tiny-d1025")
    with pytest.raises(UsageError, match="no such folder"):
        Tokenizer.from_pretrained(tmp_path / "nothing" / "here")
    with pytest.raises(TokenizerError, match=r"empty.*config\.json.*give"):
        Tokenizer.from_pretrained(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"precision fp16.*fp32, bf16"):
        Tokenizer.from_pretrained(NAME, precision="fp16")


def test_attributes_say_what_there_is(tokenizer, tmp_path):
    assert (tokenizer.sample_rate, tokenizer.frames_per_token) == (16_000, 1)
    assert (tokenizer.tokens_per_second, tokenizer.codebook_size) == (50, 1024)
    assert tokenizer.fingerprint == TokenizerFiles.read(PRETRAINED / NAME).fingerprint
    assert tokenizer.codebook.size == 1024 and tokenizer.compression is not None
    assert tokenizer.vocoder is tokenizer.decoding.vocoder is not None
    assert tokenizer.center is None
    files = small_tokenizer(tmp_path)
    shape = FocalConfig(width=64, latent=8, hidden=(16, 16), factors=(2, 2))
    slow = Tokenizer(distilled(files, shape))
    assert (slow.frames_per_token, slow.tokens_per_second, slow.vocoder) == (4, 12.5, None)

    plain = Tokenizer(files)
    assert plain.compression is plain.vocoder is plain.center is None
    for call in (lambda: plain.decode([1]), plain.speech_stream):
        with pytest.raises(UsageError, match=r"no vocoder; train one with jobs/train_vocoder\.py"):
            call()
    with pytest.raises(UsageError, match="encoder is not causal"):
        plain.stream()
    with pytest.raises(UsageError, match=r"tokens: 64 is among them.* 0 to 63"):
        plain.decode_features([torch.tensor([3, 64])])

    weights = {k: v for k, v in files.weights.items() if k != "codebook.codes"}
    untrained = Tokenizer(replace(files, weights=weights))
    assert untrained.codebook is untrained.decoding is untrained.vocoder is None
    assert untrained.codebook_size == 0 and len(untrained.features([np.ones(800, np.float32)])[0])
    for call in (
        lambda: untrained.encode(np.zeros(16_000)),
        lambda: untrained.encode_windows([np.ones(800, np.float32)]),
        lambda: untrained.decode([1]),
        lambda: untrained.decode_features([[1]]),
        untrained.speech_stream,
    ):
        with pytest.raises(UsageError, match=r"no codebook; train one with jobs/train_tokenizer"):
            call()


def test_arrays_of_every_kind_give_the_tokens_of_the_sound(tokenizer, speech):
    expected = tokenizer.encode(speech)
    assert expected.dtype == np.uint16 and expected.shape == ((128_000 - 400) // 320 + 1,)
    as_float = speech / np.float32(32768)
    for same in (
        as_float,
        as_float.astype(np.float64),
        as_float[:, None],
        np.stack([speech] * 2, axis=1),
        np.asfortranarray(np.stack([speech, speech, speech], axis=1)),
        torch.from_numpy(speech),
        torch.from_numpy(as_float).double()[:, None].requires_grad_(),
        speech.astype(">i2"),
        np.repeat(speech, 2)[::2],
    ):
        assert np.array_equal(tokenizer.encode(same), expected)
    # Channels are averaged, not added or dropped.
    silent = np.stack([as_float, np.zeros_like(as_float)], axis=1)
    assert np.array_equal(tokenizer.encode(silent), tokenizer.encode(as_float / 2))
    assert np.array_equal(
        tokenizer.encode(speech, np.int64(44_100)), tokenizer.encode(speech, sample_rate=44_100)
    )
    back = tokenizer.decode(torch.from_numpy(expected.astype(np.int64)))
    assert np.array_equal(back, tokenizer.decode(expected))
    assert back.dtype == np.float32 and back.shape == (320 * len(expected) + 80,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_are_taken(speech):
    tokenizer = Tokenizer.from_pretrained(NAME, device="cuda")
    tokens = tokenizer.encode(torch.from_numpy(speech).cuda())
    assert np.array_equal(tokens, tokenizer.encode(speech))
    sound = tokenizer.decode(torch.from_numpy(tokens.astype(np.int64)).cuda())
    np.testing.assert_allclose(sound, tokenizer.decode(tokens), atol=1e-4)


def test_tokens_are_those_of_the_job(tokenizer, speech, tmp_path):
    """Bit by bit, for stereo at 44.1 kHz over several windows, for int16 and for float."""
    random = np.random.default_rng(0)
    long = np.tile(speech, 9)[:, None]
    stereo = (long * [0.7, 0.4] + random.normal(0, 50, (len(long), 2))).astype(np.int16)
    sounds = {
        "stereo": (stereo, 44_100, "PCM_16"),
        "float": ((stereo[:300_000, 0] / 32768).astype(np.float32), 8000, "FLOAT"),
    }
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for key, (samples, rate, subtype) in sounds.items():
            file = io.BytesIO()
            soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
            info = tarfile.TarInfo(f"{key}.wav")
            info.size = file.tell()
            file.seek(0)
            archive.addfile(info, file)
    flags = ("--input", tmp_path / "in", "--tokenizer", NAME, "--output", tmp_path / "out")
    windows = ("--window-seconds", 5, "--context-seconds", 1, "--precision", "fp32")
    done = run_job("tokenize", *flags, *windows, *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    theirs = read_tokens(next((tmp_path / "out" / "shards").rglob("*.tar")))
    assert theirs.keys() == sounds.keys()
    for key, (samples, rate, _) in sounds.items():
        ours = tokenizer.encode(samples, rate, window_seconds=5, context_seconds=1)
        assert np.array_equal(ours, theirs[key][0]) and len(np.unique(ours)) > 100


SECOND = np.zeros(16_000, np.float32)
REFUSED = {
    "empty": (SECOND[:0], 16_000, "waveform: it is empty; give at least 400 samples"),
    "no channels": (np.zeros((500, 0)), 16_000, "waveform: it is empty"),
    "short": (SECOND[:399], 16_000, "only 399 samples at 16 kHz; give at least 400"),
    "short at another rate": (SECOND[:1197], 48_000, "only 399 samples at 16 kHz"),
    "int32": (SECOND.astype(np.int32), 16_000, r"int32; give float in \[-1, 1\], or int16"),
    "uint8": (torch.zeros(16_000, dtype=torch.uint8), 16_000, "uint8"),
    "bool": (SECOND.astype(bool), 16_000, "bool"),
    "complex": (SECOND.astype(complex), 16_000, "complex128"),
    "text": (np.array(["sound"] * 500), 16_000, "<U5"),
    "transposed": (np.zeros((2, 16_000)), 16_000, r"16000 channels; give \(n, channels\)"),
    "a batch": (np.zeros((2, 16_000, 1)), 16_000, r"\(2, 16000, 1\); give \(n,\), or \(n, channe"),
    "a number": (np.float32(1), 16_000, r"its shape is \(\)"),
    "NaN": (np.where(np.arange(16_000) == 9, np.nan, 0), 16_000, "NaN or infinite"),
    "infinite": (torch.full((16_000, 2), -torch.inf), 16_000, "NaN or infinite"),
    "too large": (np.full(16_000, 1e300), 16_000, "NaN or infinite"),
    "rate 0": (SECOND, 0, "sample_rate 0: .*give a whole number of Hz"),
    "rate below 0": (SECOND, -16_000, "sample_rate -16000"),
    "rate of a file in kHz": (SECOND, 16, "sample_rate 16: .*at least 1000"),
    "rate a float": (SECOND, 16_000.0, r"sample_rate 16000\.0"),
    "rate a text": (SECOND, "16000", "sample_rate 16000"),
    "no rate": (SECOND, None, "sample_rate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_encode_refuses_with_a_reason_and_a_remedy(tokenizer, case):
    waveform, rate, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as refused:
        tokenizer.encode(waveform, rate)
    assert refused.value.remedy and isinstance(refused.value, ValueError)


def test_windows_that_are_too_short_are_refused(tokenizer):
    with pytest.raises(UsageError, match=r"window_seconds.*longer than its context"):
        tokenizer.encode(SECOND, window_seconds=1, context_seconds=0.5)
