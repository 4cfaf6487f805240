"""Compiles a component for a device: a graph for each of its static shapes."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from latentrt.engines.backends.openvino.compile import compile_graph, layers_of, rewritten_onnx
from latentrt.engines.backends.openvino.devices.records import DeviceGraphs, graph_file
from latentrt.engines.backends.openvino.records import GRAPHS_FILE
from latentrt.engines.backends.openvino.shapes import shapes_of
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord


def compile_shapes(component: Component, folder: Path, device: str, settings: Mapping[str, str]) -> ContentsRecord:
    """Compiles all graphs of a component into a folder.

    Args:
        component: what is compiled.
        folder: exists and is empty.
        device: OpenVINO's name of what it is compiled for.
        settings: OpenVINO's.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """
    names: list[str] = []
    layers: dict[str, dict[str, int]] = {}
    with rewritten_onnx(component, folder, component.added) as onnx:
        for shape in component.static_shapes:
            compiled = compile_graph(component, onnx, shapes_of(shape), settings, device)
            names.append(graph_file(len(names)))
            with (folder / names[-1]).open("wb") as file:
                file.write(compiled.export_model().getbuffer())
            if not layers:
                with suppress(RuntimeError):  # an NPU's plugin does not show what it made
                    layers = layers_of(compiled)
            del compiled  # the device's memory need not hold two
    record = DeviceGraphs(files=record_files(folder, names))
    (folder / GRAPHS_FILE).write_text(record.model_dump_json(), "utf-8")
    return ContentsRecord(shapes=(), layers=layers)
