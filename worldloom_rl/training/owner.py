"""Who works on a run: a lock on its directory, which goes with the process however that ends."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

OWNER_FILE = ".owner"
_PATIENCE = 0.5  # seconds for the owner to have written who it is

_held: set[int] = set()  # descriptors of this process


class Owner:
    """The right to write to a run, until `release`, the end of this object or that of the process.

    Raises BlockingIOError, naming the process and its host, if another one has it.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / OWNER_FILE
        while True:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
            if not _lock(descriptor):
                who = _read(descriptor)
                os.close(descriptor)
                raise BlockingIOError(
                    f"{directory} is in use by {who}, which trains or resumes it; wait for its end, or stop it."
                )
            if _is_there(descriptor, self._file):
                break
            os.close(descriptor)  # the owner before removed it as it let go
        self._descriptor = descriptor
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())

    def release(self) -> None:
        """Lets go, and leaves no file. Without effect the second time, and in a fork of the process."""
        if self._descriptor not in _held:
            return
        _held.remove(self._descriptor)
        with suppress(OSError):  # the directory is gone, or the system keeps open files
            if _is_there(self._descriptor, self._file):
                self._file.unlink()  # while it is locked: who opened it before sees that it is gone
        os.close(self._descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        """Locks the file for this process; whether that was possible."""
        os.lseek(descriptor, 2**20, os.SEEK_SET)  # beyond its text, which stays readable to others
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Locks the file for this process; whether that was possible."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks: two owners cannot be told apart there
            return True
        return True


def _read(descriptor: int) -> str:
    """Who holds the lock, for people."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with suppress(OSError, ValueError, KeyError, TypeError):
            os.lseek(descriptor, 0, os.SEEK_SET)
            owner = json.loads(os.read(descriptor, 1000))
            return f"process {int(owner['process'])} on {owner['host']!s:.100}"
        time.sleep(0.01)
    return "another process"


def is_gone(owner: str) -> bool:
    """Whether the process that an owner's file tells of is known to have been killed: it was one of this machine."""
    try:
        who = json.loads(owner)
        if who["host"] == socket.gethostname():
            os.kill(int(who["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return False


def _is_there(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _close_in_fork() -> None:
    """A fork must not keep the lock when its parent is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_fork)
