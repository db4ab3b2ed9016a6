"""Files of torch.save in every format come back as torch reads them, whole or not at all, and run nothing."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from worldloom_rl.pretrained import pickles
from worldloom_rl.pretrained.tensor_files import read_tensor_file


def content() -> dict[str, Any]:
    """What checkpoints hold: views, kinds of numbers, an optimiser's state, plain values."""
    weights = OrderedDict(
        a=torch.arange(3.0), parameter=torch.nn.Parameter(torch.ones(2).bfloat16()), empty=torch.zeros(0, 3),
        turned=torch.arange(6.0).reshape(2, 3).T, scalar=torch.tensor(5), part=torch.arange(10)[3:7],
    )  # fmt: skip
    weights._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as Module.state_dict has it
    weights["twin"] = weights["a"]
    layer = torch.nn.Linear(3, 2)
    layer.weight.note = 3  # type: ignore[assignment]  # a parameter with a state is pickled in another way
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    return {
        "model": weights, "optimizer": optimizer.state_dict(), "layer": layer.weight, "kind": torch.float16,
        "size": torch.Size([2]), "device": torch.device("cuda:1"), "short": torch.zeros(2, dtype=torch.uint16),
        "plain": [1, 2.5, None, True, -5, 2**80, "ü", (3, ())], "complex": torch.ones(2, dtype=torch.complex64),
    }  # fmt: skip


def same(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        for name in expected:
            same(found[name], expected[name])
    else:
        assert found == expected


@pytest.mark.parametrize("archive", [True, False], ids=["since 1.6", "before 1.6"])
def test_a_file_holds_what_was_saved(tmp_path: Path, archive: bool) -> None:
    saved = content()
    torch.save(saved, tmp_path / "file.pt", _use_new_zipfile_serialization=archive)
    found = read_tensor_file(tmp_path / "file.pt", "X")
    same(found, saved)
    assert found["model"]["twin"].data_ptr() == found["model"]["a"].data_ptr()  # type: ignore[index]


def test_safetensors_and_archives_without_checksums_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    same(read_tensor_file(tmp_path / "a.safetensors", "X"), {"a": torch.arange(3.0)})
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content(), tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    read_tensor_file(tmp_path / "file.pt", "X")


def rewritten(file: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(buffer, "w", method) as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
    file.write_bytes(buffer.getvalue())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(100.0), "b": torch.arange(7)}, tmp_path / "file.pt")
    return tmp_path / "file.pt"


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"file\.pt (is not a checkpoint written|holds the pickled)") as refused:
        read_tensor_file(path, "X")
    assert len(str(refused.value)) - len(str(path)) < 280
    return str(refused.value)


def test_a_cut_record_is_no_weight(file: Path) -> None:
    rewritten(file, lambda name, data: data[:4] if name.endswith("/data/0") else data)
    assert "has 4 bytes where 400 are needed" in refusal(file)


def test_a_flipped_bit_of_a_weight_is_found(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[whole.find(struct.pack("<2f", 40.0, 41.0))] ^= 1
    file.write_bytes(whole)
    assert "data/0' is cut or damaged" in refusal(file)


def test_a_compressed_archive_is_read_right_but_not_one_that_grows_without_end(file: Path) -> None:
    rewritten(file, lambda name, data: data, zipfile.ZIP_DEFLATED)
    same(read_tensor_file(file, "X"), {"a": torch.arange(100.0), "b": torch.arange(7)})
    rewritten(file, lambda name, data: data + b"N0" * 10**7 if name.endswith(".pkl") else data, zipfile.ZIP_DEFLATED)
    assert "more than 8 times its" in refusal(file)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 20, 200, 0.5, 0.9, -1])
def test_a_cut_file_is_refused(tmp_path: Path, archive: bool, kept: float) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.arange(100.0)}, path, _use_new_zipfile_serialization=archive)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    refusal(path)


def archive_of(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    return path


def doubled(times: int) -> bytes:
    """A tuple of two that are one tuple of two that …: its hash takes 2^times steps."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


ODD = {
    "a nested key": (b"\x80\x02}" + doubled(60) + b"Ns.", "it has a tuple for a key"),
    "what was never kept": (b"\x80\x02j\xff\xff\xff\xff.", "spoilt near byte 7 (KeyError)"),
    "a place in the memo far out": (b"\x80\x02Nr\xff\xff\xff\x7f}.", ""),
    "a call": (b"\x80\x02cos\nsystem\n(X\x04\0\0\0truetR.", "holds the pickled object 'os.system'"),
    "a call of a value": (b"\x80\x02ctorch\nfloat32\n)R.", "it calls a dtype"),
    "a long number": (b"\x80\x02\x8b\x00\x10\0\0" + b"\1" * 4096 + b".", "a number of 4096 bytes"),
    "a length below 0": (b"\x80\x02T\xff\xff\xff\xff.", "ends before it is complete"),
    "another pickle's operation": (b"\x80\x02(i", "which no tensors need"),
    "no end": (b"\x80\x02N", "ends before"),
    "nothing": (b".", "IndexError"),
    "a list of a text": (b"\x80\x02X\x01\0\0\0aNa.", "a list is expected"),
    "a state for a text": (b"\x80\x02X\x01\0\0\0aNb.", "gives a state to a str"),
    "an endless device": (b"\x80\x02ctorch\ndevice\nX\x03\0\0\0abc\x85R.", "RuntimeError"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_pickle_is_told_and_does_nothing(tmp_path: Path, name: str) -> None:
    pickled, message = ODD[name]
    path = archive_of(tmp_path / "file.pt", pickled)
    if message:
        assert message in refusal(path)
    else:
        assert read_tensor_file(path, "X") == {}


def tensor(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], length: int = 4) -> bytes:
    def whole(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in numbers) + b"t"

    names = [b"X" + struct.pack("<I", len(text)) + text for text in (b"storage", b"k", b"cpu")]
    storage = b"(" + names[0] + b"ctorch\nFloatStorage\n" + names[1] + names[2] + b"J" + struct.pack("<i", length)
    described = b"(" + storage + b"tQ" + b"\x8a\x08" + struct.pack("<q", offset) + whole(shape) + whole(stride)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + described + b"\x89NtR."


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor(0, (4,), (1,)), ""),
        (tensor(1, (4,), (1,)), "reaches beyond its storage"),
        (tensor(0, (2, 2), (3, 1)), "reaches beyond its storage"),
        (tensor(-1, (4,), (1,)), "absurd shape"),
        (tensor(0, (4,), (-1,)), "absurd shape"),
        (tensor(0, (2**50,), (0,)), "absurd shape"),
        (tensor(0, (1,) * 100, (1,) * 100), "absurd shape"),
        (tensor(0, (4,), (1, 1)), "in an unknown way"),
        (tensor(0, (5,), (1,), 5), "has 16 bytes where 20 are needed"),
        (tensor(0, (4,), (1,), -4), "has 16 bytes where -16 are needed"),
    ],
)
def test_a_tensor_stays_inside_of_its_numbers(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = archive_of(tmp_path / "file.pt", pickled)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/k", struct.pack("<4f", 1, 2, 3, 4))
    if message:
        assert message in refusal(path)
    else:
        same(read_tensor_file(path, "X"), torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"a": torch.empty(2, device="meta")}, "a tensor without numbers"),
        ({"a": torch.zeros(2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": os.mkdir}, "mkdir"),
        ({"a": torch.nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear"),
        ({(1, 2): torch.zeros(1)}, "a tuple for a key"),
    ],
)
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, saved: object, message: str, archive: bool) -> None:
    torch.save(saved, tmp_path / "file.pt", _use_new_zipfile_serialization=archive)
    assert message in refusal(tmp_path / "file.pt")


def test_archives_of_other_things_and_other_formats_are_told(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(archive_of(path, b"\x80\x02}."), "a") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")  # as TorchScript has it
    assert "TorchScript" in refusal(path)
    archive = zipfile.ZipFile(archive_of(path, b"\x80\x02}."), "a")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", b"\x80\x02N.")
    archive.close()
    assert "two records of one name" in refusal(path)
    path.write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 500)
    assert "as torch before 0.2 wrote" in refusal(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        read_tensor_file(path, "X")


def test_a_pickle_of_too_many_operations_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_OPERATIONS", 1000)
    assert "more than 1,000 operations" in refusal(archive_of(tmp_path / "file.pt", b"\x80\x02" + b"N0" * 1000 + b"N."))
