"""Tokens while someone speaks, and speech while tokens come: each chunk once, as one pass has it.

Each chunk of 4 frames goes through encoder and compressor once, with what they keep of the chunks
before; the tokens are those that the whole utterance would get in one pass. Latency is a chunk and
the 80 samples that its last frame sees past it: 85 ms, and the time to compute. The way back, from
tokens to sound, adds what the vocoder's windows overlap: see Vocoder.
"""

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME, num_frames
from tokenizer.codec.decoder import Decoding, limited
from tokenizer.encoder.causal_wavlm import CHUNKS_PER_BLOCK, CausalWavLM


class TokenStream:
    """One utterance's tokens, chunk by chunk.

    >>> stream = tokenizer.stream()
    >>> for samples in microphone:
    ...     use(stream.push(samples))
    >>> use(stream.finish())
    """

    def __init__(self, tokenizer) -> None:
        """tokenizer: a Tokenizer. Raises ValueError unless all of it is causal."""
        encoder, compression = tokenizer.encoder, tokenizer.compression
        if not isinstance(encoder, CausalWavLM):
            raise ValueError("the tokenizer's encoder is not causal: train a causal one")
        if compression is not None:
            config = compression.compressor.config
            if not config.causal:
                raise ValueError("the tokenizer's compressor is not causal: train a causal one")
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


class SpeechStream:
    """One utterance's speech, chunk by chunk, of its tokens.

    >>> speech = tokenizer.speech_stream()
    >>> for tokens in model:
    ...     play(speech.push(tokens))
    >>> play(speech.finish())
    """

    def __init__(self, decoding: Decoding) -> None:
        """Raises ValueError unless vocoder and decompressor are causal."""
        if decoding.vocoder is None:
            raise ValueError("the tokenizer has no vocoder: train one with jobs/train_vocoder.py")
        if not decoding.vocoder.config.causal:
            raise ValueError("the tokenizer's vocoder is not causal: train a causal one")
        if decoding.compression and not decoding.compression.decompressor.config.causal:
            raise ValueError("the tokenizer's decompressor is not causal: train a causal one")
        self.decoding = decoding
        self.waiting = decoding.codes_of(np.empty(0, np.int64))
        self.decompressor_state, self.vocoder_state = None, None
        self.heard = self.finished = False

    def push(self, tokens: np.ndarray) -> np.ndarray:
        """The next (t,) tokens → the samples that are now certain, (n,) float32 in [-1, 1].

        Raises ValueError for tokens that are none of the codebook's, or after finish().
        """
        if self.finished:
            raise ValueError("the stream is finished; begin another")
        self.waiting = torch.cat([self.waiting, self.decoding.codes_of(np.asarray(tokens))])
        whole = len(self.waiting) - len(self.waiting) % self.decoding.tokens_per_chunk
        return self._speech(whole, last=False) if whole else np.empty(0, np.float32)

    def finish(self) -> np.ndarray:
        """What is left: all pushes together then have the 320 T + 80 samples of decode()."""
        self.push(np.empty(0, np.int64))
        self.finished = True
        if not self.heard and not len(self.waiting):
            return np.empty(0, np.float32)
        return self._speech(len(self.waiting), last=True)

    @torch.inference_mode()
    def _speech(self, count: int, last: bool) -> np.ndarray:
        """Of the next `count` tokens, which are waiting."""
        features, self.waiting = self.waiting[:count], self.waiting[count:]
        self.heard = True
        compression = self.decoding.compression
        if compression:
            width = len(compression.mean)
            if count:
                features, self.decompressor_state = compression.next_features(
                    features, self.decompressor_state
                )
            else:
                features = features.new_empty(0, width)
        wave, self.vocoder_state = self.decoding.vocoder.stream(
            features[None], self.vocoder_state, last
        )
        return limited(wave[0]).cpu().numpy()
