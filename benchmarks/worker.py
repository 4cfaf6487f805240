"""One contender in a process of its own: requests come in as JSON lines, answers go out as JSON lines.

    python -P worker.py ADAPTER                 serves until its input ends
    python -P worker.py ADAPTER --once REQUEST  opens, draws one picture into a PNG, and answers once

Runs in foreign environments too, so it needs the standard library alone; an adapter (a file of ``peers/``) brings its
own packages. An idle worker waits in a read of its input and takes no processor time of its own.
"""

import importlib
import importlib.util
import json
import os
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TextIO

_HERE = Path(__file__).resolve().parent
_ADAPTERS = "latentrt.benchmarks.peers"
_OURS = "latentrt_bundle"


class Adapter(Protocol):
    """What a file of ``peers/`` holds under the name ``Contender``; made without an argument, after its imports."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Loads what it draws with; ``options`` are its own."""

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws.

        Args:
            request: ``prompts``, ``seeds`` (one each), ``steps``, ``guidance``, ``width``, ``height``.
            output: where to save ``pixels`` (N, H, W, 3) float32 in [0, 1] and ``latents`` (N, C, h, w), the model's
                own scale, as .npz; a .png takes the first picture.

        Returns:
            Seconds: ``total``; and where it can tell ``encode``, ``denoise``, ``decode``, ``steps``, one each, and
            ``unet``, one per call.
        """

    def versions(self) -> Mapping[str, str]:
        """The packages that do the work, with their versions, and what else says how it runs."""


def _importable(name: str) -> None:
    """Makes ``latentrt.benchmarks`` importable without latentrt, of which peers use nothing else."""
    if name == _OURS or "latentrt" in sys.modules:
        return
    house = types.ModuleType("latentrt")
    house.__path__ = []
    sys.modules["latentrt"] = house
    spec = importlib.util.spec_from_file_location(
        "latentrt.benchmarks", _HERE / "__init__.py", submodule_search_locations=[str(_HERE)]
    )
    assert spec is not None
    sys.modules["latentrt.benchmarks"] = importlib.util.module_from_spec(spec)


def _opened(name: str, request: Mapping[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    """The adapter with its model, and seconds for its imports and for the model."""
    begin = perf_counter()
    _importable(name)
    module = importlib.import_module(f"{_ADAPTERS}.{name}")
    adapter: Adapter = module.Contender()
    imported = perf_counter()
    adapter.open(request["model"], request.get("options", {}))
    return adapter, {"import": imported - begin, "load": perf_counter() - imported}


def _output(request: Mapping[str, Any]) -> Path | None:
    return Path(request["output"]) if request.get("output") else None


def _packages_bytes(name: str) -> int:
    """Bytes of the installed packages of which something is loaded; for latentrt itself, its own among them."""
    from importlib import metadata

    owners = metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in sys.modules}
    found = {owner for name in loaded for owner in owners.get(name, ()) if owner != "latentrt"}
    size = _own_bytes() if name == _OURS else 0
    for owner in found:
        for file in metadata.files(owner) or ():
            path = file.locate()
            size += os.stat(path).st_size if os.path.isfile(path) else 0
    return size


def _own_bytes() -> int:
    """Bytes of latentrt's packages that are loaded, but for the benchmark; installed or in a working tree."""
    size = 0
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "latentrt" and not name.startswith("latentrt.benchmarks"):
            for folder in getattr(module, "__path__", ()):
                size += sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())
    return size


def _answer(name: str, adapter: Adapter | None, request: Mapping[str, Any]) -> tuple[Adapter | None, dict[str, Any]]:
    if request["do"] == "open":
        adapter, seconds = _opened(name, request)
        return adapter, {"seconds": seconds, "versions": dict(adapter.versions())}
    if request["do"] == "prepare":
        _importable(name)
        importlib.import_module(f"{_ADAPTERS}.{name}").prepare(request["checkpoint"], Path(request["folder"]))
        return adapter, {}
    if adapter is None:
        raise RuntimeError("nothing is open")
    if request["do"] == "draw":
        return adapter, {"seconds": dict(adapter.draw(request, _output(request)))}
    if request["do"] == "packages":
        return adapter, {"bytes": _packages_bytes(name)}
    raise RuntimeError(f"unknown request {request['do']!r}")


def _private_stdout() -> TextIO:
    """The real standard output; what libraries print there goes to standard error from now on."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def main(arguments: list[str]) -> None:
    """The worker."""
    name, *once = arguments
    answers = _private_stdout()

    def reply(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    if once:
        request = json.loads(once[1])
        adapter, seconds = _opened(name, request)
        adapter.draw(request, _output(request))
        reply({"seconds": seconds})
        return
    serving: Adapter | None = None
    for line in sys.stdin:
        try:
            serving, answer = _answer(name, serving, json.loads(line))
        except Exception as error:  # whatever a peer raises is its answer
            traceback.print_exc()
            text = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {text[:300]}"}
        reply(answer)


if __name__ == "__main__":
    main(sys.argv[1:])
