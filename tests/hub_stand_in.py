"""A stand-in for the hub: a server on this machine that the hub's own client talks to."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


def commit_of(revision: str) -> str:
    """The commit that a branch of every repository stands for."""
    return sha1(revision.encode()).hexdigest()


@dataclass
class Hub:
    """Repositories by name and branch, each a folder; and what was asked for.

    ``fetched`` are the files that were sent; ``gated`` are repositories whose files are refused.
    """

    cache: Path
    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)

    def add(self, repository: str, folder: Path, revision: str = "main") -> Path:
        """Publishes a folder, which may be changed later."""
        self.repositories.setdefault(repository, {})[revision] = folder
        return folder

    def weights(self) -> set[str]:
        """The files of weights that were sent since the last call."""
        sent = {name for name in self.fetched if not name.endswith((".json", ".txt"))}
        self.fetched.clear()
        return sent

    def cached(self, repository: str) -> Path:
        """A repository's folder in the client's cache."""
        return self.cache / f"models--{repository.replace('/', '--')}"

    def folder(self, repository: str, revision: str) -> Path | None:
        """Of a branch or a commit."""
        branches = self.repositories[repository]
        return next((path for name, path in branches.items() if revision in (name, commit_of(name))), None)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """The few pages that downloading needs."""

        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            segments = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            asks = segments[:2] == ["api", "models"]
            segments = segments[2:] if asks else segments
            repository, verb, rest = "/".join(segments[:2]), segments[2:3], segments[3:]
            if repository not in hub.repositories:
                return self.refuse(401, "RepoNotFound")
            revision = rest[0] if rest else "main"
            folder = hub.folder(repository, revision)
            if folder is None:
                return self.refuse(404, "RevisionNotFound")
            commit = next(
                commit_of(name) for name in hub.repositories[repository] if revision in (name, commit_of(name))
            )
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [path.relative_to(folder).as_posix() for path in files]
            if asks and verb == ["tree"]:
                rows = zip(names, files, strict=True)
                return self.answer(
                    [
                        {"type": "file", "path": name, "size": path.stat().st_size, "oid": commit_of(name)}
                        for name, path in rows
                    ]
                )
            if asks:
                siblings = [{"rfilename": name} for name in names]
                return self.answer({"id": repository, "sha": commit, "siblings": siblings, "tags": []})
            if repository in hub.gated:
                return self.refuse(401, "GatedRepo")
            name = "/".join(rest[1:])
            if verb != ["resolve"] or name not in names:
                return self.refuse(404, "EntryNotFound")
            content = (folder / name).read_bytes()
            if self.command == "GET":
                hub.fetched.append(name)
            return self.send(200, content, ETag=f'"{sha1(content).hexdigest()}"', **{"X-Repo-Commit": commit})

        def answer(self, data: object) -> None:
            self.send(200, json.dumps(data).encode(), **{"Content-Type": "application/json"})

        def refuse(self, status: int, code: str) -> None:
            self.send(status, b"", **{"X-Error-Code": code, "X-Error-Message": code})

        def send(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    return Handler


@contextmanager
def hub_stand_in(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client asks in place of the true one, with an empty cache."""
    from huggingface_hub import constants

    hub = Hub(cache=cache)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def lighter(source: Path, target: Path) -> Path:
    """A copy of a folder that shares its files; a file may be replaced, not written to."""
    import os

    return shutil.copytree(source, target, copy_function=os.link)
