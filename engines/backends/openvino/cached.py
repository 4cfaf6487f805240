"""DeepCache on OpenVINO: what is recorded of a U-Net's joins, and what graphs that are cut there take and give."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from latentrt.engines.backends.openvino.cut_graph import CutGraph
from latentrt.engines.backends.openvino.records import JOINS_FILE
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.bundle.unet.deep_cache import branch_count, deep_feature, kept_feature
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import CachePart, CacheRole, Shapes
from latentrt.engines.spec import EngineSpec


class JoinRecord(Record):
    """Where a branch's feature is joined to a skip, by the name of the layer, and what the branch takes beside it.

    ``inputs`` are those of the graph with all ``AddedInputs``; of one without them, those of these that it has.
    """

    layer: str
    inputs: tuple[str, ...]


class JoinsRecord(Record):
    """Of a compiled U-Net, branch by branch."""

    branches: tuple[JoinRecord, ...]


@dataclass(frozen=True)
class Cut:
    """A part of DeepCache, and where it cuts a U-Net's graphs."""

    part: CachePart
    joins: JoinsRecord

    @property
    def feature(self) -> str:
        """The name of what is kept."""
        return deep_feature(self.part.branch)

    @property
    def keeps(self) -> bool:
        """Whether all of the U-Net is computed."""
        return self.part.role is CacheRole.KEEPS

    @property
    def graph(self) -> CachePart:
        """Which graph it is: one keeps the features of all branches."""
        return CachePart(role=CacheRole.KEEPS) if self.keeps else self.part

    @cached_property
    def _inputs(self) -> frozenset[str]:
        return frozenset(self.joins.branches[self.part.branch].inputs)

    def takes(self, name: str) -> bool:
        """Whether it takes an input of the whole U-Net."""
        return self.keeps or name in self._inputs

    def made_of(self, xml: bytes) -> bytes:
        """The graph, made of the whole one's.

        Raises:
            EngineError: a layer that joins planes is missing.
        """
        layers = [branch.layer for branch in self.joins.branches]
        if self.keeps:
            return CutGraph(xml).keeping({deep_feature(branch): name for branch, name in enumerate(layers)}).xml()
        return CutGraph(xml).shallow(self.feature, layers[self.part.branch]).xml()

    def spec(self, component: Component, shapes: Shapes) -> EngineSpec:
        """Of a U-Net's engine that is cut so."""
        spec = component.spec_of_any_batch(shapes)
        feature = kept_feature(component.structure, self.part.branch, spec)
        if self.keeps:
            return replace(spec, outputs={**spec.outputs, **feature})
        taken = {name: tensor for name, tensor in spec.inputs.items() if self.takes(name)}
        return replace(spec, inputs={**taken, **feature})


def record_joins(component: Component, graphs: Iterable[bytes], folder: Path) -> None:
    """Writes where the compiled graphs of a U-Net join planes; nothing where onnx_ir is missing.

    Args:
        component: the U-Net.
        graphs: the XML of every graph.
        folder: where to write.

    Raises:
        EngineError: one of them has lost a layer that joins planes.
    """
    try:
        from latentrt.engines.graphs.editor import load_graph
        from latentrt.engines.graphs.variants.joins import joins

        found = joins(load_graph(component.onnx).graph, component.structure)
    except ImportError:
        return
    names = [str(node.name) for node in reversed(found)][: branch_count(component.structure)]
    inputs: list[dict[str, None]] = [{} for _ in names]
    for xml in graphs:
        for branch, name in enumerate(names):
            inputs[branch] |= dict.fromkeys(CutGraph(xml).shallow(deep_feature(branch), name).inputs)
    branches = tuple(
        JoinRecord(layer=name, inputs=tuple(one for one in taken if one != deep_feature(branch)))
        for branch, (name, taken) in enumerate(zip(names, inputs, strict=True))
    )
    (folder / JOINS_FILE).write_text(JoinsRecord(branches=branches).model_dump_json(), "utf-8")


def read_joins(folder: Path) -> JoinsRecord:
    """Reads what was written as the U-Net was compiled.

    Raises:
        EngineError: it is missing or damaged.
    """
    path = folder / JOINS_FILE
    if not path.is_file():
        raise EngineError(
            f"got an engine that was compiled without {JOINS_FILE}, which deep_cache takes, expected one with it; "
            "install latentrt[export] and run latentrt build on the bundle"
        )
    try:
        return JoinsRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise EngineError(f"cannot read {str(path)!r} ({reason}); build the bundle again") from error
