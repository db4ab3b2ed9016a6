"""A stand-in for the model hub on the loopback interface: what huggingface_hub asks of it, from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "token-of-the-test"
ORGANIZATION = "loomers"  # the only one that TOKEN may write to

Files = dict[str, bytes]


class Refused(Exception):
    """An answer that is an error: status and headers, as the hub gives them."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


@dataclass
class Repository:
    """Commits by hash, each with all its files, and branches by name."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, changes: Files, message: str) -> str:
        """The hash of a new commit at the head of a branch."""
        parent = self.branches.get(branch, "")
        files = {**self.commits.get(parent, {}), **changes}
        content = "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items()))
        identity = hashlib.sha1(f"{parent}\n{message}\n{content}".encode()).hexdigest()
        self.commits[identity] = files
        self.branches[branch] = identity
        return identity

    def at(self, revision: str) -> str:
        """The hash that a branch or a hash means."""
        if revision in self.branches:
            return self.branches[revision]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class HubServer:
    """The server; a context that listens from `with` on. `requests` lists "METHOD path" as they came.

    Large files lie at another origin, `store`, as the hub's do: the client follows a redirect there only to download.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # LFS objects by sha256
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self._threads = [threading.Thread(target=server.serve_forever) for server in self._servers]
        self.endpoint, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> HubServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def create(self, name: str, private: bool = False) -> Repository:
        """A new repository with the hub's first commit."""
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return repository


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle_request(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {unquote(path)}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for methods, pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods:
                    answer(self, body, *map(unquote, match.groups()))
                    return
            raise Refused(404, f"The stand-in has no {self.command} {path}")
        except Refused as refused:
            self.send(json.dumps({"error": str(refused)}).encode(), refused.status, refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content: Any, status: int = 200) -> None:
        self.send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    # ------------------------------------------------------------------ rights

    def signed_in(self) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise Refused(401, "Invalid credentials in Authorization header")
        return given is not None

    def readable(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if not self.signed_in() and (repository is None or repository.private):
            raise Refused(401, "Invalid username or password.")  # so as not to tell what exists
        if repository is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repository

    def check_writer(self, name: str) -> None:
        if not self.signed_in():
            raise Refused(401, "Invalid username or password.")
        if name.split("/")[0] != ORGANIZATION:
            raise Refused(403, "You don't have the rights to write to this namespace")

    # ------------------------------------------------------------------ writing

    def create_repository(self, body: bytes) -> None:
        given = json.loads(body)
        name = f"{given['organization']}/{given['name']}"
        self.check_writer(name)
        known = name in self.hub.repositories
        if not known:
            self.hub.create(name, given.get("visibility") == "private" or bool(given.get("private")))
        self.send_json({"url": f"{self.hub.endpoint}/{name}"}, 409 if known else 200)

    def create_branch(self, body: bytes, name: str, branch: str) -> None:
        self.check_writer(name)
        repository = self.readable(name)
        if branch in repository.branches:
            raise Refused(409, "Reference already exists")
        repository.branches[branch] = repository.at(json.loads(body).get("startingPoint", "main"))
        self.send_json({})

    def validate_card(self, body: bytes) -> None:
        if not json.loads(body)["content"].startswith("---\n"):
            raise Refused(400, "The card has no metadata")
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self.check_writer(name)
        self.readable(name).at(revision)
        self.send_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def lfs_batch(self, body: bytes, name: str) -> None:
        self.check_writer(name)
        objects = json.loads(body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.large:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.store}/lfs/{entry['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}/verify"},
                }
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "The content has another hash")
        self.hub.large[oid] = body
        self.send(b"")

    def lfs_verify(self, body: bytes, oid: str) -> None:
        if json.loads(body) != {"oid": oid, "size": len(self.hub.large[oid])}:
            raise Refused(400, "The content has another size")
        self.send_json({})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        self.check_writer(name)
        message, changes = "", {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                changes[value["path"]] = self.hub.large[value["oid"]]
            else:
                raise Refused(400, f"The stand-in does no {entry['key']}")
        identity = self.readable(name).commit(branch, changes, message)
        url = f"{self.hub.endpoint}/{name}/commit/{identity}"
        self.send_json({"success": True, "commitOid": identity, "commitUrl": url})

    # ------------------------------------------------------------------ reading

    def information(self, body: bytes, name: str, revision: str = "main") -> None:
        repository = self.readable(name)
        identity = repository.at(revision)
        siblings = [{"rfilename": path} for path in repository.commits[identity]]
        self.send_json({"id": name, "sha": identity, "private": repository.private, "siblings": siblings})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        repository = self.readable(name)
        self.send_json([_listed(path, data) for path, data in repository.commits[repository.at(revision)].items()])

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        repository = self.readable(name)
        identity = repository.at(revision)
        headers = {"X-Repo-Commit": identity}
        files = repository.commits[identity]
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        entry = _listed(path, files[path])
        if "lfs" not in entry:
            self.send(files[path], headers={**headers, "ETag": f'"{entry["oid"]}"'})
            return
        oid = entry["lfs"]["oid"]
        self.hub.large[oid] = files[path]
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(entry["size"])}
        self.send(b"", 302, {**headers, "Location": f"{self.hub.store}/lfs/{oid}"})

    def lfs_download(self, body: bytes, oid: str) -> None:
        if self.signed_in():
            raise Refused(400, "A token was sent to the store")
        self.send(self.hub.large[oid], headers={"ETag": f'"{oid}"'})


def _listed(path: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


_NAME = "([^/]+/[^/]+)"

_ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., None]], ...] = (
    (("POST",), "/api/repos/create", _Handler.create_repository),
    (("POST",), "/api/validate-yaml", _Handler.validate_card),
    (("POST",), f"/api/models/{_NAME}/branch/([^/]+)", _Handler.create_branch),
    (("POST",), f"/api/models/{_NAME}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), f"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), "/lfs/([0-9a-f]+)", _Handler.lfs_upload),
    (("POST",), "/lfs/([0-9a-f]+)/verify", _Handler.lfs_verify),
    (("GET",), f"/api/models/{_NAME}", _Handler.information),
    (("GET",), f"/api/models/{_NAME}/revision/([^/]+)", _Handler.information),
    (("GET",), f"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    (("GET", "HEAD"), f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (("GET",), "/lfs/([0-9a-f]+)", _Handler.lfs_download),
)
