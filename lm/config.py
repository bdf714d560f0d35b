"""The shape of a language model, and the error that says why a folder or an argument is none."""

from dataclasses import asdict, dataclass, fields

from tokenizer.config import FocalConfig
from tokenizer.errors import UsageError

# What a position of a row can hold besides a token: a place of the chunk that begins an utterance,
# and what fills the last chunk of one or is left over at a row's end.
START, PAD = -1, -2

INPUTS = ("codes", "decompressor", "embedding")

# width, layers, heads and feed_forward of LMConfig. tiny: wavlm-tiny's upper half; base: as wide as
# wavlm-base's; large: wavlm-large's 18 layers above the sixth, 230 M parameters with 4,096 codes.
PRESETS = {
    "tiny": {"width": 256, "layers": 4, "heads": 4, "feed_forward": 1024},
    "base": {"width": 768, "layers": 6, "heads": 12, "feed_forward": 3072},
    "large": {"width": 1024, "layers": 18, "heads": 16, "feed_forward": 4096},
}


class LMError(UsageError):
    """What is no language model, or not one for these tokens; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Shape of a language model.

    >>> LMConfig(codebook_size=4096, **PRESETS["large"])

    chunk: tokens predicted at once; 1 is plain next-token. window: past positions that are seen
    before the own chunk. inputs: what a token's vector is, "codes" (a frozen table: centroids, or
    what the decompressor makes of a code alone), "decompressor" (the causal tokenizer's frozen
    decompressor over each utterance so far) or "embedding" (a learned table). dropout: of inputs,
    attention and feed-forward. tokenizer: the fingerprint of the tokenizer whose tokens it models.
    frames_per_token: of that tokenizer; the model itself works at the rate of tokens.
    input_width: of frozen vectors; 0 is `width`. decompressor: its shape, with those inputs. Both
    are filled in by SpeechLM.from_tokenizer. Raises LMError for what cannot be.
    """

    codebook_size: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    chunk: int = 4
    window: int = 512
    num_buckets: int = 320
    max_bucket_distance: int = 800
    inputs: str = "codes"
    dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    tokenizer: str | None = None
    frames_per_token: int = 1
    input_width: int = 0
    decompressor: FocalConfig | None = None

    def __post_init__(self):
        whole = ("codebook_size", "width", "layers", "heads", "feed_forward", "chunk", "window")
        for name in (*whole, "frames_per_token"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise LMError(f"its {name} is {value!r}; a whole number over zero is needed")
        if self.width % self.heads:
            raise LMError(f"its width of {self.width} is no multiple of its {self.heads} heads")
        if self.inputs not in INPUTS:
            raise LMError(f"its inputs are {self.inputs!r}; one of {', '.join(INPUTS)} is needed")
        if self.decompressor and self.inputs == "decompressor":
            tokens = tokens_per_chunk(self.decompressor)
            if self.chunk % tokens:
                # It would be told of tokens that it is to predict.
                raise LMError(
                    f"its decompressor sees {tokens} tokens at once, and its chunk is {self.chunk}"
                )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def flops_per_token(self, keys: float | None = None) -> float:
        """Multiply-adds times two of one token's forward pass; training takes three times as many.

        Counts the layers' products, attention and the head. keys: how many a query is compared
        with; None takes the window and the chunk.
        """
        keys = self.window + self.chunk if keys is None else keys
        layer = 4 * self.width**2 + 2 * self.width * self.feed_forward + 2 * keys * self.width
        return 2.0 * (self.layers * layer + self.width * self.codebook_size)

    def to_dict(self) -> dict:
        """The values, for a config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "LMConfig":
        """As to_dict gave it. Raises LMError for what is none."""
        unknown = sorted(values.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise LMError(f"its config.json has an unknown field {unknown[0]!r}")
        try:
            decompressor = values.get("decompressor")
            shape = FocalConfig.from_dict(decompressor) if decompressor else None
            return cls(**{**values, "decompressor": shape})
        except (TypeError, AttributeError) as error:
            raise LMError(f"its config.json lacks something: {error}") from error


def tokens_per_chunk(decompressor: FocalConfig) -> int:
    """How many tokens a causal decompressor turns into features together."""
    return max(1, decompressor.chunk_frames // decompressor.frames_per_token)
