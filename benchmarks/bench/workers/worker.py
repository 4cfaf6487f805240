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
from typing import Any, Protocol

_BENCHMARKS = Path(__file__).resolve().parents[2]
_OURS = "latentrt_bundle"


class Adapter(Protocol):
    """What a file of ``peers/`` holds under this name; made without an argument, after its imports."""

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

    def arithmetic(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What its U-Net computes in, read back from what runs it: ``peers/arithmetic``.

        Args:
            request: a draw, for those that have to watch one; it takes as long and as much memory as it needs.

        Returns:
            None where that is not told.
        """

    def versions(self) -> Mapping[str, str]:
        """The packages that do the work, with their versions, and what else says how it runs."""


def _module(name: str) -> Any:
    """An adapter's module; peers see ``latentrt.benchmarks`` without latentrt, of which they use nothing else."""
    if name != _OURS and "latentrt" not in sys.modules:
        house = types.ModuleType("latentrt")
        house.__path__ = []
        sys.modules["latentrt"] = house
        spec = importlib.util.spec_from_file_location(
            "latentrt.benchmarks", _BENCHMARKS / "__init__.py", submodule_search_locations=[str(_BENCHMARKS)]
        )
        assert spec is not None
        sys.modules["latentrt.benchmarks"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"latentrt.benchmarks.peers.{name}")


def _opened(name: str, request: Mapping[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    """The adapter with its model, and seconds for its imports and for the model."""
    begin = perf_counter()
    adapter: Adapter = _module(name).Adapter()
    imported = perf_counter()
    adapter.open(request["model"], request.get("options", {}))
    return adapter, {"import": imported - begin, "load": perf_counter() - imported}


def _draw(adapter: Adapter, request: Mapping[str, Any]) -> dict[str, Any]:
    return dict(adapter.draw(request, Path(request["output"]) if request.get("output") else None))


def _packages_bytes(name: str) -> int:
    """Bytes of the installed packages of which something is loaded; for latentrt itself, its own among them."""
    from importlib import metadata

    owners = metadata.packages_distributions()
    loaded = {module.partition(".")[0] for module in sys.modules}
    files = [
        file.locate()
        for owner in {owner for module in loaded for owner in owners.get(module, ()) if owner != "latentrt"}
        for file in metadata.files(owner) or ()
    ]
    if name == _OURS:  # installed or in a working tree, but for the benchmark
        for package, module in list(sys.modules.items()):
            if package.partition(".")[0] == "latentrt" and not package.startswith("latentrt.benchmarks"):
                files += [path for folder in getattr(module, "__path__", ()) for path in Path(folder).iterdir()]
    return sum(os.stat(path).st_size for path in files if os.path.isfile(path))


def _answer(name: str, adapter: Adapter | None, request: Mapping[str, Any]) -> tuple[Adapter | None, dict[str, Any]]:
    if request["do"] == "open":
        adapter, seconds = _opened(name, request)
        return adapter, {"seconds": seconds, "versions": dict(adapter.versions())}
    if request["do"] == "prepare":
        _module(name).prepare(request["checkpoint"], Path(request["folder"]))
        return adapter, {}
    if adapter is None:
        raise RuntimeError("nothing is open")
    if request["do"] == "draw":
        return adapter, {"seconds": _draw(adapter, request)}
    if request["do"] == "arithmetic":
        return adapter, {"arithmetic": adapter.arithmetic(request)}
    if request["do"] == "packages":
        return adapter, {"bytes": _packages_bytes(name)}
    raise RuntimeError(f"unknown request {request['do']!r}")


def main(name: str, *once: str) -> None:
    """The worker."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to standard error from now on
    if once:
        request = json.loads(once[1])
        adapter, seconds = _opened(name, request)
        _draw(adapter, request)
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
        return
    serving: Adapter | None = None
    for line in sys.stdin:
        try:
            serving, answer = _answer(name, serving, json.loads(line))
        except Exception as error:  # whatever a peer raises is its answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
