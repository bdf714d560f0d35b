"""The grid of frames: WavLM gives one feature vector every 20 ms of 16 kHz audio."""

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = 320
FRAMES_PER_SECOND = SAMPLE_RATE // SAMPLES_PER_FRAME
# Samples that one frame sees: the convolutions' receptive field.
RECEPTIVE_FIELD = 400
# With replicate padding, this many copies of an utterance's first sample are put in front of it.
# Its frame t then covers samples [320 t - 399, 320 t], and n samples have ceil(n / 320) frames.
LEFT_PADDING = RECEPTIVE_FIELD - 1


def num_frames(samples: int) -> int:
    """Frames, and so tokens, of a 16 kHz waveform: floor((n - 400) / 320) + 1, or 0 if shorter."""
    return max(0, (samples - RECEPTIVE_FIELD) // SAMPLES_PER_FRAME + 1)
