"""Large files sent to S3 in parts, without leaving unfinished uploads behind."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizer.errors import one_line
from tokenizer.storage.retries import patiently

# s3fs sends files from 100 MB up in parts.
PARTS_BYTES = 64 << 20
# How often an upload that another process removed is begun again.
TRIES = 3

log = logging.getLogger(__name__)


def upload(fs: Any, source: Path, target: str) -> None:
    """Put a local file in a store, and end what earlier tries of the same file began there.

    S3 keeps the parts of an upload until somebody ends it, and charges for them. When the answer
    that names an upload is lost on the way, or a process is killed, nobody ends it. So once the
    file is whole, all unfinished uploads of that very file are aborted. Another process that is
    sending the same file then starts again, and ends after the one that aborted it.

    Raises StoreFailed after several tries, and FileNotFoundError where there is no such bucket.
    """
    in_parts = "s3" in fs.protocol and source.stat().st_size >= PARTS_BYTES
    for tries_left in reversed(range(TRIES if in_parts else 1)):
        try:
            patiently(fs.put_file, str(source), target)
            break
        except FileNotFoundError:  # no such upload any more, or no such bucket
            if not tries_left:
                raise
    if in_parts:
        _abort_unfinished(fs, target)


def _abort_unfinished(fs: Any, target: str) -> None:
    """Abort the unfinished uploads of one file. The file is whole, so a refusal is no failure."""
    bucket, key, _ = fs.split_path(target)
    try:
        answer = patiently(fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=key)
        for begun in answer.get("Uploads", []):
            if begun["Key"] == key:
                _abort(fs, Bucket=bucket, Key=key, UploadId=begun["UploadId"])
    except OSError as error:
        # Not every user may list uploads, and the rule of the bucket that the docs name is enough.
        log.info("unfinished uploads of %s are left to the bucket: %s", target, one_line(error))


def _abort(fs: Any, **name: str) -> None:
    with suppress(FileNotFoundError):  # another process has ended it
        patiently(fs.call_s3, "abort_multipart_upload", **name)
