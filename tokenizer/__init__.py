"""The tokenizer: speech → tokens and back, in plain PyTorch.

>>> from tokenizer import Tokenizer
>>> tokenizer = Tokenizer.from_pretrained("wavlm-tiny-d1024")
>>> tokens = tokenizer.encode(waveform, sample_rate=44_100)
>>> speech = tokenizer.decode(tokens)

Importing the package loads nothing else: PyTorch comes with the first use of `Tokenizer`; Ray,
FAISS and transformers never do.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from tokenizer.tokenizer import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
