"""Pickles of tensors and arrays, read without running any of them, by a machine for the few operations that they need.

Python's unpickler calls what a file names, makes a table as long as a file says, and hashes whatever a file takes for a
key. This one knows texts, numbers, lists, tuples, dictionaries, and the names that its caller gives a meaning; what it
takes in time and memory grows with the file's length alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TypeVar

Kind = TypeVar("Kind")

MOST_OPERATIONS = 2_000_000  # a few seconds; a checkpoint of 1,000 tensors and an optimiser has about 100,000
_LONGEST_NUMBER = 255  # bytes

_CONSTANTS: dict[int, Callable[[], object]] = {
    ord("N"): lambda: None, 0x88: lambda: True, 0x89: lambda: False,
    ord(")"): tuple, ord("]"): list, ord("}"): dict,
}  # fmt: skip
_NUMBERS = {ord("K"): "<B", ord("M"): "<H", ord("J"): "<i", ord("G"): ">d"}
_LENGTHS = {  # of texts and of bytes that follow
    ord("X"): "<I", 0x8C: "<B", 0x8D: "<Q", ord("T"): "<i", ord("U"): "<B",
    ord("B"): "<I", ord("C"): "<B", 0x8E: "<Q", 0x96: "<Q",
}  # fmt: skip
_TEXTS = {ord("X"), 0x8C, 0x8D, ord("T"), ord("U")}
_MEMO_WRITES = {ord("q"): "<B", ord("r"): "<I"}
_MEMO_READS = {ord("h"): "<B", ord("j"): "<I"}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_PASSED_OVER = {0x80: 1, 0x95: 8}  # bytes: the protocol's number, and the length of a frame


class ForeignObject(ValueError):
    """A pickle names something that its reader gives no meaning."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it holds the object {name[:100]!r}")
        self.name = name[:100]


class _Mark:
    """Where on the stack the items of a container begin."""


class PickleReader:
    """Reads one pickle after the other from bytes.

    Args:
        content: also of a mapped file; bytes inside a pickle are views of it.
        known: what the names in it mean, as "module.name": a plain function may be called, all else is a value.
        stored: what a persistent identifier stands for; by default none is allowed.
        operations: most that a pickle may have, by default `MOST_OPERATIONS`.
    """

    def __init__(
        self,
        content: memoryview,
        known: Mapping[str, object],
        stored: Callable[[object], object] | None = None,
        operations: int | None = None,
    ) -> None:
        self._content = content
        self._known = known
        self._stored = stored
        self._operations = operations or MOST_OPERATIONS
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._place = 0

    def read(self, start: int = 0) -> tuple[object, int]:
        """The object of the pickle that begins there, and where it ends. Raises ValueError saying what is wrong."""
        self._place, self._stack, self._memo = start, [], {}
        try:
            for _ in range(self._operations):
                code = self._take(1)[0]
                if code == ord("."):
                    return self._stack.pop(), self._place
                self._operate(code)
        except (LookupError, TypeError, struct.error, UnicodeDecodeError, OverflowError, RuntimeError) as error:
            raise ValueError(f"its pickle is spoilt near byte {self._place} ({type(error).__name__})") from error
        raise ValueError(f"its pickle has more than {self._operations:,} operations")

    def _operate(self, code: int) -> None:
        stack = self._stack
        if code in _MEMO_WRITES:
            self._memo[self._number(_MEMO_WRITES[code])] = stack[-1]
        elif code in _MEMO_READS:
            stack.append(self._memo[self._number(_MEMO_READS[code])])
        elif code == 0x94:
            self._memo[len(self._memo)] = stack[-1]
        elif code in _LENGTHS:
            content = self._take(self._number(_LENGTHS[code]))
            stack.append(str(content, "utf-8", "surrogatepass") if code in _TEXTS else content)
        elif code in _NUMBERS:
            stack.append(struct.unpack(_NUMBERS[code], self._take(struct.calcsize(_NUMBERS[code])))[0])
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code]())
        elif code in _TUPLES:
            count = _TUPLES[code]
            items = tuple(self._pop() for _ in range(count))
            stack.append(items[::-1])
        elif code in _PASSED_OVER:
            self._take(_PASSED_OVER[code])
        else:
            self._operate_on_containers_and_names(code)

    def _operate_on_containers_and_names(self, code: int) -> None:
        stack = self._stack
        match chr(code):
            case "(":
                stack.append(_Mark())
            case "t":
                stack.append(tuple(self._pop_to_mark()))
            case "a" | "e":
                items = [self._pop()] if code == ord("a") else self._pop_to_mark()
                _of_kind(stack[-1], list).extend(items)
            case "s" | "u":
                items = [self._pop(), self._pop()][::-1] if code == ord("s") else self._pop_to_mark()
                _fill(_of_kind(stack[-1], dict), items)
            case "\x8a" | "\x8b":
                content = self._take(self._number("<B" if code == 0x8A else "<i"))
                if len(content) > _LONGEST_NUMBER:
                    raise ValueError(f"it holds a number of {len(content)} bytes")
                stack.append(int.from_bytes(content, "little", signed=True))
            case "c":
                stack.append(self._named(self._line(), self._line()))
            case "\x93":
                name, module = self._pop(), self._pop()
                stack.append(self._named(_of_kind(module, str), _of_kind(name, str)))
            case "Q":
                if self._stored is None:
                    raise ValueError("it refers to what stands elsewhere")
                stack.append(self._stored(self._pop()))
            case "R" | "\x81":  # a call, or a class's new object
                arguments, function = _of_kind(self._pop(), tuple), self._pop()
                if type(function) is not FunctionType:
                    raise ValueError(f"it calls a {type(function).__name__}")
                stack.append(function(*arguments))
            case "b":
                self._set_state(stack[-2], self._pop())
            case "0":
                self._pop()
            case _:
                raise ValueError(f"its pickle has the operation {bytes([code])!r}, which no tensors need")

    @staticmethod
    def _set_state(value: object, state: object) -> None:
        """Objects that a known function made take a state; that of dictionaries, torch's versions of layers, goes."""
        if isinstance(value, StateTaker):
            value.set_state(state)
        elif not isinstance(value, dict):
            raise ValueError(f"it gives a state to a {type(value).__name__}")

    def _named(self, module: str, name: str) -> object:
        if f"{module}.{name}" not in self._known:
            raise ForeignObject(f"{module}.{name}")
        return self._known[f"{module}.{name}"]

    def _take(self, count: int) -> memoryview:
        taken = self._content[self._place : self._place + count] if count >= 0 else memoryview(b"")
        if len(taken) != count:
            raise ValueError("it ends before it is complete")
        self._place += count
        return taken

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _line(self) -> str:
        longest = bytes(self._content[self._place : self._place + 1000])
        line, newline, _ = longest.partition(b"\n")
        if not newline:
            raise ValueError("it holds a name without end")
        self._place += len(line) + 1
        return line.decode()

    def _pop(self) -> object:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("its pickle is spoilt: an item is missing")
        return value

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while not isinstance(value := self._stack.pop(), _Mark):
            items.append(value)
        return items[::-1]


class StateTaker:
    """Base of what a known function makes and the pickle then gives a state."""

    def set_state(self, state: object) -> None:
        """Takes the state. Raises ValueError for one that does not fit."""
        raise NotImplementedError


def _of_kind(value: object, kind: type[Kind]) -> Kind:
    if type(value) is not kind:
        raise ValueError(f"its pickle is spoilt: a {kind.__name__} is expected where a {type(value).__name__} stands")
    return value


def _fill(target: dict[object, object], items: list[object]) -> None:
    keys = items[::2]
    for key in keys:
        if type(key) not in (str, int, float, bool, type(None)):  # the hash of a nested tuple may take for ever
            raise ValueError(f"it has a {type(key).__name__} for a key; texts and numbers are expected")
    target.update(zip(keys, items[1::2], strict=True))
