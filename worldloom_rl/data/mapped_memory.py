"""Tensors that lie in mapped files, kept from filling memory with what was once read of them. Linux; else they may."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")


class MappedMemory:
    """The tensors among these that lie in files, of which nothing is read ahead.

    Only for tensors that nobody writes to: what is written to a private mapping is lost by `release`.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        mapped = _mapped_ranges() if tensors and hasattr(mmap, "MADV_RANDOM") else []
        self._ranges = [pages for tensor in tensors if (pages := _pages(tensor)) and _inside(pages, mapped)]
        if self._ranges:
            self._advise(mmap.MADV_RANDOM)

    def release(self) -> None:
        """Gives the memory back; what is read next comes from the files, or the system's cache of them, again."""
        if self._ranges:
            self._advise(mmap.MADV_DONTNEED)

    def _advise(self, advice: int) -> None:
        libc = ctypes.CDLL(None)
        for first, last in self._ranges:
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _mapped_ranges() -> list[tuple[int, int]]:
    """Addresses of this process that are mappings of files."""
    ranges: list[tuple[int, int]] = []
    for line in _MAPS.read_text().splitlines() if _MAPS.exists() else ():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            first, last = (int(address, 16) for address in addresses.split("-"))
            ranges.append((first, last))
    return ranges


def _pages(tensor: Tensor) -> tuple[int, int] | None:
    """The whole pages inside a tensor: its first and last one may hold others' bytes too."""
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    return (first, last) if last > first else None


def _inside(pages: tuple[int, int], ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= pages[0] and pages[1] <= last for first, last in ranges)
