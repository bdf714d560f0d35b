"""What a sample takes with it into its token shard: members beside the audio, spans in tokens."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.alignments import ERROR, kind_of
from pipeline.shards.samples import Sample
from pipeline.tokenize.spans import PARSERS, Audio, spans_of
from tokenizer.storage.token_shards import JSON_ENDING, TOKENS_ENDING

OWN_ENDINGS = (TOKENS_ENDING, JSON_ENDING)
# Webdataset's decoder unpickles them, which runs whatever they hold: kept only where named.
PICKLED = ("pickle", "pkl", "pyd", "pth", "pt")


@dataclass
class Companions:
    """What the samples of one shard take with them, and counts of what they do not.

    keep: endings of the members that are kept, such as "txt"; None keeps all but pickles. fields:
    of spans, as `spans_of` has them. tokens_per_second: of the tokenizer. left: how many members of
    each ending are left out. apart: the same, of those that no sample came with. spans,
    span_errors: how many there are of each field.
    """

    keep: tuple[str, ...] | None
    fields: tuple[str, ...]
    tokens_per_second: float
    left: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)
    spans: Counter[str] = field(default_factory=Counter)
    span_errors: Counter[str] = field(default_factory=Counter)

    def kept(self, sample: Sample) -> dict[str, bytes]:
        """{ending: content} of a sample's members that go into the token shard."""
        kept = {end: content for end, content in sample.beside.items() if self._is_kept(end)}
        self.left.update(kind_of(end) for end in sample.beside if end not in kept)
        return kept

    def spans_of(self, sample: Sample, duration_s: float, tokens: int) -> dict[str, list[dict]]:
        """Its spans by field. tokens: how many it has."""
        audio = Audio(duration_s, tokens, self.tokens_per_second)
        return self._counted(spans_of(self.fields, sample.metadata, sample.beside, audio=audio))

    def with_late(self, about: dict[str, Any]) -> dict[str, Any]:
        """A KEY.json whose metadata came after its tokens, with the spans of it."""
        fields = [name for name in self.fields if name.lower() not in PARSERS]
        audio = Audio(about["duration_s"], about["num_tokens"], self.tokens_per_second)
        found = self._counted(spans_of(fields, about["metadata"], {}, audio=audio))
        return {**about, "spans": {**about.get("spans", {}), **found}} if found else about

    def counts(self) -> dict[str, dict[str, int]]:
        """Those of the counts that are not empty, by name."""
        counts = {
            "left_beside": self.left + self.apart,
            "spans": self.spans,
            "span_errors": self.span_errors,
        }
        return {name: dict(sorted(each.items())) for name, each in counts.items() if each}

    def _is_kept(self, ending: str) -> bool:
        if f".{ending}".lower().endswith(OWN_ENDINGS):
            return False
        if self.keep is None:
            return kind_of(ending) not in PICKLED
        return bool({ending.lower(), kind_of(ending)} & {each.lower() for each in self.keep})

    def _counted(self, found: dict[str, list[dict]]) -> dict[str, list[dict]]:
        for name, spans in found.items():
            errors = sum(ERROR in span for span in spans)
            self.spans[name] += len(spans) - errors
            self.span_errors += Counter({name: errors})
        return found
