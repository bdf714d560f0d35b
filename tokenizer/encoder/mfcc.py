"""MFCCs as an encoder: their clusters are the first labels when an encoder is pre-trained.

13 cepstra with first and second differences (39 dimensions), as in HuBERT's first iteration (Hsu et
al. 2021, arXiv 2106.07447, section 4.2), by torchaudio's port of Kaldi. Their window is the 400
samples that a frame of WavLM sees.
"""

import torch
import torchaudio
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, num_frames
from tokenizer.config import MFCCConfig


class MFCC:
    """Normalised 16 kHz waveforms → MFCCs with two differences, one row per WavLM frame."""

    def __init__(self, config: MFCCConfig, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)

    @torch.inference_mode()
    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """waveforms: 1-D float tensors of at least 400 samples each. Returns (T, 39) of each.

        MFCCs are computed every 10 ms, which the differences need, and every other row is kept.
        Raises ValueError for a waveform that is too short.
        """
        return [self._features(wave.to(self.device, torch.float32)) for wave in waveforms]

    def _features(self, wave: Tensor) -> Tensor:
        if len(wave) < RECEPTIVE_FIELD:
            raise ValueError(f"a waveform has fewer than {RECEPTIVE_FIELD} samples")
        cepstra = torchaudio.compliance.kaldi.mfcc(
            wave[None], sample_frequency=SAMPLE_RATE, num_ceps=13, dither=0.0
        )
        first = torchaudio.functional.compute_deltas(cepstra.T).T
        second = torchaudio.functional.compute_deltas(first.T).T
        rows = torch.cat([cepstra, first, second], dim=1)[::2][: num_frames(len(wave))]
        if self.config.standardize:
            spread = rows.std(0, correction=0).clamp(min=1e-5)
            rows = (rows - rows.mean(0)) / spread
        return rows
