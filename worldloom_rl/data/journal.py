"""A journal: a directory of immutable tensor files and the manifest that lists them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from worldloom_rl.atomic import write_bytes
from worldloom_rl.config import Json

Manifest = dict[str, Json]
Entry = dict[str, Json]  # what the manifest says of a file: "file", "sha256" and the writer's own notes
_MANIFEST = "manifest.json"
_PIECE = 2**24  # bytes that are read together


class DamagedFile(ValueError):
    """A file that is not what was written."""


class Journal:
    """Files are written whole under the name of their content and never changed; the manifest is renamed into place.

    So the directory always holds a complete state: that of the last `commit`.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()

    def write(self, kind: str, tensors: dict[str, Tensor], **notes: Json) -> Entry:
        """Writes one file; its entry for the manifest."""
        content = save({name: value.cpu().contiguous() for name, value in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        name = f"{kind}-{digest[:20]}.safetensors"
        self._replace(name, content)
        return {"file": name, "sha256": digest, **notes}

    def adopt(self, entry: Entry, other: Path) -> None:
        """Takes a listed file over from another journal's directory, by a hard link where the file system allows it."""
        target = self.directory / entry["file"]
        if target.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            os.link(other / entry["file"], target)
        except OSError:
            self._replace(entry["file"], (other / entry["file"]).read_bytes())

    def read(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of a listed file.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is not what was written.
        """
        path = self._listed(entry)
        content = path.read_bytes()
        self._check(path, hashlib.sha256(content), entry)
        return load(content)

    def checked(self, entry: Entry) -> Path:
        """Where a listed file is, once it is seen to be what was written; raises as `read` does. Takes no memory."""
        path, digest = self._listed(entry), hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(_PIECE):
                digest.update(part)
        self._check(path, digest, entry)
        return path

    def _listed(self, entry: Entry) -> Path:
        path: Path = self.directory / entry["file"]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but {_MANIFEST} lists it: copy the whole directory.")
        return path

    @staticmethod
    def _check(path: Path, digest: hashlib._Hash, entry: Entry) -> None:
        if digest.hexdigest() != entry["sha256"]:
            size = path.stat().st_size
            raise DamagedFile(f"{path} is damaged ({size} bytes do not have the hash in {_MANIFEST}).")

    def commit(self, manifest: Manifest) -> None:
        """Makes this the directory's state; files that only the state before listed are removed."""
        before = self._files(self.manifest()) if (self.directory / _MANIFEST).exists() else set()
        self._replace(_MANIFEST, json.dumps(manifest, indent=1).encode())
        for name in before - self._files(manifest):
            (self.directory / name).unlink(missing_ok=True)

    def manifest(self) -> Manifest:
        """What was last committed; the files that it lists stand beside it."""
        path = self.directory / _MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file: nothing was saved in this directory.")
        try:
            manifest: Manifest = json.loads(path.read_bytes())
        except ValueError as error:
            raise DamagedFile(f"{path} is damaged: {error}") from error
        for name in self._files(manifest):
            if not isinstance(name, str) or Path(name).name != name:
                raise DamagedFile(f"{path} lists {name!r:.80}, which is no file beside it.")
        return manifest

    def _files(self, manifest: Manifest) -> set[str]:
        try:
            return {entry["file"] for entries in manifest["files"].values() for entry in entries}
        except (LookupError, TypeError, AttributeError) as error:
            raise DamagedFile(f"{self.directory / _MANIFEST} lists its files in an unknown way.") from error

    def _replace(self, name: str, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_bytes(self.directory / name, content)
