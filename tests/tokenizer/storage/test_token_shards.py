"""Token shards, as others will read them, and as ours reads those of others."""

import io
import tarfile

import numpy as np
import pytest
import webdataset
from tars import OneWay, special, tar

from pipeline.shards import samples as shards
from pipeline.shards.report import ShardReport
from pipeline.shards.samples import read_samples
from tokenizer.storage.token_folder import TokenFolder, find_report
from tokenizer.storage.token_shards import TokenShardError, TokenShardWriter, read_tokens

TOKENS = {
    "a": np.random.default_rng(2).integers(0, 1 << 16, 1000),
    "deep/" * 25 + "b": np.random.default_rng(3).integers(0, 1 << 16, 7),
    "zh/你好": np.zeros(1, np.int64),
}


def write_shard(path, codebook_size=1 << 16):
    """A token shard of TOKENS."""
    writer = TokenShardWriter(path, shard="s", codebook_size=codebook_size)
    for key, values in TOKENS.items():
        writer.add(key, values, duration_s=1.5, sample_rate=8000, metadata={"k": [key]})
    writer.close()


@pytest.mark.parametrize("codebook_size, dtype", [(1 << 16, np.uint16), (1 << 20, np.uint32)])
def test_token_shards_are_the_same_bytes_and_webdataset_reads_them(tmp_path, codebook_size, dtype):
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for path in paths:
        write_shard(path, codebook_size)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with tarfile.open(paths[0]) as archive:
        for info in archive:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
    read = list(webdataset.WebDataset(str(paths[0]), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in read] == list(TOKENS)
    for sample, (key, values) in zip(read, TOKENS.items(), strict=True):
        assert sample["tokens.npy"].dtype == dtype
        assert np.array_equal(sample["tokens.npy"], values)
        assert sample["json"] == about_of(key)
    # Read as an audio shard it has the keys, and nothing to tokenize.
    with paths[0].open("rb") as file:
        rows = [(sample.key, sample.problem) for sample in read_samples(file)]
    assert rows == [(key, shards.NO_AUDIO) for key in TOKENS]


def about_of(key):
    """KEY.json as write_shard writes it."""
    return {
        "duration_s": 1.5,
        "sample_rate": 8000,
        "num_tokens": len(TOKENS[key]),
        "shard": "s",
        "metadata": {"k": [key]},
    }


@pytest.mark.parametrize("order", ["as written", "json first", "all json first", "shuffled"])
def test_tokens_are_paired_with_their_json_in_any_order(tmp_path, order):
    write_shard(tmp_path / "s.tar")
    with tarfile.open(tmp_path / "s.tar") as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive]
    if order == "json first":
        members = [m for pair in zip(members[1::2], members[::2], strict=True) for m in pair]
    elif order == "all json first":
        members = members[1::2] + members[::2]
    elif order == "shuffled":
        members = [members[i] for i in np.random.default_rng(0).permutation(len(members))]
    data = tar(special("deep", tarfile.DIRTYPE), ("./extra.txt", b"?"), *members)
    rows = list(read_tokens(OneWay(data)))
    assert sorted(row.key for row in rows) == sorted(TOKENS)
    if order != "shuffled":
        assert [row.key for row in rows] == list(TOKENS)
    for row in rows:
        assert np.array_equal(row.tokens, TOKENS[row.key]) and row.about == about_of(row.key)
    # Tokens alone need no KEY.json, and come in the order of their members.
    some = [(name, data) for name, data in members if order != "shuffled" or "json" not in name]
    bare = list(read_tokens(OneWay(tar(*some)), with_json=False))
    assert [row.about for row in bare] == [{}] * len(TOKENS)
    assert all(np.array_equal(row.tokens, TOKENS[row.key]) for row in bare)


def array(values, **options):
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def header(shape: str) -> bytes:
    """A .npy file that claims a shape."""
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


GOOD = array(np.arange(5, dtype=np.uint16))
# What is no token shard: (members, what the error says).
NO_TOKEN_SHARDS = {
    "audio": ([("a.flac", b"1"), ("a.json", b"{}")], "holds no tokens"),
    "no-json": ([("a.tokens.npy", GOOD)], "lacks a.json"),
    "no-tokens": (
        [("a.tokens.npy", GOOD), ("a.json", b"{}"), ("b.json", b"{}")],
        "lacks b.tokens.npy",
    ),
    "tokens-twice": ([("a.tokens.npy", GOOD), ("a.tokens.npy", GOOD)], "a.tokens.npy twice"),
    "json-twice": (
        [("a.tokens.npy", GOOD), ("a.json", b"{}"), ("a.json", b"{}")],
        "a.json twice",
    ),
    "two-dimensions": ([("a.tokens.npy", array(np.zeros((2, 3), int)))], "a holds no tokens"),
    "floats": ([("a.tokens.npy", array(np.zeros(3)))], "a holds no tokens .float64"),
    "huge": ([("a.tokens.npy", header(f"({10**15},)"))], "a holds no tokens"),
    "endless": ([("a.tokens.npy", header(f"({10**30},)"))], "a holds no tokens"),
    "nested": ([("a.tokens.npy", header("(1," * 3000))], "a holds no tokens"),
    "no-shape": ([("a.tokens.npy", header("(True,)"))], "a holds no tokens"),
    "no-array": ([("a.tokens.npy", b"text")], "a holds no tokens"),
    "pickle": ([("a.tokens.npy", array(np.array([{}]), allow_pickle=True))], "a holds no tokens"),
    "over-the-codebook": ([("a.tokens.npy", GOOD)], "a token 4 outside the codebook of 4"),
    "negative": ([("a.tokens.npy", array(np.array([0, -3])))], "a token -3 outside"),
    "no-object": ([("a.tokens.npy", GOOD), ("a.json", b"[]")], "a.json is not a JSON object"),
    "bad-json": ([("a.tokens.npy", GOOD), ("a.json", b"{")], "a.json is not JSON"),
}


@pytest.mark.parametrize("members, says", NO_TOKEN_SHARDS.values(), ids=NO_TOKEN_SHARDS)
def test_what_is_no_token_shard_is_told(members, says):
    codes = 4 if "codebook" in says or "outside" in says else None
    with pytest.raises(TokenShardError, match=says):
        list(read_tokens(OneWay(tar(*members)), codebook_size=codes))


def test_a_huge_member_is_told_before_it_is_read():
    for name in ("a.tokens.npy", "a.json"):
        info = tarfile.TarInfo(name)
        info.size = 1 << 40
        with pytest.raises(TokenShardError, match=f"its {name} has 1,099,511,627,776 bytes"):
            list(read_tokens(OneWay(info.tobuf())))


def test_a_cut_or_damaged_token_shard_is_told(tmp_path):
    assert list(read_tokens(OneWay(tar()))) == []  # a shard of rejected samples only
    write_shard(tmp_path / "s.tar")
    data = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as archive:
        ends = [info.offset for info in archive][1:]
    for end in ends:
        with pytest.raises(TokenShardError, match="cut or damaged after"):
            list(read_tokens(OneWay(data[:end])))
        damaged = data[:end] + b"\xa5" * 512 + data[end + 512 :]
        with pytest.raises(TokenShardError, match="cut or damaged after"):
            list(read_tokens(OneWay(damaged), with_json=False))
    with pytest.raises(TokenShardError, match="holds no tokens"):
        list(read_tokens(OneWay(b"no tar at all" * 1000)))
    with pytest.raises(ConnectionResetError):
        list(read_tokens(OneWay(data, fails_after=5000)))


def rewritten(folder, change) -> None:
    """Write an OUTPUT's shard again, with its members as `change` gives them."""
    path = folder / "shards/s.tar"
    with tarfile.open(path) as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive]
    path.write_bytes(tar(*change(members)))


@pytest.fixture
def output(tmp_path) -> TokenFolder:
    """An OUTPUT with one shard of TOKENS."""
    report = ShardReport("s", 1 << 16)
    for key, values in TOKENS.items():
        report.ok(key, 1.5, values)
    report.reject("bad", "not_audio")
    (tmp_path / "shards").mkdir()
    (tmp_path / "reports").mkdir()
    write_shard(tmp_path / "shards/s.tar")
    report.write(tmp_path / "reports/s.parquet")
    (tmp_path / "run.json").write_text('{"codebook_size": 65536}')
    return TokenFolder.open(str(tmp_path))


@pytest.mark.parametrize("with_json", [True, False])
def test_a_shard_written_again_is_read_in_the_order_of_its_report(output, tmp_path, with_json):
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(2 * len(TOKENS))
        rewritten(tmp_path, lambda members, order=order: [members[place] for place in order])
        rows = list(output.read("s", with_json=with_json))
        assert [row.key for row in rows] == list(TOKENS)
        assert all(np.array_equal(row.tokens, TOKENS[row.key]) for row in rows)
    assert find_report(f"{tmp_path}/shards/s.tar")[1] == "s"
    assert find_report(f"{tmp_path}/s.tar") is find_report("s.tar") is None


OTHER = {
    "lacks a": lambda members: [m for m in members if not m[0].startswith("a.")],
    "not in its report": lambda members: [("x" + name, data) for name, data in members],
    "its report says 1,000": lambda members: [("a.tokens.npy", GOOD), *members[1:]],
}


@pytest.mark.parametrize("says", OTHER)
def test_a_shard_with_other_content_than_its_report_is_told_by_name(output, tmp_path, says):
    rewritten(tmp_path, OTHER[says])
    with pytest.raises(TokenShardError, match=f"shard s: .*{says}"):
        list(output.read("s"))
