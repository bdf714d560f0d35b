"""An S3 server that fails now and then: the whole of jobs/tokenize.py, and large uploads."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT
from ray_cluster import Cluster, end_ray, environment
from stores import S3, S3Store, s3_server

from faults.checks import Result, World, run_until_done
from faults.s3_proxy import Faults, S3Proxy, s3_proxy

RATES = (0.05, 0.2)
# A request that fails once in a hundred would hardly fail at all in a job of a hundred requests.
CASES = [
    *(("GET", k) for k in ("500", "503", "reset", "stall", "truncated", "short", "empty")),
    *(("PUT", kind) for kind in ("500", "503", "reset", "lost answer", "stall")),
    *(("LIST", kind) for kind in ("500", "503", "reset", "stall", "truncated", "short", "empty")),
    *(("HEAD", kind) for kind in ("500", "503", "reset", "stall")),
]
UPLOADS = ("500", "503", "reset", "lost answer", "stall")
# Stalls of one run: each lasts as long as s3fs waits.
MOST_STALLS = 2
UPLOAD_MB = 110  # s3fs sends a file of over 100 MB in parts
UPLOAD = """
import sys
from pathlib import Path
from tokenizer.storage.folder import Folder
Folder(sys.argv[2]).publish(Path(sys.argv[1]), "large.bin")
"""


def run(
    world: World,
    cases: list[tuple[str, str]] = CASES,
    uploads: tuple[str, ...] = UPLOADS,
    rates: tuple[float, ...] = RATES,
) -> Iterator[Result]:
    """A result for each fault and rate. cases: (verb, kind). uploads: kinds, of multipart ones."""
    with (
        s3_server(world.folder / "s3.log") as s3,
        s3_proxy(s3, world.folder / "proxy.log") as proxy,
    ):
        source = s3.upload(world.source, "source")
        with _cluster(proxy) as env:
            for seed, (verb, kind) in enumerate(cases):
                for rate in rates:
                    faults = _faults(kind, verb, rate, seed=seed)
                    yield _tokenize(world, s3, proxy, (source, faults, env))
        for seed, kind in enumerate(uploads):
            for rate in rates:
                faults = _faults(kind, "MULTIPART", rate, seed=seed)
                yield _upload(world, s3, proxy, faults)


def _faults(kind: str, verb: str, rate: float, *, seed: int) -> Faults:
    most = MOST_STALLS if kind == "stall" else Faults().most
    return Faults(kind=kind, verb=verb, rate=rate, seed=seed, most=most)


@contextmanager
def _cluster(proxy: S3Proxy) -> Iterator[dict]:
    """The environment of jobs on a cluster that reaches S3 through the proxy."""
    cluster = Cluster({"PYTHONPATH": ROOT, **proxy.env}, dashboard=False)
    try:
        cluster.start()
        token = {name: cluster.env[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        address = {"RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
        yield environment({**proxy.env, **token, **address})
        left = list(Path(cluster.folder).glob("wavmill-*"))
        assert not left, left
    finally:
        end_ray(cluster.folder)


def _named(faults: Faults) -> str:
    kind = {"short": "silently short", "empty": "silently empty"}.get(faults.kind, faults.kind)
    return f"S3 {faults.verb}: {kind}, {100 * faults.rate:.0f} %"


def _tokenize(world: World, s3: S3, proxy: S3Proxy, what: tuple[str, Faults, dict]) -> Result:
    source, faults, env = what
    store = S3Store(s3, f"{faults.verb}-{faults.kind}-{faults.rate}".replace(" ", "-"))
    proxy.set(faults)
    runs = run_until_done(world.flags(source, store.url), env)
    result = Result(_named(faults))
    injected = proxy.injected()
    proxy.set(Faults())
    result.fault += f" ({injected} broken)"
    return world.check(result, store, runs)


def _upload(world: World, s3: S3, proxy: S3Proxy, faults: Faults) -> Result:
    """Publish one large file through the proxy."""
    path = world.folder / "large.bin"
    if not path.exists():
        path.write_bytes(os.urandom(UPLOAD_MB << 20))
    proxy.set(faults)
    place = f"upload-{faults.kind}-{faults.rate}".replace(" ", "-")
    command = [sys.executable, "-c", UPLOAD, str(path), f"s3://{s3.bucket}/{place}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(proxy.env), timeout=300, capture_output=True, text=True
    )
    result = Result(f"{_named(faults)} ({proxy.injected()} broken)", times=1, samples=1)
    proxy.set(Faults())
    names = s3.listing(f"{place}/")
    result.rows = len(names)
    if done.returncode:
        result.problems.append(done.stderr.strip().splitlines()[-1][:120])
    elif names:
        digest = hashlib.sha256(s3.read(f"{place}/large.bin")).digest()
        result.equal = digest == hashlib.sha256(path.read_bytes()).digest()
        s3.client.delete_object(Bucket=s3.bucket, Key=f"{place}/large.bin")
    if not result.equal:
        result.problems.append("it is not the file")
    left = s3.client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", [])
    result.problems += [f"an upload that never ended: {upload['Key']}" for upload in left]
    return result
