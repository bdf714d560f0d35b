"""The vocoder: features of 20 ms frames → a waveform, by Vocos or by WaveNeXt.

ConvNeXt blocks at the frame rate (codec/convnext.py), then a head that makes a waveform of them
(codec/vocoder_heads.py). Every layer runs 50 times a second, none 16,000 times: Vocos at full size
ran 50 times real time on one busy core. Parameter names and shapes are those of FocalCodec's
vocoders (arXiv 2502.04465), so published weights load.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenizer.codec.convnext import Backbone
from tokenizer.codec.vocoder_heads import LinearHead, Overlap, SpectrumHead
from tokenizer.config import VocoderConfig
from tokenizer.errors import UsageError


@dataclass
class VocoderState:
    """What a causal vocoder carries from chunk to chunk.

    convolutions: past inputs of each, (B, C, kernel - 1); None before the first frame. overlap: of
    an inverse STFT; None otherwise.
    """

    convolutions: list[Tensor] | None
    overlap: Overlap | None


class Vocoder(nn.Module):
    """Features (B, T, width) → waveform (B, samples_per_frame T + 2 margin).

    The causal form can be fed chunk by chunk. With a linear head each frame's samples come with the
    frame. With an inverse STFT, and its margin of 40, frame i needs the input audio up to sample
    320 i + 400; after it, output samples below 320 (i + 1) + 200 - n_fft / 2 are final. With
    n_fft = 1024 that is 320 i + 8: the output lags the input by 392 samples (24.5 ms), and by up to
    20 ms more until the next frame comes. This algorithmic latency, at most 44.5 ms, comes from the
    overlapping windows only.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = LinearHead(config) if config.head == "linear" else SpectrumHead(config)

    def forward(self, features: Tensor) -> Tensor:
        """Whole utterances of one length; returns fp32."""
        return self.head(self.backbone(features, None)[0])

    def batch(self, features: list[Tensor]) -> list[Tensor]:
        """(T, width) of each utterance → (n,) of each, as `forward` gives them one by one.

        They go through the backbone together, padded.
        """
        lengths = torch.tensor([len(rows) for rows in features], device=features[0].device)
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
        places = torch.arange(padded.shape[1], device=padded.device)
        real = (places < lengths[:, None])[..., None].to(padded.dtype)
        hidden = self.backbone(padded, None, real)[0]
        return [self.head(x[None, : len(rows)])[0] for x, rows in zip(hidden, features)]

    def stream(
        self, features: Tensor, state: VocoderState | None, last: bool
    ) -> tuple[Tensor, VocoderState | None]:
        """The next chunk: (B, t, width) → (B, n), the samples that are final now; causal form only.

        state: from the chunk before; None starts an utterance. last: also returns the remaining
        samples, and None for the state; t may then be 0. All chunks together give what `forward`
        gives. Raises UsageError for a vocoder that is not causal.
        """
        if not self.config.causal:
            raise UsageError("this vocoder is not causal", "train a causal one")
        state = state or VocoderState(None, None)
        convolutions = state.convolutions
        if features.shape[1]:
            x, convolutions = self.backbone(features, convolutions)
        else:
            x = features.new_empty(len(features), 0, self.config.hidden)
        wave, overlap = self.head.step(x, state.overlap, last)
        return wave, None if last else VocoderState(convolutions, overlap)
