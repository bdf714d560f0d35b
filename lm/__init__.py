"""The speech language model: token shards in, a model that continues speech out.

>>> from lm import Generator, SpeechLM
>>> model = SpeechLM.from_pretrained("out/lm/model")
>>> logits = model(tokens, utterance)

The names are imported when they are first used, so that `import lm` does not load PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm.generation import Generator
    from lm.model import SpeechLM

__all__ = ["Generator", "SpeechLM"]


def __getattr__(name: str) -> Any:
    if name == "SpeechLM":
        from lm.model import SpeechLM

        return SpeechLM
    if name == "Generator":
        from lm.generation import Generator

        return Generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
