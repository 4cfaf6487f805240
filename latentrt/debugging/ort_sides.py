"""A component in ONNX Runtime: exact, rounded as a device rounds, as it was compiled, or on CUDA."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.debugging.marks import marks_of, show
from latentrt.debugging.parts import Feed, Part
from latentrt.debugging.side import Shown
from latentrt.engines.backends.ort import ERRORS_ONLY, first_line
from latentrt.engines.backends.ort_cpu.compile import group_norm_of
from latentrt.engines.backends.ort_cpu.model import MODEL_FILE, onnxruntime_module, open_session, session_options
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.attention_products import expand_attention
from latentrt.engines.graphs.editor import load_graph, serialized
from latentrt.engines.graphs.group_norm import replace_group_norms
from latentrt.engines.graphs.islands import Island
from latentrt.engines.graphs.rounded_results import ROUNDED, round_results
from latentrt.engines.graphs.widened import widen
from latentrt.engines.precision import Precision

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})


@dataclass(frozen=True)
class OrtSide:
    """A ``Side`` of a graph that is made of a component's.

    Attributes:
        label: what sentences call it.
        part: the component.
        graph: makes the graph.
        open: opens a session of one, given its bytes.
        ending: how the names of tensors end that are to be taken in the place of the graph's.
    """

    label: str
    part: Part
    graph: "Callable[[], ir.Model]"
    open: Callable[[bytes], Any]
    ending: str = ""

    @cached_property
    def tensors(self) -> frozenset[str]:
        """All of the component's."""
        return frozenset(mark.tensor for mark in marks_of(load_graph(self.part.component.onnx)))

    def shown(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> Shown:
        """Opens a session that returns them."""
        model = self.graph()
        names = show(model, tensors, self.ending)
        return Shown(_runner(self.open(serialized(model)), self.label), names)

    def session(self, model: "ir.Model") -> Any:
        """A session of a graph that was made of this side's."""
        return self.open(serialized(model))


def exact(part: Part) -> OrtSide:
    """The component as it is stored, computed in fp32 and not optimised."""

    def graph() -> "ir.Model":
        model = load_graph(part.component.onnx)
        replace_group_norms(model, group_norm_of(part.component))
        if part.sixteen_bits is not None:
            widen(model, [Island(component=part.component.name, reason="all")], part.sixteen_bits)
        return model

    computed = "" if part.sixteen_bits is None else "computed in fp32, "
    return OrtSide(f"ort-cpu ({computed}not optimised)", part, graph, _opens(part))


def rounded(part: Part, precision: Precision) -> OrtSide:
    """A component with each result rounded to sixteen bits, scores of attention as well: as a GPU has them."""

    def graph() -> "ir.Model":
        model = load_graph(part.component.onnx)
        if part.islands:
            widen(model, part.islands, precision)
        expand_attention(model)
        replace_group_norms(model, group_norm_of(part.component))
        round_results(model, precision)
        return model

    return OrtSide(f"ort-cpu (every result rounded to {precision})", part, graph, _opens(part), ROUNDED)


def on_cuda(part: Part) -> OrtSide:
    """The component's ONNX on ONNX Runtime's CUDA provider."""

    def graph() -> "ir.Model":
        model = load_graph(part.component.onnx)
        if part.islands:
            widen(model, part.islands, part.precision)
        return model

    def session(content: bytes) -> Any:
        ort = onnxruntime_module()
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        folder = str(part.component.onnx.parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            return ort.InferenceSession(content, options, providers=[_CUDA, "CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise EngineError(
                f"ONNX Runtime cannot open {part.component.label} with all tensors shown: {first_line(error)}; "
                "close what else uses the GPU or report it"
            ) from error

    return OrtSide("ort-cuda", part, graph, session)


@dataclass(frozen=True)
class CompiledSide:
    """A ``Side`` of an engine of ``ort-cpu`` as it was compiled.

    Nodes were fused and planes laid out in blocks, so what the engine does not make any more is not shown.
    """

    part: Part
    folder: Path
    label: str = "ort-cpu (as compiled)"

    @cached_property
    def _graph(self) -> "onnx.ModelProto":
        import onnx

        return onnx.load(self.folder / MODEL_FILE, load_external_data=False)

    @cached_property
    def tensors(self) -> frozenset[str]:
        """What has kept its name."""
        return frozenset(name for node in self._graph.graph.node for name in node.output)

    def shown(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> Shown:
        """Opens a session that returns them."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._graph)
        present = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
        options = session_options(
            onnxruntime_module().GraphOptimizationLevel.ORT_DISABLE_ALL, self.part.threads, packs=False
        )
        session = open_session(self.folder / MODEL_FILE, options, graph=model.SerializeToString())
        return Shown(_runner(session, self.label), {name: name for name in tensors})


def _opens(part: Part) -> Callable[[bytes], Any]:
    level = onnxruntime_module().GraphOptimizationLevel.ORT_DISABLE_ALL

    def session(content: bytes) -> Any:
        return open_session(part.component.onnx, session_options(level, part.threads, packs=False), graph=content)

    return session


def _runner(session: Any, label: str) -> Any:
    from polygraphy.backend.onnxrt import OnnxrtRunner

    return OnnxrtRunner(session, name=label)
