"""The settings of ingest: what decides the bytes of its shards beside their sources."""

from dataclasses import asdict, dataclass, field

from pipeline.ingest.filters import Filters
from tokenizer.errors import UsageError

VAD, FIXED = "vad", "fixed"
MIX, FIRST, SPLIT = "mix", "first", "split"


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """How sources become samples.

    shard_bytes: a shard ends with the sample that fills it. segment: None keeps recordings whole;
    "vad" cuts at pauses, "fixed" evenly. min_seconds, max_seconds: of a segment. channels: MIX
    averages them, FIRST takes the first, SPLIT makes a sample of each. sample_rate: of cut audio;
    None keeps the source's. filters: which samples are left out. dedup:
    leave out samples whose sound is that of an earlier one. shuffle: a seed, by which sources and
    their samples are put in another order; None keeps the order.
    """

    shard_bytes: int
    segment: str | None = None
    min_seconds: float = 3.0
    max_seconds: float = 30.0
    channels: str = MIX
    sample_rate: int | None = None
    filters: Filters = field(default_factory=Filters)
    dedup: bool = False
    shuffle: int | None = None

    def __post_init__(self) -> None:
        if self.min_seconds > self.max_seconds / 2:
            raise UsageError(
                f"it is over half of the longest segment, {self.max_seconds:g} s: what is left "
                "behind such segments could not be kept",
                "give a shorter one",
                value=self.min_seconds,
                argument="min_seconds",
            )

    def decisive(self) -> dict:
        """The values that differ from the defaults, for the record of an output."""
        plain = asdict(IngestSettings(shard_bytes=self.shard_bytes))
        values = {key: value for key, value in asdict(self).items() if value != plain[key]}
        if "filters" in values:
            limits = {key: value for key, value in values["filters"].items() if value}
            values["filters"] = {**limits, "measured": sorted(self.filters.measured)}
        return values
