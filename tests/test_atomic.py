"""Files and directories appear whole or not at all, and nothing of the user's is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from worldloom_rl.atomic import new_directory, write_bytes, write_json, write_text


def any_folder(folder: Path) -> bool:
    return True


def fill(target: Path, text: str = "old") -> Path:
    target.mkdir()
    (target / "file").write_text(text)
    return target


def test_a_file_is_replaced_by_its_new_content(tmp_path):
    for write, content, read in (
        (write_bytes, b"\x00\x01", b"\x00\x01"),
        (write_text, "γ", "γ".encode()),
        (write_json, {"a": [1, 2.5, None]}, None),
    ):
        file = tmp_path / "file"
        file.write_text("old")
        write(file, content)
        assert file.read_bytes() == read if read else json.loads(file.read_text()) == content
        assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_renamed_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")

    def fails(source: Path, destination: Path) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no rename"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_files_and_directories_have_the_permissions_that_the_user_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
        with new_directory(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_directory_appears_when_its_block_has_ended(tmp_path):
    with new_directory(tmp_path / "deep" / "new") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "file").read_text() == "new"
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_directory(tmp_path / "empty") as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "empty" / "file").read_text() == "new"


@pytest.mark.parametrize("relative", [False, True])
def test_a_directory_with_other_files_is_never_replaced(tmp_path, monkeypatch, relative):
    target = fill(tmp_path / "mine")
    monkeypatch.chdir(target)
    with (
        pytest.raises(FileExistsError, match="mine holds other files, which would be lost; choose a directory"),
        new_directory(Path(".") if relative else target),
    ):
        raise AssertionError("work was begun that cannot be kept")
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_is_filled_meanwhile_is_not_replaced_either(tmp_path):
    with pytest.raises(FileExistsError, match="holds other files"), new_directory(tmp_path / "new"):
        fill(tmp_path / "new", "meanwhile")
    assert (tmp_path / "new" / "file").read_text() == "meanwhile"
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match="notes is a file"), new_directory(tmp_path / "notes", any_folder):
        pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_a_link_points_to_is_left_alone(tmp_path):
    target = fill(tmp_path / "far")
    (tmp_path / "link").symlink_to(target)
    with new_directory(tmp_path / "link", any_folder) as folder:
        (folder / "file").write_text("new")
    assert (target / "file").read_text() == "old"
    assert (tmp_path / "link" / "file").read_text() == "new"


def test_a_failed_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    target = fill(tmp_path / "model")
    rename, calls = os.replace, []

    def fails_second(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("no rename")
        rename(source, destination)

    monkeypatch.setattr(os, "replace", fails_second)
    with pytest.raises(OSError, match="no rename"), new_directory(target, any_folder) as folder:
        (folder / "file").write_text("new")
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
