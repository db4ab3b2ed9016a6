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
        path = self.directory / entry["file"]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but {_MANIFEST} lists it: copy the whole directory.")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedFile(f"{path} is damaged ({len(content)} bytes do not have the hash in {_MANIFEST}).")
        return load(content)

    def commit(self, manifest: Manifest) -> None:
        """Makes this the directory's state; files that only the state before listed are removed."""
        before = self._files(self.manifest()) if (self.directory / _MANIFEST).exists() else set()
        self._replace(_MANIFEST, json.dumps(manifest, indent=1).encode())
        for name in before - self._files(manifest):
            (self.directory / name).unlink(missing_ok=True)

    def manifest(self) -> Manifest:
        """What was last committed."""
        path = self.directory / _MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file: nothing was saved in this directory.")
        try:
            manifest: Manifest = json.loads(path.read_bytes())
        except ValueError as error:
            raise DamagedFile(f"{path} is damaged: {error}") from error
        return manifest

    @staticmethod
    def _files(manifest: Manifest) -> set[str]:
        return {entry["file"] for entries in manifest["files"].values() for entry in entries}

    def _replace(self, name: str, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_bytes(self.directory / name, content)
