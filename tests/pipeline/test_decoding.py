"""Figures of decoded speech: at any rate of the vocoder."""

from dataclasses import replace

import numpy as np
import soxr
from conftest import SPEECH

from pipeline.evaluation.evaluate_decoding import SoundFigures
from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

TOKENIZER = PRETRAINED / "wavlm-tiny-km1024"


def test_speech_at_another_rate_is_measured_at_16_khz(monkeypatch):
    """The original itself, resampled to 24 kHz, is near to the original."""
    files = TokenizerFiles.read(TOKENIZER)
    shape = {"head": "linear", "samples_per_frame": 480, "margin": 0, "limiter": False}
    vocoder = Vocoder(VocoderConfig(width=files.width, hidden=16, layers=1, **shape))
    files = replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())
    tokenizer = Tokenizer(files)
    (shard,) = find_shards([str(SPEECH / "speech-000000.tar")])[1]
    with open_shard(shard) as stream:
        wave = next(u.waveform for _, u, _ in read_utterances(stream, 1 << 20) if u)
    tokens = tokenizer.encode(wave)
    level = LEVEL / wave.std()
    sound = soxr.resample(level * wave, 16_000, 24_000)
    monkeypatch.setattr(tokenizer, "decode", lambda tokens: sound)
    figures = SoundFigures(tokenizer)
    figures.add(wave, tokens)
    parts = {name: np.sum(up) / np.sum(by) for name, (up, by) in figures.parts().items()}
    assert parts["log_mel_distance"] < 0.05 and parts["tokens_back"] > 0.95
