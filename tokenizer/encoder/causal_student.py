"""The causal encoder with gradients, and what it learns: the features of the bidirectional one.

Causal distillation as in FocalCodec-Stream (arXiv 2509.16195): the student starts from the
teacher's own weights and learns to give, from what it has heard so far, the features that the
teacher gives when it hears everything. Convolutions and feature projection stay the teacher's: a
frame passes them alone. What is trained is what looked ahead: positional convolution and layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import WavLMModel

from tokenizer.config import EncoderConfig
from tokenizer.encoder.causal_wavlm import causal_kernel
from tokenizer.encoder.pretraining import correlate
from tokenizer.encoder.trainable_layers import run_layers
from tokenizer.storage.encoder_files import weight_names


class CausalStudent(nn.Module):
    """A WavLM's positional convolution and lower layers, chunk-causal."""

    def __init__(self, wavlm: WavLMModel, config: EncoderConfig, mean: Tensor) -> None:
        """wavlm: the teacher; it is taken over, its layers above config.layer dropped.

        config: the causal one. mean: (D,) of the teacher's features, around which errors count.
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
        """Parameters that Muon trains: the layers' matrices."""
        return {
            name
            for name, p in self.named_parameters()
            if ".encoder.layers." in name and p.ndim == 2 and "rel" not in name
        }

    def weights(self) -> dict[str, Tensor]:
        """What CausalWavLM takes, on the CPU."""
        state = self.wavlm.state_dict()
        return {name: state[name].detach().cpu().clone() for name in weight_names(self.config)}

    def features(self, frames: Tensor) -> Tensor:
        """(B, T, D) of CausalWavLM.frames → (B, T, D) of the layer, as it would give them."""
        encoder = self.wavlm.encoder
        conv = encoder.pos_conv_embed.conv
        with torch.autocast(frames.device.type, enabled=False):
            taps = conv.kernel_size[0]
            y = (
                correlate(frames.float(), conv.weight, groups=conv.groups, back=taps - 1)
                + conv.bias
            )
        x = frames + F.gelu(y).to(frames.dtype)
        if not self.config.do_stable_layer_norm:
            x = encoder.layer_norm(x)
        return run_layers(self.wavlm, x, hidden=self._hidden(x))

    def forward(self, frames: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and nothing else to log of it.

        frames: (B, T, D). wanted: (B, T, D) of the teacher. The loss is the squared error over the
        variance, so that the mean frame has 1.
        """
        error = (self.features(frames).float() - wanted).square().sum()
        return error / (wanted - self.mean).square().sum(), {}

    def _hidden(self, x: Tensor) -> Tensor:
        key = torch.arange(x.shape[1], device=x.device)
        chunk = (key - key % self.config.chunk_frames)[:, None]
        return (key < chunk - self.config.past_frames) | (key >= chunk + self.config.chunk_frames)
