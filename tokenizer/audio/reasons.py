"""Why audio cannot be tokenized: the reasons of the rows that reports give it."""

NOT_AUDIO = "not_audio"
TRUNCATED = "truncated_audio"
EMPTY = "empty_audio"
NOT_FINITE = "not_finite"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
TOO_MANY_CHANNELS = "too_many_channels"
CHANNELS_CANCEL = "channels_cancel"
UNCLAIMED = "unclaimed_data"
UNCHECKED = "unchecked_container"
NEEDS_AV = "needs_package_av"


class AudioError(ValueError):
    """Audio that cannot be tokenized. `reason` is one of the constants of this module."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
