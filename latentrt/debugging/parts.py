"""What is debugged: a component as its bundle has it, or as a build in sixteen bits would have it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.engines.bundle.bundle import AnyBundle, folder_and_seal
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN, check_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest_file import check_seal
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.editor import load_graph, save_with_weights
from latentrt.engines.graphs.half import halve
from latentrt.engines.graphs.islands import Island, islands_of
from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array

Feed = Mapping[str, Array]
HALVES = (Precision.FP16, Precision.BF16)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a side runs.

    Attributes:
        component: of a bundle.
        islands: what of it is in fp32 beside the bundle's own islands.
        threads: of a call on the CPU; None takes one per core.
    """

    component: Component
    islands: tuple[Island, ...] = ()
    threads: int | None = None

    @property
    def precision(self) -> Precision:
        """The component's."""
        return self.component.record.precision

    @property
    def sixteen_bits(self) -> Precision | None:
        """What its floating-point numbers are rounded to; None: they are fp32.

        In eight bits for GPUs all that is not in eight bits is fp16.
        """
        quantization = self.component.record.quantization
        if quantization is not None and quantization.recipe.symmetric:
            return Precision.FP16
        return self.precision if self.precision in HALVES else None


def part_of(root: Path, name: str, threads: int | None) -> tuple[AnyBundle, Part]:
    """A bundle and a component of it, whose files are compared with their digests.

    Raises:
        BundleError: no bundle, or files are missing or altered.
        RequestError: it has no such component.
    """
    bundle, seal = folder_and_seal(root)
    check_seal(seal, bundle.root / BUNDLE_FILE)
    if name not in bundle.manifest.components:
        raise RequestError(
            f"got component {name!r}, expected one of {', '.join(bundle.manifest.components)}; choose among these"
        )
    component = Component(root=bundle.root, manifest=bundle.manifest, name=name)
    check_files(bundle.root, component.onnx_files, largest_hashed=HASHED_AT_OPEN)
    return bundle, Part(component=component, threads=threads)


def reference_part(root: Path, part: Part) -> tuple[AnyBundle, Part]:
    """Another bundle and the component that it has of the same name, if it takes and gives the same.

    Raises:
        BundleError: no bundle, or files are missing or altered.
        RequestError: a bundle of something else.
    """
    bundle, reference = part_of(root, part.component.name, part.threads)
    ours, theirs = part.component.record, reference.component.record
    if (ours.inputs, ours.outputs) != (theirs.inputs, theirs.outputs):
        raise RequestError(
            f"got {str(root)!r} as the reference, whose {part.component.name} takes or gives something else, expected "
            "a bundle of the same model; name another"
        )
    return bundle, reference


def halved(part: Part, precision: Precision, folder: Path) -> Part:
    """A component in fp32 as a build in sixteen bits would have it, with the islands of its family.

    Args:
        part: it.
        precision: fp16 or bf16.
        folder: an empty one, for the graph and its weights.

    Raises:
        RequestError: another precision, or a component that is not in fp32 or stays in it.
        CheckpointError: weights beyond the precision's range.
    """
    component = part.component
    if precision not in HALVES:
        raise RequestError(
            f"got precision {precision} to debug as, expected {' or '.join(HALVES)}; choose one of these"
        )
    if part.precision is not Precision.FP32:
        raise RequestError(
            f"got precision {precision} for {component.name}, which is in {part.precision}, expected a component in "
            "fp32; leave it out to debug it as it is"
        )
    islands = islands_of(component.manifest.family, component.name, precision)
    whole = next((island for island in islands if island.is_whole), None)
    if whole is not None:
        raise RequestError(
            f"got precision {precision} for {component.name}, which builds keep in fp32 ({whole.reason}), expected "
            "another component; leave it out"
        )
    model, graph = load_graph(component.onnx), folder / component.onnx.name
    halve(model, islands, precision)
    save_with_weights(model, graph)
    return replace(part, component=component.of_graph(graph, precision))
