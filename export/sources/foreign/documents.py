"""Texts that people give in place of weights: indexes, configurations, pages, messages of servers."""

import json
from pathlib import Path
from typing import Any

_LARGEST = 32 * 2**20  # bytes of a JSON file that is looked into: an index of a thousand shards has less
_PAGES = (b"<!doctype", b"<html", b"<head")
_ERRORS = ("error", "errors", "message", "detail")


def document_kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a page, a JSON file or XML is, and what to do about it; None for what is none of these.

    Args:
        path: the file.
        head: its first bytes.
    """
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if bare.lower().startswith(_PAGES):
        return "a web page instead of the model", "download it again from a link to the file itself"
    if bare.startswith((b"{", b"[")) and (found := _json(path)) is not None:
        return found
    if bare.startswith(b"<"):
        if b"<net " in head or path.name.startswith("openvino"):
            return "an OpenVINO model (IR)", "give the checkpoint that it was exported from"
        if b"<Error>" in head:
            return "a server's error message instead of the model", "download it again"
        return "an XML file", "give the weights beside it"
    return None


def text_kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a plain text is, and what to do about it; None for what is none."""
    if any(byte < 32 and byte not in b"\t\r\n\f" for byte in head):
        return None
    text = head.decode("utf-8", "replace").strip()
    if "\ufffd" in text[:-4]:
        return None
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return "a YAML file (the configuration of a model)", "give the weights beside it; they need no configuration"
    if suffix in (".md", ".txt", ".csv", ".py", ".toml", ".ini", ".info"):
        return "a text", "give the weights beside it"
    begins = " ".join(text[:60].split())
    return f"a text that begins with {begins!r}", "download the model again, logged in if its page asks for it"


def _json(path: Path) -> tuple[str, str] | None:
    """A JSON file by what it says."""
    beside, folder = "give the weights beside it", f"give the folder {str(path.parent)!r}"
    try:
        data: Any = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST else {}
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return "a JSON file", beside
    if "weight_map" in data:
        return "the index of weights in shards", folder
    if path.name == "model_index.json":
        return "the index of a diffusers folder", folder
    if "schema_version" in data and "components" in data:
        return "the manifest of a bundle", folder
    if path.name == "scheduler_config.json" or "tokenizer" in path.name or path.name in ("vocab.json", "config.json"):
        kind = data.get("_class_name") or next(iter(_list(data.get("architectures"))), None)
        named = f" of a {kind}" if isinstance(kind, str) else ""
        pipeline = path.parent.parent
        return f"a configuration{named}", (
            f"give the folder {str(pipeline)!r}" if (pipeline / "model_index.json").is_file() else folder
        )
    if {"nodes", "links"} <= data.keys():
        return "a workflow of ComfyUI", "give the checkpoint that it names"
    if {"modelId", "baseModel"} & data.keys() or path.name.endswith(".civitai.info"):
        return "the description of a model (as from Civitai)", beside
    said = next((data[key] for key in _ERRORS if key in data), None)
    if said is not None and len(data) <= 5:
        return (
            f"a server's message instead of the model ({str(said)[:60]!r})",
            "download it again, logged in if its page asks for it",
        )
    return "a JSON file", beside


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
