"""The shape of a language model, and the error for a folder or argument that gives none."""

from dataclasses import dataclass, fields

from tokenizer.config import FocalConfig, without_defaults
from tokenizer.errors import UsageError

# What a position of a row can hold in place of a token: START in the first chunk of an utterance;
# PAD after its end in its last chunk, and in what is left of a row.
START, PAD = -1, -2

INPUTS = ("codes", "decompressor", "embedding")

# Fields of LMConfig. tiny: the upper half of wavlm-tiny. base: as wide as wavlm-base. large:
# wavlm-large's 18 layers above the sixth, 230 M parameters with 4,096 codes.
PRESETS = {
    "tiny": {"width": 256, "layers": 4, "heads": 4, "feed_forward": 1024},
    "base": {"width": 768, "layers": 6, "heads": 12, "feed_forward": 3072},
    "large": {"width": 1024, "layers": 18, "heads": 16, "feed_forward": 4096},
}


class LMError(UsageError):
    """A language model, or its input, cannot be used; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Shape of a language model.

    >>> LMConfig(codebook_size=4096, **PRESETS["large"])

    chunk: tokens predicted at once; 1 is next-token prediction. window: positions before its chunk
    that a position attends to. inputs: a token's vector, one of
    * "codes": a frozen table of centroids, or of each code decompressed alone,
    * "decompressor": the tokenizer's frozen causal decompressor, over the utterance so far,
    * "embedding": a learned table.
    dropout: of inputs, attention and feed-forward outputs. tokenizer: the fingerprint of the
    tokenizer whose tokens are modelled. frames_per_token: the tokenizer's; the model works at the
    rate of tokens. input_width: of frozen vectors; 0 means `width`. decompressor: its shape, for
    those inputs. SpeechLM.from_tokenizer fills in the last four. start: an utterance begins with a
    chunk of START, so that its first tokens are predicted too. Published WavSLM models have none:
    they predict from the second chunk on, and take the tokenizer's features as they are.
    Raises LMError for impossible values.
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
    start: bool = True

    def __post_init__(self) -> None:
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
                # Its inputs would contain tokens that it has to predict.
                raise LMError(
                    f"its decompressor sees {tokens} tokens at once, and its chunk is {self.chunk}"
                )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def unscored_tokens(self) -> int:
        """Tokens at an utterance's start that are not predicted: without START, its first chunk."""
        return 0 if self.start else self.chunk

    def flops_per_token(self, keys: float | None = None) -> float:
        """Floating-point operations of one token's forward pass; training takes three times that.

        Counts two for each multiply-add of the layers' products, attention and the head. keys: keys
        per query; None takes the window and the chunk.
        """
        keys = self.window + self.chunk if keys is None else keys
        layer = 4 * self.width**2 + 2 * self.width * self.feed_forward + 2 * keys * self.width
        return 2.0 * (self.layers * layer + self.width * self.codebook_size)

    def to_dict(self) -> dict:
        """The values, for a config.json; `start`, which came later, only where it is False."""
        return without_defaults(self, ("start",))

    @classmethod
    def from_dict(cls, values: dict) -> "LMConfig":
        """The inverse of to_dict. Raises LMError for anything else."""
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
    """How many tokens a causal decompressor decodes together."""
    return max(1, decompressor.chunk_frames // decompressor.frames_per_token)
