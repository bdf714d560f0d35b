"""The grid of frames: WavLM gives one feature vector every 20 ms of 16 kHz audio."""

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = 320
FRAMES_PER_SECOND = SAMPLE_RATE // SAMPLES_PER_FRAME
# Samples that one frame sees: the convolutions' receptive field.
RECEPTIVE_FIELD = 400


def num_frames(samples: int) -> int:
    """Frames, and so tokens, of a 16 kHz waveform: floor((n - 400) / 320) + 1, or 0 if shorter."""
    return max(0, (samples - RECEPTIVE_FIELD) // SAMPLES_PER_FRAME + 1)
