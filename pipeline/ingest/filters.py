"""Which samples are left out, and why: off by default, each with a reason of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Fields of metadata that name a language or a speaker.
LANGUAGES = ("language", "lang", "locale")
SPEAKERS = ("speaker", "speaker_id", "spk", "client_id")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The limits of a sample; None and an empty set take any.

    min_duration, max_duration: in seconds. max_clipped: share of its samples. max_silence: share of
    its frames that are silent. min_bandwidth: in Hz. min_snr: in dB. min_dnsmos: overall, from 1 to
    5. languages, speakers: those that are taken, as the metadata names them.
    """

    min_duration: float | None = None
    max_duration: float | None = None
    max_clipped: float | None = None
    max_silence: float | None = None
    min_bandwidth: float | None = None
    min_snr: float | None = None
    min_dnsmos: float | None = None
    languages: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    measured: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = {
            "clipped": self.max_clipped,
            "silence": self.max_silence,
            "bandwidth_hz": self.min_bandwidth,
            "snr_db": self.min_snr,
            "dnsmos": self.min_dnsmos,
        }
        names = frozenset(name for name, limit in limits.items() if limit is not None)
        object.__setattr__(self, "measured", names)

    @property
    def need_sound(self) -> bool:
        """Whether a sample must be decoded to be judged."""
        durations = self.min_duration is not None or self.max_duration is not None
        return bool(self.measured) or durations

    @property
    def need_metadata(self) -> bool:
        """Whether a sample's metadata must be read to judge it."""
        return bool(self.languages or self.speakers)

    def of_metadata(self, metadata: Mapping[str, Any]) -> str | None:
        """Why a sample is left out by what is known of it, or None."""
        for names, taken, reason in (
            (LANGUAGES, self.languages, "other_language"),
            (SPEAKERS, self.speakers, "other_speaker"),
        ):
            values = {str(metadata[name]) for name in names if metadata.get(name) is not None}
            if taken and not values & set(taken):
                return reason
        return None

    def of_sound(self, duration: float, values: dict[str, float]) -> str | None:
        """Why a sample is left out by its sound, or None. values: as `Measures.values`."""
        if self.min_duration is not None and duration < self.min_duration:
            return "under_min_duration"
        if self.max_duration is not None and duration > self.max_duration:
            return "over_max_duration"
        if self.max_clipped is not None and values["clipped"] > self.max_clipped:
            return "clipped"
        if self.max_silence is not None and values["silence"] > self.max_silence:
            return "silent"
        if self.min_bandwidth is not None and values["bandwidth_hz"] < self.min_bandwidth:
            return "narrow_band"
        if self.min_snr is not None and values["snr_db"] < self.min_snr:
            return "noisy"
        if self.min_dnsmos is not None and values["dnsmos"] < self.min_dnsmos:
            return "low_dnsmos"
        return None
