"""GPUs and encoders that a run can be planned for."""

from tokenizer.config import EncoderConfig
from tokenizer.errors import UsageError

# Dense bf16 FLOP a second, as the vendor's data sheets give them.
PEAK_FLOPS = {
    "h200": 989e12,
    "h100": 989e12,
    "a100": 312e12,
    "l40s": 362e12,
    "l4": 121e12,
}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ENCODERS: dict[str, dict] = {
    "wavlm-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        **_STABLE,
    },
    "wavlm-base-plus": {},
    "wavlm-base": {},
    "wavlm-tiny": {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "conv_dim": [64, 128, 128, 128, 256, 256, 256],
        **_STABLE,
    },
}


def shape(encoder: str, layer: int) -> EncoderConfig:
    """The shape of an encoder up to a layer. Raises UsageError for one that is not known."""
    try:
        return EncoderConfig(layer=layer, **ENCODERS[encoder.removeprefix("microsoft/")])
    except KeyError:
        raise UsageError(
            "its shape is not known here",
            f"give one of {', '.join(ENCODERS)}",
            value=encoder,
            argument="encoder",
        ) from None
    except UsageError as error:
        raise UsageError(
            error.problem, "give a layer it has", value=layer, argument="layer"
        ) from error


def peak(gpu: str) -> float:
    """Dense bf16 FLOP a second of a GPU. Raises UsageError for one that is not known."""
    if gpu not in PEAK_FLOPS:
        raise UsageError(
            "this GPU is not known",
            f"give one of {', '.join(sorted(PEAK_FLOPS))}",
            value=gpu,
            argument="gpu",
        )
    return PEAK_FLOPS[gpu]
