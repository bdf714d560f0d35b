"""Crops of audio: every utterance once a pass, and any reader continues where it was."""

import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SPEECH

from pipeline.settings import CropSettings
from pipeline.shards.inputs import find_shards
from pipeline.training import crops
from pipeline.training.crop_stream import CropStream
from pipeline.training.crops import UNCHANGED_SOUND, Crops
from pipeline.training.train_vocoder import encoder_input
from tokenizer.config import VocoderConfig


def shards() -> list:
    """The audio shards of tests/speech."""
    return find_shards([str(SPEECH)])[1]


@pytest.fixture
def short_segments(monkeypatch):
    """A segment is one shard; its buffer is smaller than that."""
    monkeypatch.setattr(crops, "BUFFER_PIECES", 20)
    monkeypatch.setattr(crops, "SEGMENT_PIECES", 1)
    monkeypatch.setattr(crops, "SHARDS_AT_ONCE", 1)


def some_crops(**more) -> Crops:
    """Rows of a second, with nothing done to them but masks."""
    settings = CropSettings(rows=2, frames=50, mask_share=0.3, mask_span=4, **UNCHANGED_SOUND)
    return Crops(shards(), None, noises=[], settings=settings, seed=[5, 0], **more)


def assert_equal_batches(some, others) -> None:
    for one, other in zip(some, others, strict=True):
        assert all(torch.equal(*parts) for parts in zip(one, other))


def test_a_reader_continues_within_a_segment_and_after_it(short_segments):
    whole = list(islice(some_crops().read(0, 1, position=(0, 0)), 100))
    positions = [position for position, _ in whole]
    assert len({first_shard for first_shard, _ in positions}) > 2  # segments
    waves = [batch[0] for _, batch in whole]
    assert not any(torch.equal(waves[0], other) for other in waves[1:])
    for first in range(1, 97, 5):
        again = some_crops().read(first, 1, position=positions[first - 1])
        for (position, batch), (expected, other) in zip(islice(again, 3), whole[first:]):
            assert position == expected
            assert_equal_batches([batch], [other])


def test_a_pass_has_every_utterance_once(short_segments, monkeypatch):
    labelled = Crops.labelled
    opened: list[str] = []

    def noted(self, shard):
        opened.append(shard.name)
        for number, (_, labels) in enumerate(labelled(self, shard)):
            # A wave that says which utterance of which shard it is, and fits into a row.
            frames = 20 + number % 5
            mark = 100 * len(opened) + number
            yield np.full(320 * frames, mark, np.float32), labels[:frames]

    monkeypatch.setattr(Crops, "labelled", noted)
    reader = crops._PieceReader(some_crops(), 0, (0, 0))
    seen = []
    while reader.first_shard < 2 * len(shards()):
        seen.append(float(next(reader)[0][0]))
    passes = [sorted(opened[i : i + 3]) for i in (0, 3)]
    assert passes[0] == passes[1] == sorted(shard.name for shard in shards())
    assert len(seen) == len(set(seen)) > 20


def test_readers_continue_with_the_batches_that_come_next():
    stream = CropStream(some_crops(), readers=2)
    whole = list(islice(stream, 6))
    again = CropStream(some_crops(), readers=2)
    middle = CropStream(some_crops(), readers=2)
    assert_equal_batches(islice(middle, 3), whole[:3])
    again.load_state_dict(json.loads(json.dumps(middle.state_dict())))
    assert_equal_batches(islice(again, 3), whole[3:])
    assert again.state_dict() == stream.state_dict()


@pytest.mark.parametrize("rate", [24_000, 22_050])
def test_crops_at_another_rate_are_the_same_sound(rate):
    """And what a vocoder's training makes of them for the encoder is that sound at 16 kHz."""
    vocoder = VocoderConfig(width=8, head="linear", samples_per_frame=rate // 50, margin=0)
    run = SimpleNamespace(
        settings=SimpleNamespace(vocoder=vocoder, frames=50), files=SimpleNamespace(left_padding=0)
    )
    pairs = zip(some_crops().batches(), some_crops(sample_rate=rate).batches())
    for (waves, *_), (resampled, *_) in islice(pairs, 3):
        assert resampled.shape[1] == rate + 80 * rate // 16_000
        for wave, row in zip(waves.numpy(), resampled.numpy()):
            encoded = encoder_input(row, run)
            assert encoded.shape == wave.shape and not encoded[-80:].any()
            # But for the filters' edge under 8 kHz, and where pieces meet.
            assert np.square(encoded - wave).mean() < 1e-3
            run.files.left_padding = 399
            padded = encoder_input(row, run)
            assert len(padded) == 399 + 16_000 and (padded[:400] == encoded[0]).all()
            assert np.array_equal(padded[399:], encoded[:-80])
            run.files.left_padding = 0
