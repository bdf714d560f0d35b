"""Tokens while someone speaks: samples in as they come, the tokens that are now certain out.

Each chunk of 4 frames goes through encoder and compressor once, with what they keep of the chunks
before; the tokens are those that the whole utterance would get in one pass. Latency is a chunk and
the 80 samples that its last frame sees past it: 85 ms, and the time to compute.
"""

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME, num_frames
from tokenizer.causal_wavlm import CHUNKS_PER_BLOCK, CausalWavLM


class TokenStream:
    """One utterance's tokens, chunk by chunk.

    >>> stream = tokenizer.stream()
    >>> for samples in microphone:
    ...     use(stream.push(samples))
    >>> use(stream.finish())
    """

    def __init__(self, tokenizer):
        """tokenizer: a Tokenizer. Raises ValueError unless all of it is causal."""
        encoder, compression = tokenizer.encoder, tokenizer.compression
        if not isinstance(encoder, CausalWavLM):
            raise ValueError("the tokenizer's encoder is not causal: train one with --causal")
        if compression is not None:
            config = compression.compressor.config
            if not config.causal:
                raise ValueError("the tokenizer's compressor is not causal: train with --causal")
            if encoder.config.chunk_frames % config.frames_per_token:
                raise ValueError("a chunk of the tokenizer's encoder is not of whole tokens")
        if tokenizer.center is not None:
            raise ValueError("the tokenizer centres features over an utterance, which has no end")
        self.tokenizer = tokenizer
        self.chunk_frames = encoder.config.chunk_frames
        self.waiting = np.empty(0, np.float32)
        self.encoder_state, self.compressor_state = None, None
        self.finished = False

    @property
    def latency_seconds(self) -> float:
        """From a chunk's first sample to the last that its tokens need: 0.085 for 4 frames."""
        past_chunk = RECEPTIVE_FIELD - SAMPLES_PER_FRAME
        return (self.chunk_frames * SAMPLES_PER_FRAME + past_chunk) / SAMPLE_RATE

    def push(self, samples: np.ndarray | Tensor) -> np.ndarray:
        """The next samples → the tokens that are now certain: of every chunk that is whole.

        samples: (n,) of any n, mono at 16 kHz in [-1, 1]. Returns (T,) of the tokenizer's
        token_dtype, often of none. Raises ValueError for another shape, or after finish().
        """
        if self.finished:
            raise ValueError("the stream is finished; begin another")
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"samples have shape {samples.shape}; one channel, (n,), is needed")
        self.waiting = np.concatenate([self.waiting, samples])
        frames = num_frames(len(self.waiting))
        return self._tokens(frames - frames % self.chunk_frames)

    def finish(self) -> np.ndarray:
        """The tokens of the last chunk, as far as it came. None at all for under 400 samples."""
        tokens = self.push(np.empty(0, np.float32))
        self.finished = True
        return np.concatenate([tokens, self._tokens(num_frames(len(self.waiting)))])

    def _tokens(self, frames: int) -> np.ndarray:
        """Of the next `frames` frames, which are waiting."""
        block = CHUNKS_PER_BLOCK * self.chunk_frames
        tokens = [np.empty(0, self.tokenizer.token_dtype)]
        while frames:
            count = min(block, frames)
            samples = (count - 1) * SAMPLES_PER_FRAME + RECEPTIVE_FIELD
            tokens.append(self._block(torch.from_numpy(self.waiting[:samples])))
            self.waiting = self.waiting[count * SAMPLES_PER_FRAME :]
            frames -= count
        return np.concatenate(tokens)

    def _block(self, wave: Tensor) -> np.ndarray:
        tokenizer = self.tokenizer
        latents, self.encoder_state = tokenizer.encoder.step(wave, self.encoder_state)
        if tokenizer.compression is not None:
            latents, self.compressor_state = tokenizer.compression.next_latents(
                latents, self.compressor_state
            )
        return tokenizer.codebook.nearest(latents).cpu().numpy().astype(tokenizer.token_dtype)
