"""What an input value names: links, names that look like patterns, S3's markers, names refused."""

import os
import shutil

import pytest
from conftest import SPEECH
from s3fs import S3FileSystem
from tars import tar

from pipeline.ingest.loose import find_loose
from pipeline.settings import TokenizeSettings
from pipeline.shards.inputs import find_shards
from pipeline.shards.listing import LeftOut, check_outside
from pipeline.tokenize.job import open_output
from tokenizer.errors import UsageError
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.tokenizer_files import TokenizerFiles

ONE = tar(("a.wav", b"sound"))


def names(*values) -> list[str]:
    """Names of the shards that input values name."""
    return [shard.name for shard in find_shards([str(value) for value in values])[1]]


def put(folder, *paths) -> None:
    """Write a small tar under each path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(ONE)


def test_links_are_followed_to_files_and_folders(tmp_path):
    blobs, inputs = tmp_path / "blobs", tmp_path / "inputs"
    put(blobs, "1", "sub/2.tar")
    put(inputs, "plain.tar", "real/3.tar")
    # As the Hugging Face cache has them: a file's content lies under another name.
    (inputs / "linked.tar").symlink_to("../blobs/1")
    (inputs / "folder").symlink_to(blobs / "sub", target_is_directory=True)
    (inputs / "real/up").symlink_to(inputs, target_is_directory=True)  # would go on for ever
    everything = ["folder/2", "linked", "plain", "real/3"]
    assert names(inputs) == everything
    assert names(inputs / "**") == names(inputs / "**/*.tar") == everything
    assert names(inputs / "*.tar") == ["linked", "plain"]
    assert names(inputs / "{linked,plain}.tar") == ["linked", "plain"]
    assert names(inputs / "linked.tar") == ["linked"]
    linked = find_shards([str(inputs / "linked.tar")])[1][0]
    assert linked.size == len(ONE) and linked.version
    (tmp_path / "door").symlink_to(inputs, target_is_directory=True)
    assert names(tmp_path / "door") == everything


@pytest.mark.parametrize("value", ["{i}", "{i}/*.tar", "{i}/dead.tar", "{i}/{{dead,b}}.tar"])
def test_a_dead_link_is_an_error_and_not_left_out(tmp_path, value):
    put(tmp_path, "b.tar")
    (tmp_path / "dead.tar").symlink_to("nowhere.tar")
    with pytest.raises(UsageError, match=r"dead\.tar is a link to nowhere\.tar"):
        names(value.format(i=tmp_path))


@pytest.mark.parametrize(
    "name", ["set[1]", "a{b,c}", "{000000..000002}", "x*y", "a::b", "é ü", "?"]
)
def test_a_path_that_exists_is_taken_as_it_is(tmp_path, name):
    put(tmp_path, f"{name}.tar", "other.tar")
    assert names(tmp_path / f"{name}.tar") == [name]
    assert sorted(names(tmp_path)) == sorted([name, "other"])
    shard = find_shards([str(tmp_path / f"{name}.tar")])[1][0]
    fs, path = Folder(str(tmp_path)).fs, shard.url.removeprefix("file://")
    assert fs.size(path) == len(ONE)


def test_a_glob_below_a_folder_whose_name_looks_like_one(tmp_path):
    put(tmp_path, "set[1]/a.tar", "set[1]/b/c.tar", "set1/d.tar", "[x]/[y]/e.tar")
    assert names(tmp_path / "set[1]/*.tar") == ["a"]
    assert names(tmp_path / "set[1]/**/*.tar") == names(tmp_path / "set[1]/**") == ["a", "b/c"]
    assert names(tmp_path / "set[0-9]/*.tar") == ["set1/d"]
    assert names(tmp_path / "[x]/*/e.tar") == ["[y]/e"]
    assert names(tmp_path / "s*/*.tar") == ["set1/d", "set[1]/a"]


def test_a_range_beside_names_that_are_none(tmp_path):
    put(tmp_path, "s-000.tar", "s-001.tar", "s-[0].tar")
    assert names(tmp_path / "s-{000..001}.tar") == ["s-000", "s-001"]
    with pytest.raises(UsageError, match=r"lacks .*s-002\.tar"):
        names(tmp_path / "s-{000..002}.tar")
    with pytest.raises(UsageError, match="matches nothing"):
        names(tmp_path / "s-[7].tar")


def test_names_with_control_characters_are_refused(tmp_path):
    put(tmp_path, "good.tar", "line\nbreak.tar")
    with pytest.raises(UsageError, match="control character") as refused:
        names(tmp_path)
    assert "\n" not in str(refused.value)


def test_s3_markers_odd_names_and_names_that_lead_out(s3):
    def store(*keys: str) -> None:
        for key in keys:
            s3.client.put_object(Bucket=s3.bucket, Key=key, Body=ONE if key[-1] != "/" else b"")

    store("marked/", "marked/a.tar", "marked/sub/", "marked/sub/b.tar", "marked/c[1].tar")
    s3.client.put_object(Bucket=s3.bucket, Key="marked", Body=b"")
    with pytest.MonkeyPatch.context() as patch:
        s3.reach(patch)
        S3FileSystem.clear_instance_cache()
        assert names(f"s3://{s3.bucket}/marked") == ["a", "c[1]", "sub/b"]
        assert names(f"s3://{s3.bucket}/marked/") == ["a", "c[1]", "sub/b"]
        assert names(f"s3://{s3.bucket}/marked/c[1].tar") == ["c[1]"]
        assert names(f"s3://{s3.bucket}/marked/{{a,sub/b}}.tar") == ["a", "sub/b"]
        for bad in ("out/in/../../victim/x.tar", "out//x.tar", "out/./x.tar"):
            store(bad)
            with pytest.raises(UsageError, match=r"part that is empty, '\.' or '\.\.'"):
                names(f"s3://{s3.bucket}/out")
            s3.client.delete_object(Bucket=s3.bucket, Key=bad)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//x", "./x", "a\0b", "a\nb", ".."])
def test_no_name_leads_out_of_an_output(tmp_path, name):
    folder = Folder(str(tmp_path / "out"))
    source = tmp_path / "source"
    source.write_text("x")
    for use in (
        folder.path,
        lambda n: folder.publish(source, n),
        lambda n: folder.create(source, n),
        folder.read_bytes,
    ):
        with pytest.raises(UsageError, match="is no name in it"):
            use(name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["source"]


def test_an_output_inside_an_input_is_refused(tmp_path):
    put(tmp_path, "in/a.tar")
    (tmp_path / "door").symlink_to(tmp_path / "in", target_is_directory=True)
    inside = [("in", "in/out"), ("in", "in"), ("in/**", "in/x/out"), ("in", "door/out")]
    for value, output in [*inside, ("in/**/*.tar", "in/out")]:
        with pytest.raises(UsageError, match="a later run would read it") as refused:
            check_outside([str(tmp_path / value)], str(tmp_path / output))
        assert refused.value.argument == "output"
    put(tmp_path, "data[1]/a.tar")
    check_outside([str(tmp_path / "data[1]/**")], str(tmp_path / "out"))
    for value, output in (("in", "input-out"), ("in/*.tar", "in/out"), ("in/a.tar", "in/out")):
        check_outside([str(tmp_path / value)], str(tmp_path / output))


def test_ingest_names_what_it_leaves_out_and_takes_the_rest(tmp_path):
    for name in ("a.wav", "a.json", "b.xyz", "c.XYZ", "lone.json", "README", "d/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "linked.flac").symlink_to("a.wav")
    (tmp_path / "dead.flac").symlink_to("nowhere.flac")
    os.mkfifo(tmp_path / "d/pipe.wav")
    for value in (tmp_path, tmp_path / "**"):
        sources, left_out = find_loose([str(value)])
        assert [(source.entries[0].key, source.problem) for source in sources] == [
            ("a", None),
            ("linked", None),
            ("d/pipe", "missing_file"),
            ("dead", "missing_file"),
        ]
        assert left_out.endings == {".xyz": 2, ".json": 1, "no ending": 1, ".txt": 1}
        assert left_out.unusable == [str(tmp_path / "d/pipe.wav"), str(tmp_path / "dead.flac")]
    with pytest.raises(UsageError, match="is a link to nowhere"):
        find_loose([str(tmp_path / "dead.flac")])


def test_what_is_no_tar_is_counted(tmp_path):
    put(tmp_path, "a.tar", "b.tar.xz", "c.tar.bz2", "d.zip", "e/f.tar.zst", "README")
    left_out = LeftOut()
    shards = find_shards([str(tmp_path)], left_out)[1]
    assert [shard.name for shard in shards] == ["a", "b", "c"]
    assert left_out.endings == {".zip": 1, ".zst": 1, "no ending": 1}


URLS = {
    "https://user:secret@host/a.tar?X-Amz-Signature=secret&x=1#secret": "https://host/a.tar",
    "s3://key:secret@bucket/a?b.tar": "s3://bucket/a?b.tar",
    "ftp://user:secret@host:21/x": "ftp://host:21/x",
    "/a/b@c?d.tar": "/a/b@c?d.tar",
    "file:///a/b@c?d.tar": "file:///a/b@c?d.tar",
    "s3://bucket/a@b.tar": "s3://bucket/a@b.tar",
}


@pytest.mark.parametrize("url", URLS)
def test_records_hold_no_secret(url):
    assert public_url(url) == URLS[url]


def test_run_json_holds_no_secret(tmp_path):
    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
    source = "https://user:secret@host/tokenizer?signature=secret"
    open_output(
        str(tmp_path / "out"),
        files,
        source=source,
        settings=TokenizeSettings(),
        inputs_root=find_shards([str(SPEECH)])[0],
    )
    record = (tmp_path / "out/run.json").read_text()
    assert "secret" not in record and "https://host/tokenizer" in record


def test_a_file_is_removed_once(s3, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        s3.reach(patch)
        S3FileSystem.clear_instance_cache()
        for url in (str(tmp_path / "out"), f"s3://{s3.bucket}/removed"):
            folder = Folder(url)
            folder.publish_text("x", "a/b.txt")
            assert folder.names("a", ".txt") == ["b"]
            folder.remove("a/b.txt")
            folder.remove("a/b.txt")
            assert folder.names("a", ".txt") == []
            with pytest.raises(UsageError, match="is no name in it"):
                folder.remove("../b.txt")


def test_of_two_creators_one_is_told(tmp_path, monkeypatch):
    """On a disk with hard links and on one without."""
    source = tmp_path / "source"
    source.write_text("first")
    for kind in ("links", "none"):
        if kind == "none":
            monkeypatch.setattr(os, "link", _no_links)
        folder = Folder(str(tmp_path / kind))
        assert folder.create(source, "a/run.json")
        assert not folder.create(source, "a/run.json")
        assert folder.read_text("a/run.json") == "first"
        assert list((tmp_path / kind / ".partial").iterdir()) == []
        shutil.rmtree(tmp_path / kind)


@pytest.mark.parametrize("error", [OSError(38, "Not implemented"), NotImplementedError("mode")])
def test_a_store_without_conditional_writes(tmp_path, monkeypatch, error):
    source = tmp_path / "source"
    source.write_text("first")
    folder = Folder("memory://conditional")
    put = type(folder.fs).put_file

    def without_condition(self, *values, **more):
        if more.get("mode") == "create":
            raise error
        return put(self, *values, **more)

    monkeypatch.setattr(type(folder.fs), "put_file", without_condition)
    assert folder.create(source, "run.json")
    assert not folder.create(source, "run.json")
    assert folder.read_text("run.json") == "first"
    folder.remove("run.json")


def test_a_mount_that_cannot_sync(tmp_path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    folder = Folder(str(tmp_path))
    folder.publish_text("x", "a/b.txt")
    assert folder.read_text("a/b.txt") == "x"


def _no_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")
