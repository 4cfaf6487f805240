"""What a user means by a hub id or by a page's address: a repository, its revision, and a folder or a file in it."""

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from latentrt.engines.errors import CheckpointError

_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"({_NAME})/({_NAME})")
_ADDRESS = re.compile(r"(?:(https?|hf):/+)?(.+)", re.IGNORECASE | re.DOTALL)
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# What follows a repository in the address of one of its files or folders
_VERBS = ("blob", "resolve", "raw", "tree", "blame", "edit", "commit")
_NO_MODELS = ("datasets", "spaces", "models", "collections", "papers", "docs", "blog")
# Revisions that have slashes in their names: of pull requests and of converted files
_SPECIAL_REVISION = re.compile(r"refs/(?:pr|convert)/[^/]+")
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class HubReference:
    """A repository ``owner/name``; its revision, None for the main one; a path in it, None for all of it."""

    repository: str
    revision: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        """As it may be given again."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repository}{revision}{'' if self.path is None else f'/{self.path}'}"


def reference_from_text(text: str) -> HubReference | None:
    """A reference from ``owner/name[@revision][/path]``, ``owner/name/path@revision`` or an address; None from no such.

    Raises:
        CheckpointError: an address of another site, or of a page on the hub that is no model's.
    """
    matched = _ADDRESS.fullmatch(text.strip())
    if matched is None:
        return None
    scheme, rest = matched[1], matched[2]
    if scheme is not None and scheme.lower() == "hf":
        return _reference_from_id(rest.removeprefix("models/")) or _no_model_page(text)
    host, _, page = rest.partition("/")
    if host.lower() in _hosts():
        return _reference_from_page(text, page)
    if scheme is not None:
        raise CheckpointError(
            f"got {text!r}, an address on {host}, expected a model on the hub ({_HOSTS[0]}), a folder or a file; "
            "download the file and give its path"
        )
    return _reference_from_id(rest)


def _hosts() -> tuple[str, ...]:
    """The hub's, and that of the mirror that ``HF_ENDPOINT`` names."""
    mirror = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc.lower()
    return (*_HOSTS, mirror) if mirror else _HOSTS


def _reference_from_page(text: str, page: str) -> HubReference:
    page = re.split(r"[?#]", page, maxsplit=1)[0].strip("/")
    owner, _, rest = page.partition("/")
    name, _, rest = rest.partition("/")
    repository = f"{owner}/{name}"
    verb, _, rest = rest.partition("/")
    whole = not verb and not rest
    if owner in _NO_MODELS or not (_REPOSITORY.fullmatch(repository) and (whole or verb in _VERBS)):
        return _no_model_page(text)
    revision, path = _revision_and_path(rest)
    return HubReference(repository=repository, revision=revision, path=None if path is None else unquote(path))


def _no_model_page(text: str) -> HubReference:
    raise CheckpointError(
        f"got {text!r}, which is no model's page, expected owner/name, or the address of a model, or of a folder or a "
        "file in one; check the address"
    )


def _reference_from_id(text: str) -> HubReference | None:
    start, at, end = text.rstrip("/").partition("@")
    owner, _, rest = start.partition("/")
    name, _, path = rest.partition("/")
    if not _REPOSITORY.fullmatch(f"{owner}/{name}") or any(part in ("", ".", "..") for part in path.split("/")[:-1]):
        return None
    if owner in _NO_MODELS:
        return None
    if not path and not at and name.lower().endswith(WEIGHTS):
        return None  # a file whose path is mistyped
    revision: str | None = None
    if path:
        revision = unquote(end) or None
    else:
        revision, after = _revision_and_path(end)
        path = after or ""
    return HubReference(repository=f"{owner}/{name}", revision=revision, path=path or None)


def _revision_and_path(text: str) -> tuple[str | None, str | None]:
    """``REVISION/PATH`` taken apart; slashes in a revision are written as ``%2F``, as on the hub's pages."""
    special = _SPECIAL_REVISION.match(text)
    revision = special[0] if special else text.partition("/")[0]
    path = text[len(revision) :].strip("/")
    return unquote(revision) or None, path or None
