"""An S3 server that fails now and then: the whole of jobs/tokenize.py, and large uploads."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from conftest import ROOT
from ray_cluster import environment
from stores import S3Store

from faults import Result
from faults.checks import World
from faults.runs import Session, run_until_done, session
from faults.s3_proxy import Faults

RATES = (0.05, 0.2)
# A request that fails once in a hundred would hardly fail at all in a job of a hundred requests.
CASES = [
    *(("GET", k) for k in ("500", "503", "reset", "stall", "truncated", "short", "empty")),
    *(("PUT", kind) for kind in ("500", "503", "reset", "lost answer", "stall")),
    *(("LIST", kind) for kind in ("500", "503", "reset", "stall", "truncated", "short", "empty")),
    *(("HEAD", kind) for kind in ("500", "503", "reset", "stall")),
]
# All at once, as on a bad night.
MANY = [("GET", "short"), ("PUT", "lost answer"), ("LIST", "empty"), ("HEAD", "503")]
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
    cases: list[tuple[str, str]] | None = None,
    uploads: tuple[str, ...] = UPLOADS,
    rates: tuple[float, ...] = RATES,
    *,
    seed: int = 0,
) -> Iterator[Result]:
    """A result for each fault and rate, and for many at once at the last rate.

    cases: (verb, kind); None for all. uploads: kinds, of multipart ones. seed: of which fail.
    """
    at_once = [_faults(kind, verb, rates[-1], seed=seed) for verb, kind in MANY]
    with nullcontext(world.session) if world.session else session(world.folder) as shared:
        source = shared.s3.upload(world.source, "source")
        for case, (verb, kind) in enumerate(CASES if cases is None else cases, 100 * seed):
            for rate in rates:
                yield _tokenize(world, shared, source, [_faults(kind, verb, rate, seed=case)])
        yield _tokenize(world, shared, source, at_once)
        for case, kind in enumerate(uploads, 100 * seed):
            for rate in rates:
                yield _upload(world, shared, _faults(kind, "MULTIPART", rate, seed=case))


def _faults(kind: str, verb: str, rate: float, *, seed: int) -> Faults:
    most = MOST_STALLS if kind == "stall" else Faults().most
    return Faults(kind=kind, verb=verb, rate=rate, seed=seed, most=most)


def _named(faults: Faults) -> str:
    kind = {"short": "silently short", "empty": "silently empty"}.get(faults.kind, faults.kind)
    return f"S3 {faults.verb}: {kind}, {100 * faults.rate:.0f} %"


def _tokenize(world: World, shared: Session, source: str, faults: list[Faults]) -> Result:
    name = "-".join(f"{one.verb}-{one.kind}-{one.rate}" for one in faults).replace(" ", "-")
    store, before = S3Store(shared.s3, name), _temporary(shared)
    shared.proxy.set(*faults)
    runs = run_until_done(world.flags(source, store.url), shared)
    broken = shared.proxy.injected()
    shared.proxy.set()
    result = Result(f"{', '.join(map(_named, faults))} ({sum(broken)} broken)")
    if not all(broken):
        result.problems.append("nothing was broken")
    result.problems += [f"left over: {path}" for path in _temporary(shared) - before]
    return world.check(result, store, runs)


def _temporary(shared: Session) -> set[Path]:
    return set(Path(shared.folder).glob("wavmill-*"))


def _upload(world: World, shared: Session, faults: Faults) -> Result:
    """Publish one large file through the proxy."""
    s3, path = shared.s3, world.folder / "large.bin"
    if not path.exists():
        path.write_bytes(os.urandom(UPLOAD_MB << 20))
    shared.proxy.set(faults)
    place = f"upload-{faults.kind}-{faults.rate}".replace(" ", "-")
    command = [sys.executable, "-c", UPLOAD, str(path), f"s3://{s3.bucket}/{place}"]
    env = environment(shared.proxy.env)
    done = subprocess.run(command, cwd=ROOT, env=env, timeout=300, capture_output=True, text=True)
    (broken,) = shared.proxy.injected()
    shared.proxy.set()
    result = Result(f"{_named(faults)} ({broken} broken)", times=1, samples=1)
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
