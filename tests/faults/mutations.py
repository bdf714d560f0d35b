"""Valid inputs, and mutations of them by bytes and by structure. Each is known by its seed."""

import bz2
import functools
import gzip
import io
import json
import lzma
import random
import re
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tars import sparse

from faults import containers

RATE = 16_000
MOST_BYTES = 1 << 20  # of a mutation
# What readers of headers trip over.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
NAMES = (
    "../x.wav",
    "/etc/x.wav",
    "a//b.wav",
    "./a.wav",
    ".wav",
    "a.",
    "wav",
    "a\x00b.wav",
    "a\nb.wav",
    "__d__/a.wav",
    "a.b.c.wav",
    "é" * 60 + ".wav",
    "x" * 300 + ".wav",
    "a.json",
    "a.tokens.npy",
    "a.tokens.json",
)
VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    1e308,
    "",
    "a",
    "\ud800",
    "../x",
    [],
    [1, 2, 3],
    [-1],
    [1.0, 2.0],
    ["1"],
    [[1]],
    [None],
    [2**63],
    {},
    {"a": {"b": [1]}},
)


def speech(seconds: float = 0.3) -> np.ndarray:
    """A sound that no decoder takes for silence."""
    times = np.arange(int(RATE * seconds)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * times * (1 + times))).astype(np.float32)


@functools.cache
def audio_files() -> list[bytes]:
    """A small file of each container that is decoded."""
    return [data for _, data, _ in containers.forms(speech())]


def tar_of(members: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def audio_tars() -> list[bytes]:
    """Small shards of each form of tar."""
    members = []
    for number in range(3):
        members.append((f"folder/u{number}.wav", b"RIFF" + bytes([number]) * 700))
        members.append((f"folder/u{number}.json", json.dumps({"speaker": number}).encode()))
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    tars = [tar_of(members, form) for form in forms]
    tars.append(tar_of([("x" * 200 + ".wav", b"y" * 600)], tarfile.PAX_FORMAT))
    return [*tars, tars[0] * 2, sparse("a.wav", b"y" * 512, size=3000)]


def packed_tars() -> list[bytes]:
    """The same, compressed, of one member and of several."""
    tars = audio_tars()
    packs = (gzip.compress, bz2.compress, lzma.compress)
    packed = [pack(tar) for tar in tars[:2] for pack in packs]
    return [*packed, gzip.compress(tars[0][:2000]) + gzip.compress(tars[0][2000:])]


def array(values: np.ndarray) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def token_shards() -> list[bytes]:
    """Shards of tokens, with their json."""
    members = []
    for number in range(3):
        tokens = np.arange(20 + number, dtype=np.uint16)
        about = {"duration_s": 0.4, "num_tokens": len(tokens), "metadata": None}
        members.append((f"u{number}.tokens.npy", array(tokens)))
        members.append((f"u{number}.json", json.dumps(about).encode()))
    return [tar_of(members), tar_of(members[::-1]), tar_of(members, tarfile.PAX_FORMAT)]


def reports() -> list[bytes]:
    """Parquet files as reports are, and with other columns."""
    row = {"shard": "a", "key": "k", "status": "ok", "reason": None, "duration_s": 1.0}
    tables = [
        pa.Table.from_pylist([{**row, "num_tokens": n} for n in range(20)]),
        pa.table({"key": ["a"]}),
        pa.table({"status": [1], "reason": [2.0], "duration_s": ["x"], "num_tokens": [[1]]}),
    ]
    metadata = {b"incomplete": b"false", b"input": b'[1, "x"]'}
    files = []
    for table in (*tables, tables[0].replace_schema_metadata(metadata)):
        file = io.BytesIO()
        pq.write_table(table, file)
        files.append(file.getvalue())
    return files


def json_lines() -> list[bytes]:
    """Lines of units and of phones."""
    rows = [{"key": f"u{n}", "units": [1, 2, 3], "speaker": "x"} for n in range(5)]
    rows += [{"key": f"p{n}", "frame_ms": 20, "phones": ["a", "b"]} for n in range(3)]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def by_bytes(data: bytes, chosen: random.Random) -> bytes:
    """A few changes anywhere in a file; headers, at its beginning, more often than the rest."""
    out = bytearray(data)
    for _ in range(chosen.choice((1, 1, 1, 2, 4, 16))):
        end = len(out) if chosen.random() < 0.6 else min(len(out), 600)
        place = chosen.randrange(max(end, 1))
        length = chosen.choice((1, 2, 4, 8, 64, 512, 4096))
        what = chosen.randrange(8)
        if what == 0:
            out[place : place + 1] = bytes([chosen.randrange(256)])
        elif what == 1:
            del out[place:]
        elif what == 2:
            del out[place : place + length]
        elif what == 3:
            out[place:place] = chosen.randbytes(length)
        elif what == 4:
            out[place:place] = out[place : place + length]
        elif what == 5:
            out[place : place + length] = bytes(min(length, len(out) - place))
        elif what == 6:
            form = chosen.choice(("<I", ">I", "<Q", ">Q", "<H", ">H"))
            number = chosen.choice(NUMBERS) & (2 ** (8 * struct.calcsize(form)) - 1)
            packed = struct.pack(form, number)
            out[place : place + len(packed)] = packed
        else:
            out += chosen.choice((b"\n", bytes(512), chosen.randbytes(128), bytes(data[:300])))
    return bytes(out)


# Names of chunks, boxes, elements, pages and frames, beside which their sizes stand.
PIECES = re.compile(
    rb"RIFF|RF64|ds64|fmt |fact|data|FORM|COMM|SSND|VHDR|BODY|caff|desc|pakt|OggS|fLaC|ftyp|moov"
    rb"|trak|mdat|stbl|stsz|stsc|stco|stsd|moof|trun|\.snd|Xing|Info|\x1aE\xdf\xa3|\x18S\x80g|\x1fC\xb6u"
    rb"|\xff[\xe2-\xff]"
)


def audio_by_structure(data: bytes, chosen: random.Random) -> bytes:
    """A file whose pieces are repeated, left out, moved or of a wrong size, or of another file."""
    for _ in range(chosen.choice((1, 1, 2, 3))):
        places = [match.start() for match in PIECES.finditer(data)] or [0]
        other = chosen.choice(audio_files())
        first, last = sorted(chosen.choices([*places, len(data)], k=2))
        place, what = chosen.choice(places), chosen.randrange(6)
        if what == 0:
            data = data[:first] + data[last:]
        elif what == 1:
            data = data[:last] + data[first:]
        elif what == 2:
            data = data[:place] + other + data[place:]
        elif what == 3:
            data = chosen.choice((data + other, other + data, data + data))
        elif what == 4:
            data = data[last:] + data[:first]
        else:
            form = chosen.choice(("<I", ">I", "<Q", ">Q", "<H", ">H", "B"))
            number = chosen.choice(NUMBERS) & (2 ** (8 * struct.calcsize(form)) - 1)
            packed, place = struct.pack(form, number), max(0, place + chosen.randrange(-8, 24))
            data = data[:place] + packed + data[place + len(packed) :]
        data = data[:MOST_BYTES]
    return data


def tar_by_structure(data: bytes, chosen: random.Random) -> bytes:
    """A tar of the same contents with odd names, headers, orders and kinds of member."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(i.name, archive.extractfile(i).read()) for i in archive if i.isreg()]
    file = io.BytesIO()
    chosen.shuffle(members)
    form = chosen.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(chosen.choice((name, name, chosen.choice(NAMES))))
            content = chosen.choice((content, content, b"", odd_member(chosen)))
            info.size = len(content)
            info.type = chosen.choice((tarfile.REGTYPE,) * 6 + (b"1", b"2", b"3", b"5", b"7"))
            if form == tarfile.PAX_FORMAT and chosen.random() < 0.3:
                key = chosen.choice(("size", "path", "GNU.sparse.map", "comment", "mtime"))
                info.pax_headers = {key: str(chosen.choice((*NUMBERS, "", "x", "-1", "0,1,2")))}
            archive.addfile(info, io.BytesIO(content))
    out = bytearray(file.getvalue())
    for _ in range(chosen.choice((0, 0, 1, 2))):  # a field of a header, under a good checksum
        start = 512 * chosen.randrange(len(out) // 512)
        place = start + chosen.choice((0, 100, 124, 136, 156, 257, 345))
        out[place : place + 8] = chosen.choice((b"\x80" + b"\xff" * 7, b"77777777", b"\0" * 8))
        header = bytes(out[start : start + 148]) + b" " * 8 + bytes(out[start + 156 : start + 512])
        out[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(out)


def odd_member(chosen: random.Random) -> bytes:
    """The content of a json or npy member that is none."""
    what = chosen.randrange(4)
    if what == 0:
        return json.dumps(chosen.choice(VALUES)).encode()
    if what == 1:
        return b"[" * chosen.choice((10, 100_000))
    if what == 2:
        kinds = ("<u2", ">u2", "<i8", "<f8", "?", "<U3", "<c16", "<M8[s]", "S2")
        shape = chosen.choice(((5,), (0,), (), (2, 3)))
        return array(np.zeros(shape, chosen.choice(kinds)))
    shape = chosen.choice(("(99999999999,)", "(-1,)", "(2,2,", "(True,)", "()"))
    kind = chosen.choice(("'<u2'", "'|O'", "'<V8'", "[('a','<u2')]", "'x'"))
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def lines_by_structure(_: bytes, chosen: random.Random) -> bytes:
    """Lines with odd values under the names that are read."""
    lines = []
    for _ in range(chosen.randrange(1, 8)):
        names = chosen.sample(("key", "units", "frame_ms", "phones", "speaker"), 3)
        lines.append(json.dumps({name: chosen.choice(VALUES) for name in names}))
    return ("\n".join(lines) + chosen.choice(("", "\n", "\n\n"))).encode()
