"""Whose fault an error is that ended a command, and what a person is told of it: decided here alone."""

from __future__ import annotations

import dis
import errno
import os
import tempfile
import traceback
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_OURS = Path(__file__).resolve().parents[1]
_STANDARD = str(Path(os.__file__).parent)
_LONGEST = 980  # characters that a person is told
_LONGEST_OF_OTHERS = 600  # of an error's text that was not written for this
_SENTENCES = (ValueError, OSError, ImportError, FloatingPointError)  # raised on purpose, these are for a person
# What libraries raise for files, memory and devices; by name, so that none is imported here.
_OUTSIDE = {"MemoryError", "OutOfMemoryError", "AcceleratorError", "SafetensorError", "UnpicklingError", "BadZipFile"}
_OUTSIDE_TEXTS = (
    "out of memory", "can't allocate memory", "CUDA error", "compiled with CUDA", "No CUDA GPUs", "NVIDIA driver",
    "Invalid device", "PytorchStreamWriter",
)  # fmt: skip
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_CALL_WHAT_IS_GIVEN = ("envs/", "training/collection_policy")  # our files beneath which a person's own code fails


class Fault(NamedTuple):
    """An error as a person is told of it.

    Attributes:
        text: the sentence, without who says it.
        ours: whether the program is at fault; else the cause lies outside it, and no traceback is shown.
        expected: whether the sentence was written for this case, so that a traceback adds nothing.
    """

    text: str
    ours: bool = False
    expected: bool = False


class _Place(NamedTuple):
    """A frame of a traceback; `ours` is its file in the package, "" outside it, `raised` whether by `raise`."""

    file: str
    ours: str
    line: int
    function: str
    raised: bool


def fault_of(error: BaseException) -> Fault:
    """Whose fault it is, by the error and by where it comes from."""
    if type(error.__cause__).__name__ == "ElsewhereError":
        return Fault(f"an actor's environment or policy raised {_last_line(error)}.")
    caller, beneath = _where(error)
    if caller is not None and not beneath and caller.raised and not isinstance(error, AssertionError):
        return Fault(_message(error), expected=isinstance(error, _SENTENCES) and not _tells_more(error.__cause__))
    if _is_given(caller, beneath):
        return Fault(f"the environment raised {_last_line(error)}{_told(beneath)}.")
    if _meets_environment(caller, beneath):
        return Fault(f"the environment gave what could not be used: {_last_line(error)}.")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return Fault(
            f"{_message(error)}. Make room, or choose a place that can be written to; what was saved is whole."
        )
    if isinstance(error, _SENTENCES):
        return Fault(_message(error))
    return Fault(f"{_last_line(error)}.", ours=not _is_outside(error))


def explain(error: BaseException) -> tuple[str, int]:
    """What is written to a person, and the exit status: 2, or 1 if the program is at fault."""
    fault = fault_of(error)
    kept = "" if fault.expected else _keep(error)
    if not fault.ours:
        also = f" The traceback: {kept}" if kept else ""
        return f"worldloom: {_shortened(fault.text, _LONGEST - len(also))}{also}", 2
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return (
        f"{trace}worldloom: {fault.text} This is a fault of worldloom, not of what you asked for: please report it "
        f"with the traceback above{f', which {kept} holds too' if kept else ''}.",
        1,
    )


def _where(error: BaseException) -> tuple[_Place | None, list[_Place]]:
    """The last frame of ours, and the frames of others that it called, down to where the error was raised."""
    places = _places(error.__traceback__)
    last = max((number for number, place in enumerate(places) if place.ours), default=-1)
    return (places[last] if last >= 0 else None), places[last + 1 :]


def _places(trace: TracebackType | None) -> list[_Place]:
    found = []
    while trace is not None:
        code = trace.tb_frame.f_code
        file = Path(code.co_filename)
        ours = file.resolve().relative_to(_OURS).as_posix() if file.resolve().is_relative_to(_OURS) else ""
        raised = dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
        found.append(_Place(code.co_filename, ours, trace.tb_lineno, code.co_name, raised))
        trace = trace.tb_next
    return found


def _is_given(caller: _Place | None, beneath: list[_Place]) -> bool:
    """Whether the error was raised by what a person brought: an environment, or code that a library calls for us."""
    if caller is None or not beneath:
        return False
    if caller.ours.startswith(_CALL_WHAT_IS_GIVEN):
        return True
    return _is_library(beneath[0]) and not all(map(_is_library, beneath))


def _tells_more(cause: BaseException | None) -> bool:
    """Whether the error that a sentence was made of has a traceback that is worth keeping."""
    return cause is not None and (not isinstance(cause, _SENTENCES) or _is_given(*_where(cause)))


def _meets_environment(caller: _Place | None, beneath: list[_Place]) -> bool:
    """Whether something broke where an environment's values enter."""
    ours = caller is not None and caller.ours.startswith("envs/")
    return ours or any("torchrl/envs/" in Path(place.file).as_posix() for place in beneath)


def _told(beneath: list[_Place]) -> str:
    """Where it was raised, the environment's own file rather than a library's."""
    files = [place for place in beneath if not place.file.startswith("<")]
    own = [place for place in files if not _is_library(place)]
    return "".join(f" ({place.file}, line {place.line}, {place.function})" for place in (own or files)[-1:])


def _is_library(place: _Place) -> bool:
    parts = Path(place.file).parts
    return place.file.startswith(("<", _STANDARD)) or "site-packages" in parts or "dist-packages" in parts


def _is_outside(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _OUTSIDE) or any(text in str(error) for text in _OUTSIDE_TEXTS)


def _message(error: BaseException) -> str:
    """The text of an error, without the quotes that KeyError puts around its own."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__


def _last_line(error: BaseException) -> str:
    """Type and text as at the end of a traceback, in one line."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return _shortened(line, _LONGEST_OF_OTHERS).rstrip(".")


def _shortened(text: str, longest: int) -> str:
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def _keep(error: BaseException) -> str:
    """The name of a new file with the traceback; empty where none can be written."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="worldloom-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(type(error), error, error.__traceback__, file=file)
    except OSError:
        return ""
    return name
