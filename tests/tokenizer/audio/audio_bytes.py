"""Files in memory, read as a shard's samples are."""

import io

from tokenizer.audio.decoding import AudioError, Utterance, read_utterance


def read(data: bytes, keep_samples: int = 10**9, **options: object) -> Utterance:
    """The sound of a file."""
    return read_utterance(io.BytesIO(data), keep_samples, **options)


def reason(data: bytes, **options: object) -> str | None:
    """Why a file cannot be tokenized; None when it can."""
    try:
        read(data, **options)
    except AudioError as error:
        return error.reason
    return None
