"""Input tars, sound and broken, sample by sample."""

import gzip
import pickle
import tarfile

import numpy as np
import pyarrow
import pytest
from models import Bomb
from tars import FORMATS, OneWay, special, tar

from pipeline.shards import samples as shards
from pipeline.shards.samples import read_samples


def listed(data):
    """(key, problem, audio bytes, metadata) of each sample, in the order of their first members."""
    rows, late = [], {}
    for sample in read_samples(OneWay(data), late):
        assert (sample.audio is None) == (sample.problem is not None)
        sound = None
        if sample.audio is not None:
            with sample.audio as audio:
                audio.seek(0)
                sound = audio.read()
        rows.append((sample.place, [sample.key, sample.problem, sound, sample.metadata]))
    for _, row in rows:
        if row[1] is None and row[0] in late:
            row[3] = late[row[0]].value
    return [tuple(row) for _, row in sorted(rows, key=lambda row: row[0])]


@pytest.mark.parametrize("form", FORMATS)
def test_members_of_one_key_are_one_sample_in_order(form):
    deep = "a/" * 40 + "long" * 15  # over 100 characters: an extension of every tar format
    data = tar(
        ("b.json", b'{"text": {"de": ["x", null]}, "n": 1.5}'),
        ("b.flac", b"sound b"),
        ("b.txt", b"hello"),
        ("a.WAV", b"sound a"),
        ("./dotted/c.ogg", b"sound c"),
        ("./dotted/c.json", b"[1, 2]"),
        ("d.left.mp3", b"sound d"),
        ("d.speaker.json", b'"of another ending"'),
        ("v1.0/e.opus", b"sound e"),
        (f"{deep}.flac", b"f" * 3000),
        ("zh/你好.flac", b"sound g"),
        form=form,
    )
    assert listed(data) == [
        ("b", None, b"sound b", {"text": {"de": ["x", None]}, "n": 1.5}),
        ("a", None, b"sound a", None),
        ("dotted/c", None, b"sound c", [1, 2]),
        ("d", None, b"sound d", None),
        ("v1.0/e", None, b"sound e", None),
        (deep, None, b"f" * 3000, None),
        ("zh/你好", None, b"sound g", None),
    ]
    assert listed(gzip.compress(data)) == listed(data)


def test_samples_that_cannot_be_used_come_with_their_problem():
    data = tar(
        ("two.flac", b"1"),
        ("two.wav", b"2"),
        ("none.json", b"{}"),
        ("none.txt", b"no sound"),
        ("seen.wav", b"3"),
        ("between.wav", b"4"),
        ("seen.flac", b"5"),
        ("../out.wav", b"6"),
        ("/root.wav", b"7"),
        ("in/../../out.wav", b"8"),
        (".hidden.wav", b"9"),
        ("last.wav", b"10"),
    )
    assert [(key, problem, sound) for key, problem, sound, _ in listed(data)] == [
        ("two", shards.TWO_AUDIOS, None),
        ("none", shards.NO_AUDIO, None),
        ("seen", None, b"3"),
        ("between", None, b"4"),
        ("seen", shards.DUPLICATE_KEY, None),
        ("../out", shards.BAD_NAME, None),
        ("/root", shards.BAD_NAME, None),
        ("in/../../out", shards.BAD_NAME, None),
        (".hidden.wav", shards.BAD_NAME, None),
        ("last", None, b"10"),
    ]


def test_what_is_no_member_of_a_sample_is_passed_over():
    data = tar(
        special("v1.0", tarfile.DIRTYPE),
        special("folder.wav", tarfile.DIRTYPE),
        ("._a.wav", b"what macOS adds"),
        ("a.wav", b"1"),
        ("./._a.json", b"{"),
        ("a.json", b"{}"),
        ("README", b"no ending"),
        special("link.wav", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard.wav", tarfile.LNKTYPE, "a.wav"),
        special("pipe.wav", tarfile.FIFOTYPE),
        ("b.wav", b"2"),
    )
    rows = listed(data)
    assert rows[0] == ("a", None, b"1", {})
    # Links and pipes are samples without audio: accounted for, and followed nowhere.
    assert [row[:2] for row in rows[1:4]] == [
        (key, shards.NO_AUDIO) for key in ("link", "hard", "pipe")
    ]
    assert rows[4:] == [("b", None, b"2", None)]


def test_pickles_are_never_loaded(tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "loaded"))
    endings = ("pyd", "pickle", "pkl", "pth", "npy", "npz", "tokens.npy")
    members = [(f"a.{ending}", bomb) for ending in endings]
    assert listed(tar(("a.wav", b"1"), *members)) == [("a", None, b"1", None)]
    assert not (tmp_path / "loaded").exists()
    pickle.loads(bomb)  # it would have shown
    assert (tmp_path / "loaded").exists()


@pytest.mark.parametrize(
    "text", [b"{", b"", b"\xff\xfe", b"{'a': 1}", b"[" * 10**6, b"[1" + b"0" * 5000 + b"]"]
)
def test_bad_metadata_costs_no_sample(text):
    (sample,) = read_samples(OneWay(tar(("a.wav", b"1"), ("a.json", text))))
    assert (sample.problem, sample.metadata) == (None, None)
    assert "JSON" in sample.metadata_error


def test_names_that_are_not_utf8_can_be_reported():
    data = tar(("café.wav", b"1"), ("b.wav", b"2"), encoding="latin-1")
    rows = listed(data)
    assert len(rows) == 2 and rows[1][2] == b"2"
    # As a report's column: a key that cannot be written would fail its whole shard.
    pyarrow.array([row[0] for row in rows], pyarrow.string())


# Four samples of an audio member over two blocks and a json; a header is 512 bytes.
MEMBERS = [
    member
    for i in range(4)
    for member in ((f"{i}.wav", bytes([i]) * 700), (f"{i}.json", b'{"i": %d}' % i))
]
SAMPLE_BYTES = 512 + 1024 + 512 + 512


def whole(count):
    return [(str(i), None, bytes([i]) * 700, {"i": i}) for i in range(count)]


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_tar_gives_what_came_before_and_says_so(form):
    data = tar(*MEMBERS, form=form)
    assert listed(data) == whole(4)
    for size in range(0, 4 * SAMPLE_BYTES + 1, 64):
        rows = listed(data[:size])
        *before, (broken, problem, sound, _) = rows
        assert (problem, sound) == (shards.BROKEN_TAR, None), size
        count, within = divmod(size, SAMPLE_BYTES)
        sound_is_whole = within >= 512 + 700
        assert before[:count] == whole(count)
        # With its sound whole a sample is good, though its json may be lost.
        assert [row[:3] for row in before[count:]] == [
            row[:3] for row in whole(count + sound_is_whole)[count:]
        ]
        if within >= 512 and not sound_is_whole:
            assert broken == str(count)  # the name is known, and what it named is lost
    # Of the two zero blocks at the end one is enough.
    assert listed(data[: 4 * SAMPLE_BYTES + 512]) == whole(4)


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("damage", ["checksum", "size", "noise", "zeros"])
def test_a_damaged_header_is_a_break_and_not_the_end(place, damage):
    data, at = tar(*MEMBERS), place * SAMPLE_BYTES
    if damage == "checksum":
        data = data[: at + 148] + b"0000000\0" + data[at + 156 :]
    elif damage == "size":
        data = data[: at + 124] + b"x" * 12 + data[at + 136 :]
    elif damage == "noise":
        data = data[:at] + np.random.default_rng(0).bytes(512) + data[at + 512 :]
    else:
        # A lone zero block, as where a disk lost one: two end a tar, and only zeros follow them.
        data = data[:at] + bytes(512) + data[at + 512 :]
    rows = listed(data)
    assert rows[:-1] == whole(place)
    assert rows[-1][1] == shards.BROKEN_TAR


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_no_damage_raises_and_no_sound_is_invented(compress):
    random, data = np.random.default_rng(1), tar(*MEMBERS, form="pax")
    sounds = {row[2] for row in whole(4)}
    for _ in range(1000):
        damaged = bytearray(compress(data[: 4 * SAMPLE_BYTES + 1024]))
        headers = [i * 512 for i in (0, 3, 5, 8, 10, 13)]
        for _ in range(int(random.integers(1, 4))):
            place = random.integers(len(damaged))
            if compress is bytes:
                place = random.choice(headers) + random.integers(512)
            damaged[place] ^= 1 << random.integers(8)
        rows = listed(bytes(damaged))
        problems = [row[1] for row in rows]
        assert shards.BROKEN_TAR not in problems[:-1]
        if compress is bytes:
            assert {row[2] for row in rows} <= sounds | {None}


def test_a_tar_of_nothing_and_no_tar_at_all():
    assert listed(tar()) == []
    assert listed(bytes(1024)) == []
    for data in (b"", b"\x1f\x8b", b"no tar at all" * 1000, gzip.compress(tar(*MEMBERS))[:20]):
        assert [row[:2] for row in listed(data)] == [("", shards.BROKEN_TAR)]
    random = np.random.default_rng(3)
    half = gzip.compress(tar(*[(f"{i}.wav", random.bytes(9000)) for i in range(9)]))
    rows = listed(half[: len(half) // 2])
    assert 2 < len(rows) < 9
    assert [row[1] for row in rows] == [None] * (len(rows) - 1) + [shards.BROKEN_TAR]


def test_a_failing_store_is_not_taken_for_a_broken_tar():
    data = tar(*[(f"{i}.wav", bytes(40_000)) for i in range(5)])
    for after in (0, 30_000, 100_000, 200_000):
        with pytest.raises(ConnectionResetError):
            list(read_samples(OneWay(data, fails_after=after)))
