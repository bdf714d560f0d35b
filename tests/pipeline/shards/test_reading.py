"""A shard whose store fails, or that changes while it is read: never a fault of the data."""

import os
import random
import threading

import numpy as np
import pytest
from faults.s3_proxy import KINDS, Faults, s3_proxy
from s3fs import S3FileSystem
from tars import tar

from pipeline.shards.inputs import Shard, find_shards
from pipeline.shards.reading import InputChanged, open_shard
from pipeline.shards.report import ShardReport
from tokenizer.errors import UsageError
from tokenizer.storage import file_stream, retries
from tokenizer.storage.file_stream import read_whole
from tokenizer.storage.folder import Folder
from tokenizer.storage.retries import StoreFailed
from tokenizer.storage.token_folder import TokenFolder
from tokenizer.storage.token_shards import TokenShardWriter

CONTENT = random.Random(0).randbytes(3 << 20)
LOUD = [kind for kind in KINDS if kind not in ("short", "empty", "stall")]


@pytest.fixture(scope="module")
def store(s3, tmp_path_factory):
    """(S3, a proxy before it); this process reaches S3 through the proxy, and waits little."""
    with (
        s3_proxy(s3, tmp_path_factory.mktemp("proxy") / "log") as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in proxy.env.items():
            patch.setenv(name, value)
        patch.setattr(retries, "WAITS", (0.01, 0.01, 0.01))
        patch.setattr(file_stream, "SHORT_READS", 3)
        # A filesystem that an earlier test made goes to the server itself.
        S3FileSystem.clear_instance_cache()
        yield s3, proxy
    S3FileSystem.clear_instance_cache()


def put(s3, key: str, content: bytes = CONTENT) -> str:
    """Put an object behind the proxy's back; returns its URL."""
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=content)
    return f"s3://{s3.bucket}/{key}"


def read(url: str) -> bytes:
    """All of a shard, in steps."""
    with open_shard(Shard("x", url, size=-1)) as stream:
        data = b"".join(iter(lambda: stream.read(1 << 20), b""))
        stream.check()
    return data


@pytest.mark.parametrize("kind", ["short", "empty", *LOUD])
def test_a_body_that_ends_early_is_asked_for_again(store, kind, monkeypatch):
    s3, proxy = store
    monkeypatch.setitem(file_stream.READ_AHEAD, "block_size", 1 << 20)
    url = put(s3, "body.tar")
    proxy.set(Faults(kind=kind, verb="GET", rate=1.0, most=3))
    assert read(url) == CONTENT
    assert sum(proxy.injected()) == 3
    proxy.set(Faults())


def test_a_body_that_always_ends_early_is_an_error_of_the_store(store):
    s3, proxy = store
    url = put(s3, "short.tar", CONTENT[:1000])
    proxy.set(Faults(kind="empty", verb="GET", rate=1.0))
    with pytest.raises(OSError, match=r"ended after 0 of 1,000 bytes"):
        read(url)
    with pytest.raises(StoreFailed, match="0 of 1,000 bytes came"):
        Folder(f"s3://{s3.bucket}").read_bytes("short.tar")
    proxy.set(Faults())


@pytest.mark.parametrize("kind", ["short", "empty", *LOUD])
def test_small_files_and_listings_are_whole(store, kind):
    s3, proxy = store
    text = "x" * 1000
    put(s3, "small/a.txt", text.encode())
    put(s3, "small/b.tar", tar(("a.wav", b"x")))
    folder = Folder(f"s3://{s3.bucket}/small")
    for verb, question, answer in (
        ("GET", lambda: folder.read_text("a.txt"), text),
        ("LIST", lambda: folder.names("", ".txt"), ["a"]),
        ("LIST", lambda: [s.name for s in find_shards([folder.url])[1]], ["b"]),
        ("HEAD", lambda: folder.fs.exists(folder.path("a.txt")), True),
        ("PUT", lambda: folder.publish_text(text, "c.bin"), None),
        ("GET", lambda: read_whole(folder.fs, folder.path("a.txt")), text.encode()),
    ):
        folder.fs.invalidate_cache()
        proxy.set(Faults(kind=kind, verb=verb, rate=1.0, most=1))
        assert question() == answer, verb
        assert sum(proxy.injected()) == 1
    proxy.set(Faults())
    assert s3.read("small/c.bin").decode() == text


@pytest.mark.parametrize("kind", ["short", "empty", "reset"])
def test_a_token_shard_whose_body_ends_early_is_asked_for_again(store, tmp_path, kind):
    s3, proxy = store
    report, tokens = ShardReport("t", 8), np.arange(8, dtype=np.uint16)
    report.ok("k", 0.2, tokens)
    report.write(tmp_path / "t.parquet")
    put(s3, "lm/reports/t.parquet", (tmp_path / "t.parquet").read_bytes())
    writer = TokenShardWriter(tmp_path / "t.tar", shard="t", codebook_size=8)
    writer.add("k", tokens, duration_s=0.2, sample_rate=16_000, metadata=None)
    writer.close()
    put(s3, "lm/shards/t.tar", (tmp_path / "t.tar").read_bytes())
    put(s3, "lm/run.json", b'{"codebook_size": 8}')
    folder = TokenFolder.open(f"s3://{s3.bucket}/lm")
    proxy.set(Faults(kind=kind, verb="GET", rate=1.0, most=3))
    assert [utterance.key for utterance in folder.read("t")] == ["k"]
    assert sum(proxy.injected()) == 3
    proxy.set(Faults())


def test_a_listing_that_is_always_empty_is_an_error_of_the_store(store):
    s3, proxy = store
    url = put(s3, "listed/a.tar").removesuffix("/a.tar")
    folder = Folder(url)
    proxy.set(Faults(kind="empty", verb="LIST", rate=1.0))
    with pytest.raises(StoreFailed, match="empty answer"):
        folder.names("", ".tar")
    with pytest.raises(UsageError, match="empty answer"):
        find_shards([url])
    proxy.set(Faults())
    assert folder.names("", ".tar") == ["a"]


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("change", ["other bytes", "shorter", "gone"])
def test_an_input_that_changes_is_noticed(store, tmp_path, where, change):
    s3, _ = store
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    os.utime(path, (1, 1))
    url = str(path) if where == "local" else put(s3, "changing.tar")
    new = {"other bytes": CONTENT[::-1], "shorter": CONTENT[:100]}.get(change)
    with open_shard(Shard("x", url, size=len(CONTENT))) as stream:
        stream.read(1000)
        if new is None and where == "local":
            path.unlink()
        elif new is None:
            s3.client.delete_object(Bucket=s3.bucket, Key="changing.tar")
        elif where == "local":
            path.write_bytes(new)
        else:
            put(s3, "changing.tar", new)
        with pytest.raises((InputChanged, FileNotFoundError)):
            stream.check()


def test_a_local_file_that_is_cut_while_it_is_read_is_no_broken_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(file_stream, "SHORT_READS", 1)
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    with open_shard(Shard("x", str(path), size=len(CONTENT))) as stream:
        stream.read(1 << 20)
        with path.open("r+b") as file:
            file.truncate(2 << 20)
        with pytest.raises(OSError, match="of 3,145,728 bytes"):
            while stream.read(1 << 20):
                pass


def test_versions_of_both_kinds_are_told_apart(store, tmp_path):
    s3, _ = store
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    for url, again in (
        (str(path), lambda: path.write_bytes(CONTENT[::-1])),
        (put(s3, "v/v.tar"), lambda: put(s3, "v/v.tar", CONTENT[::-1])),
    ):
        before = find_shards([url])[1][0]
        assert find_shards([url])[1][0] == before
        with open_shard(before) as stream:
            assert stream.version == (before.size, before.version)
        # However it is listed: as part of a folder, a glob or a range.
        folder, _, name = url.removesuffix(".tar").rpartition("/")
        for value in (folder, f"{folder}/{name}*", f"{folder}/{{{name},{name}}}.tar"):
            listed = {shard.url: shard for shard in find_shards([value])[1]}
            assert listed[before.url].version == before.version
        again()
        after = find_shards([url])[1][0]
        assert after.size == before.size and after.version != before.version


def test_blocks_of_a_store_are_fetched_at_the_same_time(store, monkeypatch):
    s3, proxy = store
    proxy.set(Faults())
    monkeypatch.setattr(file_stream, "BLOCK_BYTES", 1 << 18)
    url = put(s3, "blocks.tar")
    together, fetch = threading.Barrier(file_stream.BLOCKS_AHEAD), S3FileSystem.cat_file

    def fetch_together(*values, **more):
        together.wait(timeout=60)  # ends only if so many are on their way
        return fetch(*values, **more)

    monkeypatch.setattr(S3FileSystem, "cat_file", fetch_together)
    assert len(CONTENT) >> 18 == 4 * file_stream.BLOCKS_AHEAD
    assert read(url) == CONTENT
