"""A damaged run says which file is wrong, and which checkpoint is whole; nothing of it hangs or runs code."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from worldloom_rl.training import manifest
from worldloom_rl.training.manifest import DamagedCheckpoint, check_files, read_json, read_score, read_tensors


def write(folder: Path) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    torch.save({"a": torch.arange(9)}, folder / "learning.pt")
    (folder / "replay").mkdir()
    (folder / "replay" / "manifest.json").write_text("{}")
    (folder / "replay" / "rows-1.safetensors").write_text("has a checksum in its own manifest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "checkpoint")
    manifest.write_manifest(tmp_path / "checkpoint", 1.5)
    return tmp_path / "checkpoint"


def flipped(content: bytes) -> bytes:
    return bytes([*content[: len(content) // 2], content[len(content) // 2] ^ 4, *content[len(content) // 2 + 1 :]])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "flipped": lambda file: file.write_bytes(flipped(file.read_bytes())),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "a link to nowhere": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("name", ["model/config.json", "learning.pt", "replay/manifest.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_of_a_checkpoint_is_held_to_its_checksum(damage: str, name: str, folder: Path) -> None:
    check_files(folder)
    DAMAGES[damage](folder / name)
    check = check_files if (folder / "manifest.json").exists() else manifest.require_manifest
    with pytest.raises(DamagedCheckpoint, match=name.replace(".", r"\.")):
        check(folder)
    assert read_score(folder) == (None if name == "manifest.json" else 1.5)


def test_another_score_leaves_the_checksums(folder: Path) -> None:
    manifest.set_score(folder, 7.0)
    assert read_score(folder) == 7.0
    check_files(folder)
    check_files(folder, "model/")


def test_a_checkpoint_of_version_0_6_has_no_checksums(tmp_path: Path) -> None:
    write(tmp_path / "old")
    (tmp_path / "old" / "score.json").write_text('{"score": 2.5}')
    manifest.require_manifest(tmp_path / "old")
    check_files(tmp_path / "old")
    assert read_score(tmp_path / "old") == 2.5


def test_a_manifest_names_files_of_its_own_checkpoint(folder: Path) -> None:
    for name in ("/dev/zero", "../other"):
        content = {"files": {name: "0"}, "score": None}
        text = json.dumps({**content, "sha256": manifest._digest_of(content)})
        (folder / "manifest.json").write_text(text)
        with pytest.raises(DamagedCheckpoint, match="must list files of"):
            check_files(folder)


def archive_of(pickled: bytes, kind: int = zipfile.ZIP_STORED) -> bytes:
    """A torch file with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    return buffer.getvalue()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CONTENTS = {
    "empty": b"",
    "text": b"no",
    "code": archive_of(b"\x80\x02cos\nsystem\n(X\x0a\x00\x00\x00touch /x/ytR."),
    "a number": b"\x80\x02K\x03.",
    "memory by a call": archive_of(
        b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85Rs."
    ),
    "memory by a stride": saved({"a": torch.zeros(1).expand(2**40)}),
    "memory by many strides": saved({str(number): torch.zeros(1).expand(2**19) for number in range(30)}),
    "memory by compression": archive_of(b"\x80\x02}" + b"0" * 2**24 + b".", zipfile.ZIP_DEFLATED),
    "a list": saved([torch.zeros(2)]),
    "no archive": saved(torch.zeros(2))[:-30],
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_is_no_file_of_tensors_is_named_without_advice_to_load_it_all_the_same(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "learning.pt").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"learning\.pt is damaged") as told:
        read_tensors(tmp_path / "learning.pt")
    assert "weights_only" not in str(told.value)
    assert len(str(told.value)) < 400 + len(str(tmp_path))
    (tmp_path / "simulators.json").write_bytes(b"[" * 100_000)
    with pytest.raises(DamagedCheckpoint, match=r"simulators\.json is damaged: it is no JSON"):
        read_json(tmp_path / "simulators.json")


def test_what_is_read_can_be_changed_and_outlives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "learning.pt"
    kept = {"a": torch.arange(6.0).reshape(2, 3).T, "b": [1, (2.5, None, True)], "c": torch.zeros(1).expand(3)}
    kept["d"] = torch.tensor([0, 1, 2], dtype=torch.uint16)  # torch writes such types in another way
    torch.save(kept, file)
    read = read_tensors(file)
    file.unlink()
    assert torch.equal(read["a"], kept["a"])
    assert read["b"] == kept["b"]
    read["a"].mul_(2)
    read["c"][0] = 1.0
    assert read["d"].tolist() == [0, 1, 2]
    assert read["d"].zero_().tolist() == [0, 0, 0]
    assert read["c"].tolist() == [1.0, 0.0, 0.0]
