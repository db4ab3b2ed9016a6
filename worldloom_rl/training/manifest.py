"""The manifest of a checkpoint: a checksum of each file, the score; and readers that name the file that is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from worldloom_rl.atomic import write_json
from worldloom_rl.config import Json
from worldloom_rl.pretrained.tensor_files import load_tensor_file

_FILE = "manifest.json"
_OLDER_SCORE_FILE = "score.json"  # all that stood beside a checkpoint's files in version 0.6
_PACKAGES = ("worldloom-rl", "torch")


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be gone on from; an earlier one may be whole."""


def write_manifest(folder: Path, score: float | None) -> None:
    """The checksum of every file, what wrote them, and the mean return of the last evaluation of these weights.

    A directory inside with a manifest of its own, as a replay has, vouches for its files by that.
    """
    files = {file.relative_to(folder).as_posix(): _digest(file) for file in sorted(_files(folder, folder))}
    written_by = {name: version(name) for name in _PACKAGES}
    _write(folder, {"files": files, "written_by": written_by, "score": score})


def set_score(folder: Path, score: float | None) -> None:
    """Another score in place of the one that the checkpoint has, if it has a manifest."""
    if (folder / _FILE).is_file():
        _write(folder, {**_manifest(folder), "score": score})


def read_score(folder: Path) -> float | None:
    """What `write_manifest` or version 0.6 was told; None, too, of a damaged one."""
    try:
        score = (_manifest(folder) if (folder / _FILE).exists() else read_json(folder / _OLDER_SCORE_FILE))["score"]
    except (DamagedCheckpoint, KeyError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) else None


def check_files(folder: Path, inside: str = "") -> None:
    """Raise DamagedCheckpoint, naming the file, unless those under `inside` are what was written.

    Without a manifest nothing is known of them: their readers say what they can.
    """
    if not (folder / _FILE).exists():
        return
    for name, digest in _manifest(folder)["files"].items():
        file = folder / name
        if name.startswith(inside):
            require_file(file)
            if _digest(file) != digest:
                raise DamagedCheckpoint(f"{file} is damaged: it is not what the checksum in {_FILE} is of.")


def require_manifest(folder: Path) -> None:
    """Raise DamagedCheckpoint unless the checkpoint has a manifest, or is of version 0.6, which wrote none."""
    if not (folder / _OLDER_SCORE_FILE).exists():
        require_file(folder / _FILE)


def writer_of(folder: Path) -> str:
    """What wrote a checkpoint, and what reads it where that differs, to end a sentence."""
    try:
        written_by = dict(_manifest(folder)["written_by"])
    except (DamagedCheckpoint, KeyError, TypeError, ValueError):
        return ""
    other = {name: version(name) for name in _PACKAGES if written_by.get(name) != version(name)}
    return "".join(f"; it was written by {name} {written_by.get(name)}, this is {here}" for name, here in other.items())


def require_file(file: Path) -> None:
    """Raise DamagedCheckpoint unless a regular file is there: a pipe would be waited for."""
    if not file.is_file():
        there = "is no regular file" if file.exists() else "is missing"
        raise DamagedCheckpoint(f"{file} {there}.")


def read_json(file: Path) -> Json:
    """A JSON file. Raises DamagedCheckpoint for anything else."""
    require_file(file)
    try:
        return json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{file} is damaged: it is no JSON ({error}).") from error


def read_tensors(file: Path) -> dict[str, Json]:
    """What `torch.save` wrote of tensors, numbers and texts. Raises DamagedCheckpoint for anything else."""
    require_file(file)
    try:
        read = load_tensor_file(file)  # torch would fill as much memory as a file asks for
    except ValueError as error:
        raise DamagedCheckpoint(f"{file} is damaged, or holds more than tensors and numbers: {error}.") from error
    if not isinstance(read, dict):
        raise DamagedCheckpoint(f"{file} is damaged: it holds a {type(read).__name__}.")
    return read


def _write(folder: Path, manifest: dict[str, Json]) -> None:
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    write_json(folder / _FILE, {**content, "sha256": _digest_of(content)})


def _manifest(folder: Path) -> dict[str, Json]:
    file = folder / _FILE
    manifest = read_json(file)
    content = (
        {name: value for name, value in manifest.items() if name != "sha256"} if isinstance(manifest, dict) else {}
    )
    if not content or manifest.get("sha256") != _digest_of(content):
        raise DamagedCheckpoint(f"{file} is damaged: it is not what its own checksum is of.")
    files = content.get("files")
    if not isinstance(files, dict) or any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise DamagedCheckpoint(f"{file} must list files of {folder} and their checksums.")
    return content


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            own = path / _FILE
            yield from [own] if own.exists() else _files(path, root)
        elif path != root / _FILE:
            yield path


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _digest_of(content: dict[str, Json]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
