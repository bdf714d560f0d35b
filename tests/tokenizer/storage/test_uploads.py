"""Large files on S3: no unfinished upload is left, and no other file's is touched."""

import threading
import time

import pytest

from tokenizer.storage.folder import Folder


@pytest.fixture(autouse=True)
def reach_the_store(s3, monkeypatch):
    s3.reach(monkeypatch)


def unfinished(s3) -> list[tuple[str, str]]:
    """(key, id) of the uploads that nobody has ended."""
    uploads = s3.client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", [])
    return sorted((upload["Key"], upload["UploadId"]) for upload in uploads)


def begin(s3, key: str) -> tuple[str, str]:
    answer = s3.client.create_multipart_upload(Bucket=s3.bucket, Key=key)
    return key, answer["UploadId"]


def test_what_earlier_tries_left_is_ended(s3, tmp_path):
    mine, longer = begin(s3, "uploads/large.bin"), begin(s3, "uploads/large.bin.idx")
    source = tmp_path / "large.bin"
    with source.open("wb") as file:
        file.truncate(65 << 20)
    folder = Folder(f"s3://{s3.bucket}/uploads")
    try:
        folder.publish(source, "small.bin")
        assert mine in unfinished(s3)
        folder.publish(source, "large.bin")
        assert unfinished(s3) == [longer]
        assert folder.fs.info(folder.path("large.bin"))["size"] == 65 << 20
    finally:
        s3.client.abort_multipart_upload(Bucket=s3.bucket, Key=longer[0], UploadId=longer[1])


def test_an_upload_that_another_process_ended_is_begun_again(s3, tmp_path):
    """Another process that published the same file first has taken this one's for left over."""
    source = tmp_path / "twice.bin"
    with source.open("wb") as file:
        file.truncate(110 << 20)  # s3fs sends it in parts
    ended = []

    def end_the_first() -> None:
        limit = time.monotonic() + 60
        while not ended and time.monotonic() < limit:
            for key, name in unfinished(s3):
                s3.client.abort_multipart_upload(Bucket=s3.bucket, Key=key, UploadId=name)
                ended.append(key)

    other = threading.Thread(target=end_the_first)
    other.start()
    folder = Folder(f"s3://{s3.bucket}/uploads")
    folder.publish(source, "twice.bin")
    other.join()
    assert ended == ["uploads/twice.bin"]
    assert not unfinished(s3)
    assert folder.fs.info(folder.path("twice.bin"))["size"] == 110 << 20
