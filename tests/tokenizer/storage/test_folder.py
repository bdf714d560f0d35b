"""Files of a folder: whole or not there, on disks that lack what most have."""

import errno
import os
import shutil

import pytest

from tokenizer.storage.folder import Folder


def test_a_file_is_created_once_and_whole_on_a_disk_without_hard_links(tmp_path, monkeypatch):
    def no_link(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def half(source, target, *_):
        target.write(source.read(5))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("ten letters")
    folder = Folder(str(output))
    monkeypatch.setattr(os, "link", no_link)
    with monkeypatch.context() as full:
        full.setattr(shutil, "copyfileobj", half)
        with pytest.raises(OSError, match="No space left"):
            folder.create(source, "record")
    assert not (output / "record").exists()
    assert folder.create(source, "record")
    source.write_text("other")
    assert not folder.create(source, "record")
    assert (output / "record").read_text() == "ten letters"
