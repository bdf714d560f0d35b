"""A tokenizer at work: speech → tokens, and with a vocoder back; whole utterances, or a stream."""

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.decoding import measure, resample
from tokenizer.audio.frames import SAMPLE_RATE, num_frames
from tokenizer.audio.windows import Windowing
from tokenizer.codec.codebook import Codebook
from tokenizer.codec.compression import Compression
from tokenizer.codec.decoder import Decoding
from tokenizer.config import MFCCConfig
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.encoder.mfcc import MFCC
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.tokenizer_files import TokenizerFiles, encoder_weights
from tokenizer.stream import SpeechStream, TokenStream

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# On a CPU one pass takes about this many frames: enough rows for the matrix kernels, few enough
# that a layer's activations stay in cache. What is computed for an utterance does not change.
CPU_FRAMES_PER_PASS = 1024
# Centring trusts a window's mean as if it came after this many frames of the average voice: the
# mean of half a second is of the word that was said, that of ten seconds of who said it.
AVERAGE_FRAMES = 50


class Tokenizer:
    """Speech in, tokens out; and with a vocoder back.

    >>> tokenizer = Tokenizer(TokenizerFiles.read("out/tokenizer"))
    >>> tokens = tokenizer.encode(waveform, sample_rate=44_100)
    >>> speech = tokenizer.decode(tokens)
    """

    def __init__(
        self, files: TokenizerFiles, device: torch.device | str = "cpu", precision: str = "fp32"
    ) -> None:
        """precision: "fp32" or "bf16", of the encoder; the codebook lookup is always fp32.

        Without a codebook in `files` it gives features only.
        """
        self.device = torch.device(device)
        self.normalize = files.encoder.normalize
        self.frames_per_token, self.past_and_chunk = files.frames_per_token, files.past_and_chunk
        if isinstance(files.encoder, MFCCConfig):
            self.encoder = MFCC(files.encoder, device)
        else:
            weights = encoder_weights(files.weights)
            wavlm = CausalWavLM if files.encoder.causal else WavLM
            self.encoder = wavlm(files.encoder, weights, device, PRECISIONS[precision])
        self.center = files.weights.get("center")
        if self.center is not None:
            self.center = self.center.to(self.device, torch.float32)
        self.compression = None
        if files.compressor:
            self.compression = Compression(
                files.compressor, files.weights, device=device, dtype=PRECISIONS[precision]
            )
        if files.codebook_size:
            self.codebook = Codebook(
                files.weights["codebook.codes"],
                files.metric,
                device=device,
                projection=files.weights.get("codebook.projection"),
            )
            self.decoding = Decoding(files, device, self.compression)
        self.token_dtype = np.uint16 if files.codebook_size <= 1 << 16 else np.uint32

    def encode(
        self,
        waveform: np.ndarray | Tensor,
        sample_rate: int = SAMPLE_RATE,
        window_seconds: float = 30.0,
        context_seconds: float = 2.0,
    ) -> np.ndarray:
        """Tokens of one utterance, as jobs/tokenize.py makes them.

        waveform: (n,) mono, any real dtype in [-1, 1]. Returns (T,) uint16 (uint32 over 65,536
        codes), T = floor((n at 16 kHz - 400) / 320) + 1, or that many frames over frames_per_token,
        rounded up. Raises ValueError for under 400 samples.
        """
        mono = np.ascontiguousarray(waveform, dtype=np.float32)
        if mono.ndim != 1:
            raise ValueError(f"waveform has shape {mono.shape}; one channel, (n,), is needed")
        blocks = list(resample([mono], sample_rate))
        utterance = measure(blocks, keep_samples=sum(map(len, blocks)))
        if not utterance.num_frames:
            raise ValueError("the waveform has fewer than 400 samples at 16 kHz")
        windowing = Windowing.of_seconds(
            window_seconds,
            context_seconds,
            self.normalize,
            self.frames_per_token,
            *self.past_and_chunk,
        )
        plan = windowing.plan(utterance.num_frames)
        tokens = [
            self.encode_windows([wave])[0][window.kept_tokens(self.frames_per_token)]
            for wave, window in zip(windowing.cut(utterance, plan), plan, strict=True)
        ]
        return np.concatenate(tokens)

    def stream(self) -> TokenStream:
        """Tokens of one utterance chunk by chunk, while it is spoken; see TokenStream.

        Raises ValueError unless encoder and compressor are causal and nothing is centred.
        """
        return TokenStream(self)

    def speech_stream(self) -> SpeechStream:
        """Speech of one utterance chunk by chunk, while its tokens come; see SpeechStream.

        Raises ValueError unless there is a vocoder, and it and the decompressor are causal.
        """
        return SpeechStream(self.decoding)

    def encode_windows(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """Tokens of each 16 kHz waveform, normalised already where the encoder wants it."""
        return [
            tokens.cpu().numpy().astype(self.token_dtype)
            for features in self._features(waves)
            for tokens in self.codebook.nearest(torch.cat(features)).split(
                [len(rows) for rows in features]
            )
        ]

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Speech that a vocoder makes of (T',) tokens, as jobs/detokenize.py does.

        Returns (320 T + 80,) float32 in [-1, 1] at 16 kHz, T = T' · frames_per_token, at about -23
        dBFS however loud the original was. Raises ValueError for tokens outside the codebook, and
        without a vocoder.
        """
        return self.decoding.waveform(tokens)

    def decode_features(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        """(T',) tokens of each utterance → (T' · frames_per_token, D) fp32: what they stand for.

        Centroids, of directions in units of sqrt(D); or what the decompressor makes of the codes.
        Raises ValueError for tokens outside the codebook.
        """
        return [rows.cpu().numpy() for rows in self.decoding.features(tokens)]

    def features(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """(T, D) fp32 features, or latents, of each waveform: what the codebook is of."""
        return [
            rows.float().cpu().numpy() for features in self._features(waves) for rows in features
        ]

    def _features(self, waves: list[np.ndarray]):
        for batch in passes(waves, CPU_FRAMES_PER_PASS if self.device.type == "cpu" else None):
            features = self.encoder([torch.from_numpy(wave) for wave in batch])
            if self.center is not None:
                features = [centred(rows, self.center) for rows in features]
            if self.compression is not None:
                features = self.compression.latents(features)
            yield features


def centred(features: Tensor, center: Tensor) -> Tensor:
    """Move the mean of a window's features to that of all speech; (T, D) → (T, D) fp32.

    The mean is mostly of voice and channel: without it more of the codes are of phones (van Niekerk
    et al. 2021, arXiv 2108.00917). It counts T / (T + 50), so that a short word keeps its sounds.
    """
    features = features.float()
    share = len(features) / (len(features) + AVERAGE_FRAMES)
    return features - share * (features.mean(0) - center)


def passes(waves: list[np.ndarray], frames_per_pass: int | None) -> list[list[np.ndarray]]:
    """Cut a batch into consecutive passes of about this many frames; None keeps it whole."""
    if frames_per_pass is None:
        return [waves] if waves else []
    batches, frames = [], frames_per_pass
    for wave in waves:
        if frames + num_frames(len(wave)) > frames_per_pass:
            batches.append([])
            frames = 0
        batches[-1].append(wave)
        frames += num_frames(len(wave))
    return batches
