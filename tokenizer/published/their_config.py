"""FocalCodec's config.json: five parts, each with a class's name and that class's settings.

A key that is missing means v0.0.2's default. Keys that no sample or token depends on are ignored.
"""

from typing import Any

PARTS = ("encoder", "compressor", "quantizer", "decompressor", "decoder")
NAMES = {
    "encoder": ("WavLM",),
    "compressor": ("FocalEncoder",),
    "quantizer": ("BinarySphericalQuantizer",),
    "decompressor": ("FocalDecoder",),
    "decoder": ("WaveNeXt", "Vocos"),
}
_FOCAL: dict[str, Any] = {
    "hidden_dims": [1024, 1024, 1024],
    "focal_window": 14,
    "focal_level": 2,
    "focal_factor": 4,
    "dropout": 0.0,
    "use_post_norm": False,
    "use_layerscale": False,
    "layerscale_init": 1e-4,
    "tanhscale_init": 0.5,
    "normalize_modulator": False,
    "causal": False,
    "window_size": 512,
}
_BACKBONE: dict[str, Any] = {
    "input_dim": 1024,
    "num_layers": 8,
    "kernel_size": 7,
    "layerscale_init": None,
    "causal": False,
}
# The settings of each class with their defaults, those of v0.0.2.
DEFAULTS: dict[str, dict[str, Any]] = {
    "WavLM": {
        "hidden_dims": [512] * 7,
        "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
        "strides": [5, 2, 2, 2, 2, 2, 2],
        "num_layers": 6,
        "dim": 1024,
        "ffn_dim": 4096,
        "num_heads": 16,
        "num_buckets": 320,
        "max_distance": 800,
        "max_cached_steps": 2048,
        "dropout": 0.0,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "causal": False,
        "window_size": 512,
        "lookahead_size": 3,
        "use_flex_attention": False,
    },
    "FocalEncoder": {
        "input_dim": 1024,
        "output_dim": 12,
        "downscale_factors": [1, 1, 1],
        **_FOCAL,
    },
    "BinarySphericalQuantizer": {"codebook_size": 4096},
    "FocalDecoder": {
        "input_dim": 12,
        "output_dim": 1024,
        "upscale_factors": [1, 1, 1],
        **_FOCAL,
        "last_window_size": 512,
        "lookahead_size": 3,
    },
    "WaveNeXt": {**_BACKBONE, "dim": 1024, "ffn_dim": 2048, "hop_length": 480},
    "Vocos": {**_BACKBONE, "dim": 512, "ffn_dim": 1536, "n_fft": 1024, "hop_length": 320},
}
# Settings of training and of speed, and v0.0.1's names of what shapes say.
IGNORED = (
    "dropout",
    "layerscale_init",
    "tanhscale_init",
    "max_cached_steps",
    "use_flex_attention",
    "input_channels",
    "padding",
)
# Whole numbers that may be zero; all others are at least one.
MAY_BE_ZERO = ("lookahead_size", "focal_level")


def class_names(config: dict, *, numbered: bool, problems: list[str]) -> dict[str, str]:
    """The class of each part; a missing one is the default, v0.0.1's where names are numbered.

    Adds to `problems` each class that this project does not have.
    """
    names = {}
    for part in PARTS:
        name = config.get(f"{part}_name", "Vocos" if part == "decoder" and numbered else None)
        names[part] = NAMES[part][0] if name is None else name
        if names[part] not in NAMES[part]:
            known = " or ".join(repr(known) for known in NAMES[part])
            problems.append(f"{part}_name is {name!r}, not {known}")
    return names


def settings_of(part: str, name: str, *, config: dict, problems: list[str]) -> dict[str, Any]:
    """All settings of a part's class, with their defaults where config.json lacks them.

    Adds to `problems` each key that the class does not have, and each value of another type than
    the default's.
    """
    key = f"{part}_config"
    given = config.get(key) or {}
    if not isinstance(given, dict):
        problems.append(f"{key} is not a JSON object")
        return DEFAULTS[name]
    kept = {}
    for setting, value in given.items():
        default = DEFAULTS[name].get(setting)
        if setting in IGNORED:
            continue
        if default is None:
            problems.append(f"{key}.{setting} is no setting of {name}")
        elif not _is_like(default, value, least=0 if setting in MAY_BE_ZERO else 1):
            problems.append(f"{key}.{setting} is {value!r}; it must be like {default!r}")
        else:
            kept[setting] = value
    return {**DEFAULTS[name], **kept}


def _is_like(default: object, value: object, least: int) -> bool:
    """Whether a value has the type of the default, and whole numbers are at least `least`."""
    if isinstance(default, list):
        return isinstance(value, list) and all(_is_like(1, one, least) for one in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    return isinstance(value, int) and value >= least
