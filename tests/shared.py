"""What test processes share: folders that are filled once, and exports that are not made again."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

HOUSE = Path(__file__).resolve().parent.parent
# A trace that outlives its run is of these files and packages as they were
_EXPORTERS = sorted(
    path for folder in ("export/modules", "export/tracing", "engines/graphs") for path in (HOUSE / folder).glob("*.py")
)
_EXPORTERS.append(Path(__file__))

_PACKAGES = ("torch", "diffusers", "transformers", "onnxscript", "onnx-ir")


def traces_folder() -> Path:
    """Where traces are kept for later runs: of the present exporter alone, those of others are removed."""
    digest = sha256(repr([version(package) for package in _PACKAGES]).encode())
    for source in _EXPORTERS:
        digest.update(source.read_bytes())
    folder = HOUSE / ".pytest_cache" / "traces" / digest.hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):
        if not folder.exists():
            for old in folder.parent.iterdir():
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir()
    return folder


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


def linked_copy(source: Path, target: Path) -> Path:
    """A copy of a bundle, of which the weights, nearly all of its bytes, are the very files. Do not write to those."""

    def link_or_copy(file: str, to: str) -> None:
        (os.link if file.endswith(".data") else shutil.copy2)(file, to)

    return Path(shutil.copytree(source, target, copy_function=link_or_copy))


@contextmanager
def no_preview_fitted() -> Iterator[None]:
    """While it lasts, builds write down a preview that is none: fitting one takes as long as the rest."""
    from latentrt.engines.bundle.records.manifests.manifest import PreviewRecord
    from latentrt.export import components

    preview = PreviewRecord(matrix=((0.1, 0.1, 0.1),) * 4, bias=(0.5, 0.5, 0.5), psnr=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "fit_preview", lambda *_: preview)
        yield


def write_sealed(path: Path, manifest: Mapping[str, Any]) -> None:
    """Writes a manifest that was changed, with a new seal, so that what it says is read."""
    from latentrt.engines.bundle.records.manifests.seal import sealed

    rest = {key: value for key, value in manifest.items() if key != "seal"}
    path.write_text(sealed(json.dumps(rest)), "utf-8")


@contextmanager
def remembered_exports(folder: Path, traces: Path) -> Iterator[None]:
    """While it lasts, what was exported before is not exported again, and no two modules of one structure are traced.

    Half of a tiny model's parts are another one's, too: families share text encoders and autoencoders, many tests build
    the same model, or one with other weights or in fp16.
    """
    from latentrt.engines.bundle.records.named_weights import NamedWeights, read_named_weights, write_named_weights
    from latentrt.export import component_exports
    from latentrt.export.tracing import onnx_export as tracing
    from latentrt.export.tracing.onnx_export import Graph, Written

    export, trace = component_exports.export_onnx, tracing.traced

    def export_onnx(
        module: Any, example: Mapping[str, Any], graph: Graph, target: Path, islands: Any = None
    ) -> Written:
        structure = _structure(module, example, graph)
        if structure is None:
            return export(module, example, graph, target, islands)

        def fill(place: Path) -> None:
            files, kept, weights = export(module, example, graph, place / "files", islands)
            (place / "written.json").write_text(json.dumps([files, kept]))
            write_named_weights(place / "weights.json", NamedWeights(weights=weights))

        digest = sha256(repr((structure, islands)).encode())
        for tensor in module.state_dict().values():
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        place = filled_once(folder / digest.hexdigest()[:32], fill)
        shutil.copytree(place / "files", target, dirs_exist_ok=True)
        files, kept = json.loads((place / "written.json").read_text())
        return Written(files, kept, read_named_weights(place / "weights.json").weights)

    def traced(module: Any, example: Mapping[str, Any], graph: Graph) -> Any:
        structure = _structure(module, example, graph)
        if structure is None:
            return trace(module, example, graph)

        def fill(place: Path) -> None:
            program = trace(module, example, graph)
            _optimise(program, module)
            place.mkdir(exist_ok=True)  # a killed run may have left it
            program.save(str(place / tracing.MODEL_FILE), external_data=True)

        return _program(filled_once(traces / structure, fill) / tracing.MODEL_FILE, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(component_exports, "export_onnx", export_onnx)
        patch.setattr(tracing, "traced", traced)
        # The models are too small to be worth the second that looking for garbage of torch's takes
        patch.setattr(component_exports, "gc", SimpleNamespace(collect=lambda: None))
        yield


def _optimise(program: Any, module: Any) -> None:
    """What the export does with what was traced, which takes longer than the rest; transposes of weights stay nodes."""
    import onnx_ir as ir
    import torch

    from latentrt.export.tracing.named_weights import GraphWeights
    from latentrt.export.tracing.optimizer import optimize

    graph = program.model.graph
    weights = GraphWeights(graph, module)
    with torch.inference_mode(), weights.kept_apart():
        optimize(program)
    for name in module.state_dict():
        turned = graph.initializers.pop(f"{name}.T", None)
        if turned is None:
            continue
        if name not in graph.initializers:
            tensor = ir.Tensor(turned.const_value.numpy().T, name=name)
            value = ir.Value(name=name, type=turned.type, shape=ir.Shape(tensor.shape), const_value=tensor)
            graph.register_initializer(value)
        node = ir.node("Transpose", [graph.initializers[name]], {"perm": [1, 0]})
        node.outputs[0].type = turned.type
        turned.replace_all_uses_with(node.outputs[0])
        graph.insert_before(graph[0], node)


def _program(path: Path, module: Any) -> Any:
    """A traced program from its file, optimised already, with a module's weights."""
    import onnx_ir as ir
    import torch

    model = ir.load(path)
    initializers = model.graph.initializers
    for name, tensor in module.state_dict().items():
        if name in initializers:
            value = initializers[name]
            value.const_value = ir.Tensor(tensor.detach().numpy(), name=name, dtype=value.const_value.dtype)
            value.shape = ir.Shape(tensor.shape)
    program = torch.onnx.ONNXProgram(model, None)

    def without_unused() -> None:
        for name in [name for name, value in initializers.items() if not value.uses()]:
            del initializers[name]

    program.optimize = without_unused
    return program


# What of a part's settings no forward pass sees
_UNSEEN = (
    "_name_or_path",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
    "_use_default_values",
)


def _structure(module: Any, example: Mapping[str, Any], graph: object) -> str | None:
    """A digest of all that a trace depends on: code, the modules with their settings, shapes, names; not the weights.

    Nor the number of channels that a U-Net takes: a convolution's node is the same for any. None if a hook's effect
    cannot be told.
    """
    digest = sha256(re.sub(r"('sample': TensorRecord\(shape=\('batch', )\d+", r"\1any", repr(graph)).encode())
    for source in _EXPORTERS:
        digest.update(source.read_bytes())
    for name, tensor in example.items():
        shape = ["any" if axis == 1 and name == "sample" else size for axis, size in enumerate(tensor.shape)]
        digest.update(repr((name, shape, tensor.dtype)).encode())
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, bool | int | float | str | tuple)}
        config = getattr(part, "config", {})
        settings = dict(config.to_dict() if hasattr(config, "to_dict") else config)
        settings = {key: value for key, value in settings.items() if key not in _UNSEEN}
        if name in ("unet", "unet.conv_in"):
            plain.pop("in_channels", None)
            settings.pop("in_channels", None)
        described = (name, type(part).__qualname__, sorted(vars(part)), sorted(plain.items()), sorted(settings.items()))
        digest.update(repr(described).encode())
        if part._forward_hooks:
            return None
        for hook in part._forward_pre_hooks.values():
            enclosed = [cell.cell_contents for cell in hook.__closure__ or ()]
            if hook.__module__ != "latentrt.export.modules.seamless" or not all(
                isinstance(e, int | tuple) for e in enclosed
            ):
                return None
            digest.update(repr((hook.__qualname__, enclosed)).encode())
    first: dict[int, str] = {}  # tied tensors are one
    for name, tensor in module.state_dict().items():
        shape = [size for axis, size in enumerate(tensor.shape) if not (axis == 1 and name == "unet.conv_in.weight")]
        row = (name, shape, tensor.dtype, first.setdefault(tensor.data_ptr(), name))
        digest.update(repr(row).encode())
        if not tensor.is_floating_point():  # may be folded into the graph
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:32]
