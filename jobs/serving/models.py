"""The models behind the page, each with a thread of its own.

A thread takes what tabs ask of its model one by one, a chunk of 80 ms at a time, in the order they
asked: no lock is needed, tabs get even turns, and the event loop never waits for a model.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from jobs.serving.hearing import LONGEST_SECONDS, why_whole
from lm.generation import Generator, Sampling
from tokenizer.tokenizer import Tokenizer

Result = TypeVar("Result")

# The largest message of a tab: a file.
MOST_BYTES = 64 << 20
ENCODER, DECODER, LM = "encoder", "decoder", "lm"


class ServedModels:
    """A tokenizer and perhaps a language model of its tokens, for any number of tabs."""

    def __init__(self, tokenizer: Tokenizer, generator: Generator | None, name: str) -> None:
        """name: shown on the page. Raises UsageError where the tokenizer has no codebook."""
        self.tokenizer, self.generator, self.name = tokenizer, generator, name
        self.whole = why_whole(tokenizer)
        self.threads = {
            model: ThreadPoolExecutor(1, thread_name_prefix=model)
            for model in (ENCODER, DECODER, LM)
        }

    async def run(self, model: str, work: Callable[..., Result], *values: Any) -> Result:
        """Call a function on the thread of a model: ENCODER, DECODER or LM."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads[model], work, *values)

    def close(self) -> None:
        """End the threads, once what they compute now is done."""
        for thread in self.threads.values():
            thread.shutdown(cancel_futures=True)

    def about(self) -> dict[str, Any]:
        """What a page needs to know before it sends anything."""
        decoding, sampling = self.tokenizer.needed_decoding(), Sampling()
        return {
            "name": self.name,
            "codes": self.tokenizer.codebook_size,
            "tokens_per_second": self.tokenizer.tokens_per_second,
            "latency_ms": 0 if self.whole else 1000 * self.tokenizer.stream().latency_seconds,
            "whole": self.whole,
            "sound_rate": self.tokenizer.output_sample_rate if decoding.vocoder else None,
            "sound_at_end": not decoding.is_causal,
            "lm": self.generator is not None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "longest_seconds": LONGEST_SECONDS,
            "most_bytes": MOST_BYTES,
        }
