"""Archives of several parts, members that lie apart, and inputs made to fill a memory."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tracemalloc
import zlib

import numpy as np
import pytest
from tars import FORMATS, OneWay, sparse, tar
from test_shards import listed

from pipeline.shards import samples as shards
from pipeline.shards.metadata import LARGEST_JSON
from pipeline.shards.samples import read_samples
from tokenizer.storage import tars, token_shards, unpacking
from tokenizer.storage.token_shards import add_metadata, read_tokens

PACKS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
SOUND = random.Random(0).randbytes(3000)
PLAIN = tar(*((f"u{n}.wav", SOUND + bytes([n])) for n in range(40)))
KEYS = [f"u{n}" for n in range(40)]


def keys(data: bytes) -> list[str]:
    """Keys of a tar's sound samples; fails for any other row."""
    rows = listed(data)
    assert all(row[1] is None and row[2][:3000] == SOUND for row in rows), rows
    return [row[0] for row in rows]


@pytest.mark.parametrize("kind", PACKS)
def test_compressed_tars_of_several_members(kind):
    pack = PACKS[kind]
    pieces = [PLAIN[start : start + 65_280] for start in range(0, len(PLAIN), 65_280)]
    for parts in (
        [PLAIN],
        [PLAIN[:700], PLAIN[700:]],
        [PLAIN[:512], b"", PLAIN[512:]],
        pieces,  # as bgzip writes them
        [*pieces, b""],
    ):
        data = b"".join(map(pack, parts))
        assert keys(data) == KEYS
        assert keys(data + bytes(10_000)) == KEYS  # a tape's block
    for cut in (len(data) // 2, len(data) - 5):
        rows = listed(data[:cut])
        assert rows[-1][1] == shards.BROKEN_TAR
    assert listed(pack(PLAIN) + b"this is no member")[-1][1] == shards.BROKEN_TAR


@pytest.mark.parametrize("form", FORMATS)
def test_joined_tars_are_read_to_the_end(form):
    parts = [tar((f"u{n}.wav", SOUND), form=form) for n in range(3)]
    assert keys(b"".join(parts)) == ["u0", "u1", "u2"]
    assert keys(gzip.compress(parts[0]) + gzip.compress(parts[1] + parts[2])) == ["u0", "u1", "u2"]
    many = [tar((f"u{n}.wav", SOUND), form=form) for n in range(500)]
    assert keys(b"".join(many)) == [f"u{n}" for n in range(500)]
    rows = listed(parts[0] + b"\1" * 3000)
    assert [row[1] for row in rows] == [None, shards.BROKEN_TAR]


@pytest.mark.parametrize("size", [65 << 20, 1 << 20], ids=["one member", "many"])
@pytest.mark.parametrize("kind", PACKS)
def test_a_bomb_is_a_broken_tar_in_little_memory(kind, size, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 4 << 20)
    header = tar(("bomb.wav", b""))[:512]
    zeros = bytearray(header + bytes(64 << 20))
    zeros[124:136] = b"%011o\0" % (60 << 20)
    zeros[148:156] = b"%06o\0 " % sum(zeros[:148] + b" " * 8 + zeros[156:512])
    bomb = b"".join(
        PACKS[kind](bytes(zeros[start : start + size])) for start in range(0, len(zeros), size)
    )
    assert len(bomb) < 70_000
    del zeros
    tracemalloc.start()
    rows = listed(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[-1][1] == shards.BROKEN_TAR
    assert peak < 50 << 20


def test_an_xz_that_asks_for_gigabytes_is_a_broken_tar():
    data = bytearray(lzma.compress(PLAIN, check=lzma.CHECK_NONE))
    at = 12  # the header of the first block: its size, flags, filter, and the size of its window
    size = 4 * (data[at] + 1)
    assert data[at + 2 : at + 4] == b"\x21\x01"
    for window, reasons in ((22, [None] * len(KEYS)), (40, [shards.BROKEN_TAR])):
        data[at + 4] = window
        data[at + size - 4 : at + size] = zlib.crc32(data[at : at + size - 4]).to_bytes(4, "little")
        rows = listed(bytes(data))
        assert [row[1] for row in rows] == reasons


def test_holes_are_zeros_but_no_bomb():
    data = sparse("a.wav", SOUND[:512], 2000)
    assert listed(data) == [("a", None, SOUND[:512] + bytes(1488), None)]
    rows = listed(tar(("good.wav", SOUND)) + sparse("bomb.wav", SOUND[:512], 5 << 30))
    assert [row[1] for row in rows] == [None, shards.BROKEN_TAR]


@pytest.mark.parametrize("kind", ["pax", "gnu"])
def test_a_huge_header_is_a_broken_tar(kind):
    name = "x" * (tars.LARGEST_HEADER + 10) + ".wav"
    data = tar(("good.wav", SOUND), (name, SOUND), form=kind)
    assert [row[1] for row in listed(data)] == [None, shards.BROKEN_TAR]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_without_end_are_a_broken_tar(kind):
    text = b"b.wav\0" if kind == tarfile.GNUTYPE_LONGNAME else b"14 path=b.wav\n"
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, len(text)
    one = header.tobuf() + text.ljust(512, b"\0")
    good = tar(("a.wav", SOUND))
    assert listed(3 * one + good) == [("b", None, SOUND, None)]
    rows = listed(good[:3584] + 3000 * one + good)
    assert [row[1] for row in rows] == [None, shards.BROKEN_TAR]


def test_headers_of_the_archive_are_bounded():
    text = b"%d comment=" % (1 << 19)
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XGLTYPE, 1 << 19
    one = header.tobuf() + (text.ljust((1 << 19) - 1, b"x") + b"\n") + tar(("a.wav", b""))[:512]
    assert listed(4 * one)[-1][1] == shards.BROKEN_TAR


def test_the_map_of_a_sparse_file_is_bounded(monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_HEADER", 1 << 16)
    good = tar(("good.wav", SOUND))
    old = bytearray(sparse("a.wav", SOUND[:512], 2000)[:512])
    old[482] = 1  # another block of the map follows
    old[148:156] = b"%06o\0 " % sum(old[:148] + b" " * 8 + old[156:])
    block = bytearray(b"%011o\0%011o\0" % (1, 1) * 21 + bytes(8))
    block[504] = 1
    pax = io.BytesIO()
    with tarfile.open(fileobj=pax, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.wav")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        info.pax_headers |= {"GNU.sparse.name": "a.wav", "GNU.sparse.realsize": "2000"}
        lines = b"99999999\n" + b"0\n" * (1 << 16)
        info.size = len(lines)
        archive.addfile(info, io.BytesIO(lines))
    for bad in (bytes(old) + 3000 * bytes(block), bytes(old) + bytes(block), pax.getvalue()):
        assert [row[1] for row in listed(good[:-1024] + bad)][-1] == shards.BROKEN_TAR


def test_a_member_that_claims_to_be_endless_ends_soon():
    header = bytearray(tar(("long.bin", b""))[:512])
    header[124:136] = b"\x80" + (1 << 62).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:])
    rows = listed(tar(("good.wav", SOUND)) + bytes(header) + bytes(5000))
    assert [row[1] for row in rows] == [None, shards.BROKEN_TAR]


JSON = {n: json.dumps({"n": n, "text": "x" * n}).encode() for n in range(6)}
SOUNDS = [(f"u{n}.wav", SOUND) for n in range(6)]
TEXTS = [(f"u{n}.json", JSON[n]) for n in range(6)]
ORDERS = {
    "side by side": [member for pair in zip(SOUNDS, TEXTS) for member in pair],
    "json first": TEXTS + SOUNDS,
    "audio first": SOUNDS + TEXTS,
    "reversed": TEXTS[::-1] + SOUNDS,
    "mixed": [*SOUNDS[:3], *TEXTS[::-1], *SOUNDS[3:]],
}


@pytest.mark.parametrize("order", ORDERS)
def test_members_that_lie_apart_belong_together(order):
    rows = listed(tar(*ORDERS[order]))
    assert len(rows) == 6
    assert {row[0]: row[3]["n"] for row in rows} == {f"u{n}": n for n in range(6)}
    assert all(row[1] is None and row[2] == SOUND for row in rows)


def test_json_that_comes_late_is_put_into_the_token_shard(tmp_path):
    path = tmp_path / "a.tar"
    writer = token_shards.TokenShardWriter(path, shard="a", codebook_size=16)
    for key in ("u0", "u1"):
        writer.add(
            key,
            np.arange(5),
            duration_s=0.1,
            sample_rate=16_000,
            metadata=None,
            metadata_error=None,
        )
    writer.close()
    add_metadata(path, {"u1": ({"speaker": "x"}, None), "u0": (None, "not JSON")})
    with path.open("rb") as file:
        about = {u.key: u.about for u in read_tokens(file, codebook_size=16)}
    assert about["u1"]["metadata"] == {"speaker": "x"} and "metadata_error" not in about["u1"]
    assert about["u0"]["metadata_error"] == "not JSON" and about["u0"]["num_tokens"] == 5


def test_a_sidecar_of_a_name_with_dots():
    rows = listed(tar(("a.b 2.0.flac", SOUND), ("a.b 2.0.json", b'{"n": 1}')))
    assert [(row[1], row[3]) for row in rows] == [(None, {"n": 1})]


def test_recordings_that_share_a_name_up_to_the_first_dot():
    members = [(f"speaker.{n:02d}.flac", SOUND + bytes([n])) for n in range(4)]
    rows = listed(tar(*members, ("next.flac", SOUND)))
    assert [row[:2] for row in rows] == [
        *((f"speaker_{n:02d}", None) for n in range(4)),
        ("next", None),
    ]
    assert [row[2] for row in rows[:4]] == [member[1] for member in members]
    both = [
        (f"s.{n}.{kind}", SOUND if kind == "wav" else b'{"n": %d}' % n)
        for n in range(3)
        for kind in ("wav", "json")
    ]
    assert [row[3] for row in listed(tar(*both))] == [{"n": n} for n in range(3)]


def test_keys_that_other_readers_would_skip():
    rows = listed(tar(("__d__/a.wav", SOUND), ("__d__/a.json", b'{"n": 1}'), ("b.wav", SOUND)))
    assert [(row[0], row[3]) for row in rows] == [("_d__/a", {"n": 1}), ("b", None)]


@pytest.mark.parametrize("letter", ["\n", "\t", "\x1b", "\x7f", "\x85"])
def test_control_characters_are_a_bad_name(letter):
    rows = listed(tar(("good.wav", SOUND), (f"a{letter}b.wav", SOUND), ("last.wav", SOUND)))
    assert [row[1] for row in rows] == [None, shards.BAD_NAME, None]
    assert all(character.isprintable() for character in rows[1][0])


def test_nul_in_a_pax_name_is_a_bad_name():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("plain.wav")
        info.size, info.pax_headers = len(SOUND), {"path": "a\0b.wav"}
        archive.addfile(info, io.BytesIO(SOUND))
    assert [row[1] for row in listed(file.getvalue())] == [shards.BAD_NAME]


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity", "[1, {'a': 1e400}]"])
def test_what_is_no_number_in_json_is_none_in_the_output(text):
    data = tar(("a.wav", SOUND), ("a.json", f'{{"x": {text}}}'.replace("'", '"').encode()))
    sample = next(iter(read_samples(OneWay(data))))
    out = json.dumps(sample.metadata, allow_nan=False)
    assert sample.metadata_error is None and "null" in out
    sample.audio.close()


def test_a_large_json_is_not_parsed():
    large = b'"' + b"x" * LARGEST_JSON + b'"'
    sample = next(iter(read_samples(OneWay(tar(("a.wav", SOUND), ("a.json", large))))))
    assert sample.metadata is None and "over 4 MB of json" in sample.metadata_error
    sample.audio.close()


def test_json_that_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(shards, "MOST_WAITING_JSON", 100)
    rows = list(read_samples(OneWay(tar(*TEXTS, *SOUNDS))))
    errors = [row.metadata_error for row in rows]
    assert [row.key for row in rows] == [f"u{n}" for n in range(6)]
    assert errors[0] is None and "lies apart" in errors[-1]
    for row in rows:
        row.audio.close()
