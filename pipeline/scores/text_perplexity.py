"""How likely transcripts are under a causal language model of text: generative perplexity.

Two published definitions, from the same model:

* GSLM (Lakhotia et al. 2021, arXiv 2102.01192), as its program ppx.py computes it: the transcript
  in lower case, behind the token that starts a sentence; all its tokens count, the end of the
  sentence does not. The perplexity of each transcript is exp(mean nats per token), and the figure
  is the mean of these perplexities: each transcript weighs the same, however long it is.
* SlamKit (Maimon et al. 2025, arXiv 2502.15814): the transcript as it is, with what the tokenizer
  puts before it; the first token has nothing before it and does not count. The figure is exp of the
  mean over transcripts of their mean nats per token, again each weighing the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pipeline.scores.model_folders import find_model
from pipeline.scores.unscored import needed
from tokenizer.errors import UsageError

REMEDY = "give a causal language model of `transformers` with its tokenizer, such as GPT-2"
# Positions of a batch, padding included: logits of 128,000 words take 1 GB.
POSITIONS = 2048


@dataclass(frozen=True)
class Nats:
    """Negative log-likelihood of a text in nats, and the number of tokens that count."""

    nats: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Mean over the tokens."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Of a token: exp of its mean nats, which are at most 700: more would overflow."""
        return math.exp(min(self.per_token, 700))


@dataclass(frozen=True)
class TextScore:
    """gslm, slamkit: as these define it; None where no token counts.

    too_long: whether the text has more tokens than the model's context; both are None then.
    """

    gslm: Nats | None
    slamkit: Nats | None
    too_long: bool = False


class TextPerplexity:
    """A causal language model of `transformers`, in fp32, with its tokenizer.

    name: its own, its class and the version of transformers.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        """source: a folder, a URL or a hub id.

        Raises UsageError for a model of another class, and one whose weights or tokenizer are
        missing or do not belong together.
        """
        version = needed("transformers", "transformers")
        kinds = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
        folder = find_model(
            source, "a causal language model of text", kinds, example="openai-community/gpt2"
        )
        self.name = f"{folder.name} ({folder.architecture}), {version}"
        self.tokenizer = folder.part(AutoTokenizer, "tokenizer")
        # Without its files transformers makes an empty one.
        if not self.tokenizer("a word", add_special_tokens=False)["input_ids"]:
            problem = "its tokenizer knows no words: the files of a tokenizer are missing"
            raise UsageError(problem, REMEDY, value=source)
        self.model, self.device = folder.load(device), device
        shape = self.model.config.get_text_config()
        if len(self.tokenizer) > shape.vocab_size:
            sizes = f"{len(self.tokenizer)} tokens, and its model knows {shape.vocab_size}"
            raise UsageError(f"its tokenizer has {sizes}", REMEDY, value=source)
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        # fairseq, with which GSLM scores, starts a sentence with the token that ends one.
        self._begin = end if begin is None else begin
        if self._begin is None:
            problem = (
                "its tokenizer has neither a token that begins a sentence nor one that ends it"
            )
            raise UsageError(problem, REMEDY, value=source)
        # SlamKit pads with the end where there is no padding, and leaves padding out of the mean.
        padding = self.tokenizer.pad_token_id
        self._left_out = end if padding is None else padding
        self._longest = getattr(shape, "max_position_embeddings", None) or math.inf

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """The likelihood of each text. A text without a character has none."""
        rows: list[list[int]] = []
        # Of each row, which tokens count; the first never does.
        counted: list[list[bool]] = []
        for text in texts:
            plain = self.tokenizer(text.strip().lower(), add_special_tokens=False)["input_ids"]
            rows.append([self._begin, *plain])
            counted.append([True] * len(plain))
            given = self.tokenizer(text)["input_ids"] if text.strip() else []
            rows.append(given or [self._begin])
            counted.append([token != self._left_out for token in given[1:]])
        usable = [i for i, row in enumerate(rows) if len(row) <= self._longest]
        nats: list[Nats | None] = [None] * len(rows)
        for place, value in self._nats(rows, counted, usable):
            nats[place] = value
        return [
            TextScore(None, None, too_long=True)
            if max(len(rows[i]), len(rows[i + 1])) > self._longest
            else TextScore(nats[i], nats[i + 1])
            for i in range(0, len(rows), 2)
        ]

    def _nats(
        self, rows: list[list[int]], counted: list[list[bool]], usable: list[int]
    ) -> list[tuple[int, Nats]]:
        """(place, nats) of the usable rows in which a token counts."""
        waiting = sorted((i for i in usable if any(counted[i])), key=lambda i: len(rows[i]))
        found: list[tuple[int, Nats]] = []
        while waiting:
            # The longest ones, as many as there is room for.
            size = max(1, POSITIONS // len(rows[waiting[-1]]))
            batch, waiting = waiting[-size:], waiting[:-size]
            for place, losses in zip(batch, self._losses([rows[i] for i in batch])):
                kept = [loss for loss, counts in zip(losses, counted[place]) if counts]
                found.append((place, Nats(math.fsum(kept), len(kept))))
        return found

    @torch.inference_mode()
    def _losses(self, rows: list[list[int]]) -> list[list[float]]:
        """Nats of each token of each row but the first."""
        length = max(map(len, rows))
        tokens = torch.tensor([row + [self._begin] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        return [loss[: len(row) - 1].tolist() for loss, row in zip(losses.cpu(), rows)]
