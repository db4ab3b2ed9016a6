"""What torch.save wrote, in any format since torch 0.2: read whole or mapped, and without running any of it.

Torch itself, where it maps a file, checks neither how long a record is nor its checksum, so that a cut file becomes
weights; nor does it stop at a file that names a call. What it allows in a file hangs on what else was imported.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldloom_rl.pretrained.pickles import MOST_OPERATIONS, ForeignObject, PickleReader
from worldloom_rl.pretrained.torch_names import KNOWN, Storage, description_of, storage_of, tensor_of, tensor_of_type

LARGEST_HEADER = 2**22  # bytes, of a safetensors file; parsing more would take many times as much memory

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which files of torch before 1.6 begin
_EXPANSION = 8  # times its length that an archive may hold; weights are not written compressed
_MOST_OPERATIONS_OF_DATA = 20_000  # a few leaves have some hundred
_UNREADABLE = (ValueError, RuntimeError, EOFError, zipfile.BadZipFile, NotImplementedError)


def read_tensor_file(path: str | Path, origin: str) -> object:
    """What a file of `torch.save` or of safetensors holds; tensors stay on disk until they are read.

    Args:
        origin: whose checkpoint it should be, for messages.
    Raises FileNotFoundError; ValueError if the file is something else, is cut or damaged, or holds any object but
    tensors, plain values and containers of them: such an object is named and never built.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    try:
        return _read(path)
    except ForeignObject as error:
        raise ValueError(
            f"{path} holds the pickled object {error.name!r}, which was not loaded: an official {origin} checkpoint "
            "holds tensors only. Do not load this file with other tools."
        ) from error
    except (*_UNREADABLE, SafetensorError) as error:
        raise ValueError(f"{path} is not a checkpoint written by torch.save: {str(error)[:150]}.") from error


def map_tensor_file(path: str | Path, known: Mapping[str, object]) -> object:
    """What an archive of `torch.save` holds, its tensors as views of the file that nobody may write to.

    Nothing is copied, and the tensors' checksums, which would cost reading them, are not compared.

    Args:
        known: meanings of more names than those of tensors, as `PickleReader` takes them.
    Raises FileNotFoundError; ValueError if the file is something else, is cut, compressed, or holds any other object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with path.open("rb") as stream:
            # A private mapping, which could be written to, must fit into memory.
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return _read_archive(path, content, {**KNOWN, **known}, operations=_MOST_OPERATIONS_OF_DATA)
    except ForeignObject as error:
        raise ValueError(
            f"{path} holds the pickled object {error.name!r}, which was not loaded: recorded data are tensors only. Do "
            "not load this file with other tools."
        ) from error
    except _UNREADABLE as error:
        raise ValueError(f"{path} is no file of torch.save, or is cut off: {str(error)[:200]}.") from error


def load_tensor_file(path: Path) -> object:
    """What an archive of `torch.save` holds, its tensors in memory of their own, which they may be changed in.

    What it takes in time and memory grows with the file's length alone.

    Raises ValueError, saying what is wrong, if it is cut, compressed, or holds anything but tensors, plain values and
    containers of them.
    """
    size = path.stat().st_size
    left = most = _EXPANSION * size + 2**20

    def own(make: Callable[..., Tensor | None]) -> Callable[..., Tensor]:
        def made(*described: object) -> Tensor:
            nonlocal left
            tensor = make(*described)
            assert tensor is not None  # archives have their storages at hand
            left -= tensor.nbytes  # of one that repeats its numbers, more than is stored
            if left < 0:
                raise ValueError(f"its tensors would take more than {most:,} bytes, a file of {size:,}")
            return tensor.clone()

        return made

    with path.open("rb") as stream:
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    kinds: tuple[Callable[..., Tensor | None], ...] = (tensor_of, tensor_of_type)
    makers = {name: own(make) for make in kinds for name, meaning in KNOWN.items() if meaning is make}
    try:
        return _read_archive(path, content, {**KNOWN, **makers}, operations=max(MOST_OPERATIONS, size // 8))
    except _UNREADABLE as error:
        raise ValueError(str(error)[:200]) from error


def _read(path: Path) -> object:
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with open(path, "rb") as stream:
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    start = bytes(content[:512])
    if start.startswith(b"PK"):
        return _read_archive(path, content, KNOWN)
    if start.startswith(_LEGACY):
        return _read_legacy(content)
    if start[8:9] == b"{":
        if int.from_bytes(start[:8], "little") > LARGEST_HEADER:
            raise ValueError(f"its header would have more than {LARGEST_HEADER} bytes")
        return load_file(path)
    if start[257:262] == b"ustar":
        raise ValueError("it is a tar archive, as torch before 0.2 wrote; load and save it again with a torch since")
    raise ValueError("it begins like none of its formats")


# ---------------------------------------------------------------------- archives, of torch since 1.6


def _read_archive(
    path: Path, content: memoryview, known: Mapping[str, object], operations: int | None = None
) -> object:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    names = {record.filename: record for record in records}
    if len(names) < len(records):
        raise ValueError("it has two records of one name")
    roots = [name.partition("/")[0] for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1 or f"{roots[0]}/constants.pkl" in names:
        raise ValueError("it is an archive of something else, as TorchScript's are; save the state_dict of the model")
    if sum(record.file_size for record in records) > _EXPANSION * len(content) + 2**20:
        raise ValueError(f"its records would take more than {_EXPANSION} times its {len(content)} bytes")
    # torch.serialization.set_crc32_options(False) leaves every checksum 0.
    summed = any(record.CRC for record in records)

    def record(name: str) -> memoryview:
        if f"{roots[0]}/{name}" not in names:
            raise ValueError(f"it lacks the record {name[:100]!r}")
        return _whole(content, names[f"{roots[0]}/{name}"], summed and not (content.readonly and "data/" in name))

    if f"{roots[0]}/byteorder" in names and bytes(record("byteorder")) != b"little":
        raise ValueError("its numbers are not little-endian; save it again on a usual machine")
    storages: dict[str, Storage] = {}

    def stored(identifier: object) -> Storage:
        dtype, key, length = description_of(identifier)
        if key not in storages:
            storages[key] = Storage(dtype, storage_of(record(f"data/{key}")))
        if storages[key].content.nbytes() != length * dtype.itemsize:
            found = storages[key].content.nbytes()
            raise ValueError(f"its record data/{key[:20]} has {found} bytes where {length * dtype.itemsize} are needed")
        return storages[key]._replace(dtype=dtype)

    return PickleReader(record("data.pkl"), known, stored, operations).read()[0]


def _whole(content: memoryview, record: zipfile.ZipInfo, summed: bool) -> memoryview:
    """A record's content. Raises ValueError if it is cut or its checksum is another."""
    name, size = record.filename[:100], record.file_size
    header = content[record.header_offset : record.header_offset + 30]
    if len(header) < 30 or bytes(header[:4]) != b"PK\x03\x04":
        raise ValueError(f"its record {name!r} is not where it should be")
    start = record.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    taken = content[start : start + record.compress_size]
    if record.compress_type == zipfile.ZIP_DEFLATED and not content.readonly:
        try:
            taken = memoryview(bytearray(zlib.decompressobj(-zlib.MAX_WBITS).decompress(taken, size + 1)))
        except zlib.error as error:
            raise ValueError(f"its record {name!r} is damaged") from error
    elif record.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its record {name!r} is compressed in a way that torch.save never does")
    if record.flag_bits & 1 or len(taken) != size or (summed and zlib.crc32(taken) != record.CRC):
        raise ValueError(f"its record {name!r} is cut or damaged; copy the file again")
    return taken


# ---------------------------------------------------------------------- files of torch before 1.6


def _read_legacy(content: memoryview) -> object:
    """Three pickles of notes, the object, the keys of its storages, and these, each after its length."""
    described: dict[str, torch.dtype] = {}

    def noted(identifier: object) -> None:
        dtype, key, _ = description_of(identifier)
        if described.setdefault(key, dtype) != dtype:
            raise ValueError(f"its storage {key[:20]} is of two types")

    place = 0
    for _ in range(2):
        _, place = PickleReader(content, {}).read(place)
    notes, begin = PickleReader(content, {}).read(place)
    if not isinstance(notes, dict) or notes.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian; save it again on a usual machine")
    _, place = PickleReader(content, KNOWN, noted).read(begin)  # where the object ends; its tensors come after it
    keys, place = PickleReader(content, {}).read(place)
    if not isinstance(keys, list) or not set(described) <= {key for key in keys if isinstance(key, str)}:
        raise ValueError("it lacks some of its storages")
    storages: dict[str, Storage] = {}
    for key in keys:
        if key not in described or key in storages or len(content) < place + 8:
            raise ValueError("it lists its storages wrongly, or is cut")
        length = int.from_bytes(content[place : place + 8], "little") * described[key].itemsize
        place += 8
        if length > len(content) - place:
            raise ValueError("it ends before it is complete")
        storages[key] = Storage(described[key], storage_of(content[place : place + length]))
        place += length

    def stored(identifier: object) -> Storage:
        _, key, length = description_of(identifier)
        if storages[key].length != length:
            raise ValueError(f"its storage {key[:20]} has {storages[key].length} numbers where {length} are needed")
        return storages[key]

    return PickleReader(content, KNOWN, stored).read(begin)[0]
