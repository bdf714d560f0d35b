"""An S3 server (moto) in a process of its own, and outputs of jobs on it or on the local disk."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from ray_cluster import free_port, store_variables


class S3(NamedTuple):
    """A running S3 server. env: the variables that a process needs to reach it."""

    endpoint: str
    env: dict
    bucket: str
    client: object

    def reach(self, patch: pytest.MonkeyPatch) -> None:
        """Let this process reach the server, for as long as the patch lasts."""
        for name, value in self.env.items():
            patch.setenv(name, value)

    def listing(self, prefix: str) -> dict[str, tuple[str, object]]:
        """{key: (ETag, time of change)} below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        objects = (o for page in pages for o in page.get("Contents", ()))
        return {o["Key"]: (o["ETag"], o["LastModified"]) for o in objects}

    def upload(self, folder: Path, prefix: str) -> str:
        """Put a folder's files below a prefix; returns its URL."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key = f"{prefix}/{path.relative_to(folder)}"
            self.client.upload_file(str(path), self.bucket, key)
        return f"s3://{self.bucket}/{prefix}"

    def read(self, key: str) -> bytes:
        """An object's content."""
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()


@contextlib.contextmanager
def s3_server(log: Path, env: dict | None = None) -> Iterator[S3]:
    """Start a server with one bucket, and end it. log: what it prints.

    env: `store_variables()` for the session's; default: at another port.
    """
    env = env or {**store_variables(), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    port = env["AWS_ENDPOINT_URL"].rpartition(":")[2]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
            stdout=output,
            stderr=output,
        )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket="speech")
                break
            except (BotoCoreError, ClientError):
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield S3(env["AWS_ENDPOINT_URL"], env, "speech", client)
    finally:
        server.terminate()
        server.wait(60)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """{path below the folder: (inode, size, time of change)} of every file and folder."""
    return {
        str(path.relative_to(folder)): (s.st_ino, s.st_size, s.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        for s in [path.stat()]
    }


class LocalStore:
    """An OUTPUT on the local disk, seen from outside."""

    def __init__(self, folder: Path):
        self.url, self.folder, self.env = str(folder), folder, {}

    def state(self) -> dict:
        """{name below OUTPUT: what changes when the file is written}."""
        try:
            return {k: v for k, v in snapshot(self.folder).items() if (self.folder / k).is_file()}
        except FileNotFoundError:  # a file was renamed between being listed and looked at
            return self.state()

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class S3Store:
    """An OUTPUT on S3, seen from outside."""

    def __init__(self, s3: S3, prefix: str):
        self.url, self.s3, self.prefix, self.env = f"s3://{s3.bucket}/{prefix}", s3, prefix, s3.env

    def state(self) -> dict:
        """As LocalStore's."""
        listing = self.s3.listing(f"{self.prefix}/")
        return {key.removeprefix(f"{self.prefix}/"): value for key, value in listing.items()}

    def read(self, name: str) -> bytes:
        return self.s3.read(f"{self.prefix}/{name}")
