"""World models on the Hugging Face hub: download and upload."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar, cast

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from worldloom_rl.config import Json
from worldloom_rl.pretrained.format import CONFIG_FILE, LIBRARY, read_config, save_world_model
from worldloom_rl.pretrained.registry import SavableModel

# A request without any answer. The client changed its HTTP library more than once; this is that library's base class.
_NoAnswer = cast("type[Exception]", HfHubHTTPError.__mro__[1])

_PATIENCE = 45.0  # seconds without an answer, or without a byte of a download

T = TypeVar("T")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form "organization/name" that the hub takes."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def download(
    repo_id: str, files: Sequence[str], *, revision: str | None, local_files_only: bool, cache_dir: str | Path | None
) -> Path:
    """The directory in the hub's cache that holds those files, and no others, of a repository at a revision.

    A revision is a branch, a tag or a full commit hash. When the hub can't be reached, what the cache has is taken.
    Raises FileNotFoundError, PermissionError or ConnectionError, saying what to do.
    """
    fetch = partial(
        snapshot_download,
        repo_id,
        revision=revision,
        cache_dir=cache_dir,
        allow_patterns=list(files),
        library_name=LIBRARY,
        library_version=version(LIBRARY),
    )
    cached = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    try:
        if local_files_only:
            folder = fetch(local_files_only=True)
        else:
            try:
                folder = _answer_of(fetch, lambda: _bytes_below(cached))
            except TimeoutError:
                folder = fetch(local_files_only=True)
    except LocalEntryNotFoundError as error:
        why = "local_files_only=True was given" if local_files_only else "the hub gave no usable answer"
        raise FileNotFoundError(
            f"{repo_id!r} at revision {revision or 'main'!r} is not in the cache, and {why}. "
            "Load it once while connected and without local_files_only, or name the cache_dir that holds it."
        ) from error
    except HfHubHTTPError as error:
        raise _explained(error, repo_id, revision) from error
    return Path(folder)


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """The hash of the commit that put a folder's files into a repository, which is made if there is none.

    Args:
        private: of a new repository; None leaves it to the organization.
        token: by default the one of `hf auth login` or of HF_TOKEN.
        revision: branch to commit to, made from the main branch if there is none; by default the main branch.
    Raises ValueError for a malformed name, PermissionError or ConnectionError, saying what to do.
    """
    if not is_hub_id(repo_id):
        raise ValueError(
            f"A model on the hub is named 'organization/name' in letters, digits, '-', '_' and '.', got {repo_id!r}."
        )
    hub = HfApi(token=token, library_name=LIBRARY, library_version=version(LIBRARY))
    try:
        _answer_of(partial(hub.create_repo, repo_id, private=private, exist_ok=True))
        if revision is not None:
            _answer_of(partial(hub.create_branch, repo_id, branch=revision, exist_ok=True))
        commit = hub.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
        )
    except HfHubHTTPError as error:
        raise _explained(error, repo_id, revision) from error
    except (_NoAnswer, OSError) as error:
        raise ConnectionError(
            f"The hub gave no answer while {repo_id!r} was pushed: {error}. Push again when connected; "
            "save_pretrained keeps the model until then."
        ) from error
    return str(commit.oid)


def _answer_of(ask: Callable[[], T], progress: Callable[[], object] = lambda: None) -> T:
    """What `ask` returns or raises. Its requests have no time limit of their own.

    Args:
        progress: what changes while an answer comes in.
    Raises TimeoutError if nothing comes for `_PATIENCE` seconds.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(ask())
        except BaseException as error:  # noqa: BLE001 (raised again where it was asked)
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)  # a program may end while it still waits
    thread.start()
    before = progress()
    while True:
        thread.join(_PATIENCE)
        if raised:
            raise raised[0]
        if returned:
            return returned[0]
        now = progress()
        if now == before:
            raise TimeoutError(f"no answer within {_PATIENCE:.0f} seconds")
        before = now


def _bytes_below(folder: Path) -> int:
    """Bytes of the files in a directory, of those that are still coming in, too."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _explained(error: HfHubHTTPError, repo_id: str, revision: str | None) -> OSError:
    """The built-in exception for an answer of the hub that is an error."""
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(
            f"{repo_id!r} on the hub has no revision {revision!r}; give a branch, a tag or a full commit hash of it."
        )
    if isinstance(error, GatedRepoError):
        return PermissionError(f"{repo_id!r} on the hub is gated: ask for access on its page, then log in.")
    if status in (401, 403):
        return PermissionError(
            f"The hub answered {status} for {repo_id!r}: the token is missing, wrong or without this right, or there "
            "is no such model. Check the name, then run 'hf auth login' or set HF_TOKEN to a token with access to it."
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"There is no directory {repo_id!r} and the hub has no such model, or your token may not see it. "
            "Check the name and whose token is used ('hf auth whoami')."
        )
    return ConnectionError(f"The hub answered {status} for {repo_id!r}: {error}")


def push_world_model(
    model: SavableModel,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str | None,
    result: Mapping[str, Json] | None,
) -> str:
    """The hash of the commit that put a WorldModel's two files and its model card on the hub; see `upload`."""
    from worldloom_rl.pretrained.model_card import CARD_FILE, model_card  # here: scipy's statistics take a second

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_world_model(model, folder)
        card = model_card(repo_id, read_config(folder / CONFIG_FILE), model.num_parameters(), result)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        return upload(
            folder,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message or f"Push a {model.model_type} world model",
        )
