"""What test processes share: folders that are filled once, and exports that are not made again."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

HOUSE = Path(__file__).resolve().parent.parent
# An export that outlives its run is of these files as they were
_EXPORTERS = sorted(
    path for folder in ("export/modules", "export/tracing", "engines/graphs") for path in (HOUSE / folder).glob("*.py")
)


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for this run of the tests, the same in every process that takes part in it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def filled_once(folder: Path, fill: Callable[[Path], object]) -> Path:
    """``folder``, filled by the first process that asks for it, while others that ask wait."""
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            fill(folder)
            done.touch()
    return folder


@contextmanager
def remembered_exports(folder: Path) -> Iterator[None]:
    """While it lasts, what was exported before is not traced again: its files are copied.

    Half of a tiny model's parts are another one's, too: families share text encoders and autoencoders, and many tests
    build the same model.
    """
    from latentrt.engines.bundle.weights import NamedWeights, read_named_weights, write_named_weights
    from latentrt.export import component_exports
    from latentrt.export.tracing.onnx_export import Graph, Written

    trace = component_exports.export_onnx

    def export_onnx(
        module: Any, example: Mapping[str, Any], graph: Graph, target: Path, islands: Any = None
    ) -> Written:
        if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
            return trace(module, example, graph, target, islands)  # hooks cannot be told apart

        def fill(place: Path) -> None:
            files, kept, weights = trace(module, example, graph, place / "files", islands)
            (place / "written.json").write_text(json.dumps([files, kept]))
            write_named_weights(place / "weights.json", NamedWeights(weights=weights))

        place = filled_once(folder / _digest(module, example, graph, islands), fill)
        shutil.copytree(place / "files", target, dirs_exist_ok=True)
        files, kept = json.loads((place / "written.json").read_text())
        return Written(files, kept, read_named_weights(place / "weights.json").weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(component_exports, "export_onnx", export_onnx)
        yield


def _digest(module: Any, example: Mapping[str, Any], graph: object, islands: Sequence[object] | None) -> str:
    """Of all that an export depends on: code, the modules with their settings, every weight, shapes, names, islands."""
    digest = sha256(repr((graph, islands)).encode())
    for source in _EXPORTERS:
        digest.update(source.read_bytes())
    for name, tensor in example.items():
        digest.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, bool | int | float | str | tuple)}
        config = getattr(part, "config", {})
        settings = dict(config.to_dict() if hasattr(config, "to_dict") else config)
        settings.pop("_name_or_path", None)
        described = (name, type(part).__qualname__, sorted(vars(part)), sorted(plain.items()), sorted(settings.items()))
        digest.update(repr(described).encode())
    for name, tensor in module.state_dict().items():
        digest.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
