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


def gadget() -> bytes:
    """A torch file whose pickle calls os.system."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02cos\nsystem\n(X\x0a\x00\x00\x00touch /x/ytR.")
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"no", gadget(), b"\x80\x02K\x03."], ids=["empty", "text", "code", "a number"]
)
def test_what_is_no_file_of_tensors_is_named_without_advice_to_load_it_all_the_same(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "learning.pt").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"learning\.pt is damaged") as told:
        read_tensors(tmp_path / "learning.pt")
    assert "weights_only" not in str(told.value)
    (tmp_path / "simulators.json").write_bytes(b"[" * 100_000)
    with pytest.raises(DamagedCheckpoint, match=r"simulators\.json is damaged: it is no JSON"):
        read_json(tmp_path / "simulators.json")
