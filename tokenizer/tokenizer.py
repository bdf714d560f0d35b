"""The Python API of a tokenizer: speech → tokens and, with a vocoder, back.

Whole utterances here; streams, chunk by chunk, in stream.py.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.arrays import utterance_of
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE, num_frames
from tokenizer.audio.windows import Windowing
from tokenizer.codec.centring import centred
from tokenizer.codec.codebook import Codebook
from tokenizer.codec.compression import Compression
from tokenizer.codec.decoder import Decoding
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import MFCCConfig
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.encoder.mfcc import MFCC
from tokenizer.encoder.wavlm import WavLM
from tokenizer.errors import UsageError
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.token_shards import token_dtype
from tokenizer.storage.tokenizer_files import TokenizerError, TokenizerFiles, encoder_weights
from tokenizer.stream import SpeechStream, TokenStream

if TYPE_CHECKING:
    from tokenizer.passes import DevicePasses

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# On a CPU a batch is encoded in passes of about this many frames: enough rows for the matrix
# kernels, few enough that a layer's activations stay in cache. Passes change no token.
CPU_FRAMES_PER_PASS = 1024


class Tokenizer:
    """Speech → tokens and, with a vocoder, back.

    >>> tokenizer = Tokenizer.from_pretrained("wavlm-tiny-d1024")
    >>> tokens = tokenizer.encode(waveform, sample_rate=44_100)
    >>> speech = tokenizer.decode(tokens)

    sample_rate: 16,000 Hz, of what the encoder gets; output_sample_rate: of decoded speech.
    frames_per_token: 1, 2 or 4 frames of 20 ms. tokens_per_second: 50, 25 or 12.5. codebook_size: 0
    without a codebook. fingerprint: SHA-256 of all that decides a token, as in config.json and
    run.json. encoder, codebook, compression, decoding, vocoder, center: its parts, None where the
    tokenizer has none. token_dtype: uint16, or uint32 over 65,536 codes. left_padding: how many
    copies of its first sample an utterance gets in front: 399 with replicate padding, else 0.
    device: where it runs.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self, files: TokenizerFiles, device: torch.device | str = "cpu", precision: str = "fp32"
    ) -> None:
        """precision: "fp32" or "bf16", of encoder and compressor; codebook and vocoder use fp32.

        Files without a codebook give features only. Raises UsageError for another precision.
        """
        if precision not in PRECISIONS:
            remedy = f"give one of {', '.join(PRECISIONS)}"
            raise UsageError("unknown precision", remedy, value=precision, argument="precision")
        self.device, dtype = torch.device(device), PRECISIONS[precision]
        self.normalize = files.encoder.normalize
        self.frames_per_token, self.past_and_chunk = files.frames_per_token, files.past_and_chunk
        self.left_padding = files.left_padding
        self.tokens_per_second = FRAMES_PER_SECOND / files.frames_per_token
        self.codebook_size, self.fingerprint = files.codebook_size, files.fingerprint
        self.token_dtype = token_dtype(files.codebook_size)
        self.encoder: WavLM | MFCC
        if isinstance(files.encoder, MFCCConfig):
            self.encoder = MFCC(files.encoder, self.device)
        else:
            wavlm = CausalWavLM if files.encoder.causal else WavLM
            weights = encoder_weights(files.weights)
            self.encoder = wavlm(files.encoder, weights, device=self.device, dtype=dtype)
        self.center = files.weights.get("center")
        if self.center is not None:
            self.center = self.center.to(self.device, torch.float32)
        self.compression: Compression | None = None
        if files.compressor:
            self.compression = Compression(
                files.compressor, files.weights, device=self.device, dtype=dtype
            )
        self.codebook: Codebook | None = None
        self.decoding: Decoding | None = None
        if files.codebook_size:
            self.codebook = Codebook(
                files.weights["codebook.codes"],
                files.metric,
                device=self.device,
                projection=files.weights.get("codebook.projection"),
            )
            self.decoding = Decoding(files, self.device, self.compression)
        self.passes: DevicePasses | None = None
        if isinstance(self.encoder, WavLM) and self.device.type == "cuda":
            from tokenizer.passes import device_passes  # torch.compile takes a second to import

            self.passes = device_passes(self)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder_or_url: str | PathLike[str],
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> "Tokenizer":
        """A tokenizer by the name of one that ships, a local folder, or a URL that fsspec opens.

        device, precision: as in __init__. Raises UsageError, with what to give instead, where there
        is no such folder or it holds no tokenizer.
        """
        given = str(name_or_folder_or_url)
        folder = fetch_folder(given, "a tokenizer")
        try:
            files = TokenizerFiles.read(folder)
        except TokenizerError as error:
            error.value, error.remedy = given, error.remedy or "give the folder of a tokenizer"
            raise
        return cls(files, device, precision)

    @property
    def vocoder(self) -> Vocoder | None:
        """What makes a waveform of features; None where the tokenizer has none."""
        return self.decoding.vocoder if self.decoding else None

    @property
    def output_sample_rate(self) -> int:
        """Of decoded speech, in Hz: the vocoder's, and 16,000 without one."""
        return self.decoding.sample_rate if self.decoding else SAMPLE_RATE

    def encode(
        self,
        waveform: np.ndarray | Tensor,
        sample_rate: int = SAMPLE_RATE,
        *,
        window_seconds: float = 30.0,
        context_seconds: float = 2.0,
    ) -> np.ndarray:
        """Tokens of one utterance: those that jobs/tokenize.py gives for the same sound.

        waveform: an array or a tensor on any device, (n,) mono or (n, channels), of which the mean
        is taken; float in [-1, 1] or int16. sample_rate: of the waveform, in Hz. Longer audio than
        a window is encoded in windows that overlap by twice the context.

        Returns (T,) uint16, or uint32 over 65,536 codes; T = floor((n at 16 kHz - 400) / 320) + 1
        or, of an encoder with replicate padding, ceil(n / 320), divided by frames_per_token and
        rounded up. Raises UsageError, a ValueError, for another type or shape, NaN or infinite
        samples, under 400 samples at 16 kHz, and a sample rate under 1,000 Hz.
        """
        self.needed_codebook()
        utterance = utterance_of(waveform, sample_rate)
        windowing = self.windowing(window_seconds, context_seconds)
        plan = windowing.plan_samples(utterance.samples)
        tokens = [
            self.encode_windows([wave])[0][window.kept_tokens(self.frames_per_token)]
            for wave, window in zip(windowing.cut(utterance, plan), plan, strict=True)
        ]
        return np.concatenate(tokens)

    def decode(self, tokens: np.ndarray | Tensor) -> np.ndarray:
        """The speech that the vocoder makes of (T',) tokens, as jobs/detokenize.py does.

        Returns (n,) float32 in [-1, 1] at output_sample_rate, at about -23 dBFS whatever the level
        of the original. With T = T' · frames_per_token, n is 320 T + 80 at 16 kHz, and 480 T at 24
        kHz; see Decoding. Raises UsageError for tokens outside the codebook, and without a vocoder.
        """
        return self.needed_decoding().waveform(tokens)

    def decode_features(self, tokens: Sequence[np.ndarray | Tensor]) -> list[np.ndarray]:
        """(T',) tokens of each utterance → (T' · frames_per_token, D) fp32 features of each.

        The decompressor's output or, without a compressor, the centroids; those of spherical
        k-means are scaled by sqrt(D). Raises UsageError for tokens outside the codebook.
        """
        return [rows.cpu().numpy() for rows in self.needed_decoding().features(tokens)]

    def features(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """(T, D) fp32 of each waveform: what the codebook quantises, before the lookup.

        The encoder's features, or (T', latent) latents with a compressor. waves: (n,) each, as in
        encode_windows.
        """
        if self.passes is not None:
            return self.passes.features(waves)
        return [
            rows.float().cpu().numpy() for features in self._features(waves) for rows in features
        ]

    def stream(self) -> TokenStream:
        """Tokens of one utterance chunk by chunk, while it is spoken; see TokenStream.

        Raises UsageError unless encoder and compressor are causal and features are not centred.
        """
        return TokenStream(self)

    def speech_stream(self) -> SpeechStream:
        """Speech of one utterance chunk by chunk, while its tokens come; see SpeechStream.

        Raises UsageError unless there is a vocoder, and it and the decompressor are causal.
        """
        return SpeechStream(self.needed_decoding())

    def windowing(self, window_seconds: float = 30.0, context_seconds: float = 2.0) -> Windowing:
        """How `encode` cuts long audio. Raises UsageError for windows that are too short."""
        past, chunk = self.past_and_chunk
        return Windowing.of_seconds(
            window_seconds=window_seconds,
            context_seconds=context_seconds,
            normalize=self.normalize,
            frames_per_token=self.frames_per_token,
            past=past,
            chunk=chunk,
            left_padding=self.left_padding,
        )

    def encode_windows(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """(T',) tokens of each waveform, of one window each.

        waves: (n,) float32 at 16 kHz, at least 400 samples; normalised where `normalize` says so,
        and with `left_padding` copies of an utterance's first sample in front, as Windowing.cut
        gives them.
        """
        codebook = self.needed_codebook()
        if self.passes is not None:
            return self.passes.start(waves).tokens()
        return [
            tokens.cpu().numpy().astype(self.token_dtype)
            for features in self._features(waves)
            for tokens in codebook.nearest(torch.cat(features)).split(
                [len(rows) for rows in features]
            )
        ]

    def start_windows(self, waves: list[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """Begin to encode, on a GPU; calling what it returns waits, and gives encode_windows'.

        A GPU computes a batch while the next one is being started, and copied to it.
        """
        if self.passes is not None:
            return self.passes.start(waves).tokens
        return partial(self.encode_windows, waves)

    def needed_codebook(self) -> Codebook:
        """The codebook. Raises UsageError where the tokenizer has none."""
        if self.codebook is None:
            raise _no_codebook()
        return self.codebook

    def needed_decoding(self) -> Decoding:
        """The way from tokens to speech. Raises UsageError where the tokenizer has no codebook."""
        if self.decoding is None:
            raise _no_codebook()
        return self.decoding

    def _features(self, waves: list[np.ndarray]) -> Iterator[list[Tensor]]:
        for batch in passes(waves, CPU_FRAMES_PER_PASS if self.device.type == "cpu" else None):
            features = self.encoder([torch.as_tensor(wave) for wave in batch])
            if self.center is not None:
                features = [centred(rows, self.center) for rows in features]
            if self.compression is not None:
                features = self.compression.latents(features)
            yield features


def _no_codebook() -> UsageError:
    return UsageError("this tokenizer has no codebook", "train one with jobs/train_tokenizer.py")


def passes(waves: list[np.ndarray], frames_per_pass: int | None) -> list[list[np.ndarray]]:
    """Split a batch into consecutive passes of at most this many frames; None does not split.

    A waveform that has more frames is a pass of its own.
    """
    if frames_per_pass is None:
        return [waves] if waves else []
    batches: list[list[np.ndarray]] = []
    frames = frames_per_pass
    for wave in waves:
        if frames + num_frames(len(wave)) > frames_per_pass:
            batches.append([])
            frames = 0
        batches[-1].append(wave)
        frames += num_frames(len(wave))
    return batches
