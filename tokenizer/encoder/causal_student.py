"""The causal encoder with gradients, for causal distillation from the bidirectional one.

Causal distillation as in FocalCodec-Stream (arXiv 2509.16195): the student starts from the
teacher's weights, and learns to give the teacher's features without what comes after a frame's
chunk. Convolutions and feature projection work on single frames and stay the teacher's. The parts
that look ahead are trained: the positional convolution and the transformer layers.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import WavLMModel

from tokenizer.config import EncoderConfig
from tokenizer.encoder.causal_wavlm import causal_kernel
from tokenizer.encoder.chunk_mask import block_mask
from tokenizer.encoder.pretraining import position_embedding
from tokenizer.encoder.trainable_layers import run_layers
from tokenizer.storage.encoder_files import weight_names


class CausalStudent(nn.Module):
    """A WavLM's positional convolution and lower layers, chunk-causal."""

    mean: Tensor

    def __init__(self, wavlm: WavLMModel, config: EncoderConfig, mean: Tensor) -> None:
        """wavlm: the teacher. It is changed in place, and its layers above config.layer dropped.

        config: the causal encoder's. mean: (D,) of the teacher's features; the loss is relative to
        the error of always giving the mean.
        """
        super().__init__()
        self.wavlm, self.config = wavlm, config
        wavlm.encoder.layers = wavlm.encoder.layers[: config.layer]
        conv = wavlm.encoder.pos_conv_embed.conv
        # Weight norm would divide by the norm of taps that start at zero.
        parametrize.remove_parametrizations(conv, "weight")
        with torch.no_grad():
            conv.weight.copy_(causal_kernel(conv.weight))
        wavlm.requires_grad_(False)
        for part in (conv, wavlm.encoder.layers):
            part.requires_grad_(True)
        if not config.do_stable_layer_norm:
            wavlm.encoder.layer_norm.requires_grad_(True)
        self.register_buffer("mean", mean)

    def matrices(self) -> set[str]:
        """Names of the parameters that Muon trains: the layers' matrices."""
        return {
            name
            for name, p in self.named_parameters()
            if ".encoder.layers." in name and p.ndim == 2 and "rel" not in name
        }

    def weights(self) -> dict[str, Tensor]:
        """The weights that CausalWavLM takes, on the CPU."""
        state = self.wavlm.state_dict()
        return {name: state[name].detach().cpu().clone() for name in weight_names(self.config)}

    def features(self, frames: Tensor) -> Tensor:
        """(B, T, D) of CausalWavLM.frames → (B, T, D), the features CausalWavLM would give."""
        encoder = self.wavlm.encoder
        x = frames + self._positions(frames)
        if not self.config.do_stable_layer_norm:
            x = encoder.layer_norm(x)
        config = self.config
        mask = block_mask(x.shape[1], 0, chunk=config.chunk_frames, window=config.past_frames)
        return run_layers(self.wavlm, x, mask=mask.to(x.device))

    def _positions(self, frames: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D), the positional convolution over each frame and those before it."""
        conv = self.wavlm.encoder.pos_conv_embed.conv
        before = conv.kernel_size[0] - 1
        if not self.config.replicate_padding:
            return position_embedding(conv, frames, back=before)
        padded = torch.cat([frames[:, :1].expand(-1, before, -1), frames], dim=1)
        return position_embedding(conv, padded, back=before)[:, before:]

    def forward(self, frames: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and an empty dictionary: there is nothing else to log.

        frames: (B, T, D). wanted: (B, T, D), the teacher's features. The loss is the squared error
        over the variance: always giving the mean has 1.
        """
        error = (self.features(frames).float() - wanted).square().sum()
        return error / (wanted - self.mean).square().sum(), {}
