"""One component of a bundle: its ONNX, and the shapes that an engine of it takes at a profile."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.bundle.kinds import KindRow
from latentrt.engines.bundle.records.component import ComponentRecord, FileRecord
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.bundle.records.manifests.latents_manifest import LatentsManifest
from latentrt.engines.bundle.unet.added_inputs import FIXED_IMAGE_PROMPTS, FIXED_IMAGE_TOKENS, added_inputs, added_text
from latentrt.engines.bundle.unet.denoise_step import SAMPLE, step_spec
from latentrt.engines.precision import Precision
from latentrt.engines.shapes import AddedInputs, Loop, Profile, Shapes
from latentrt.engines.spec import EngineSpec

if TYPE_CHECKING:
    from latentrt.engines.bundle.unet.structure import UnetStructure


@dataclass(frozen=True, kw_only=True)
class StaticShape:
    """One shape that a component is compiled for, and the profiles that run there."""

    spec: EngineSpec
    profiles: tuple[Profile, ...]


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component by name, in a bundle's folder that may still be under construction.

    ``added`` are the inputs that its engines take beside those it was exported with, for backends of fixed shapes: an
    engine of theirs takes what it was compiled for, and each combination is an engine of its own. So is one that makes
    whole steps, by ``loop``.
    """

    root: Path
    manifest: ComponentsManifest
    name: str
    added: frozenset[AddedInputs] = frozenset()
    loop: Loop = Loop.HOST

    @property
    def label(self) -> str:
        """What sentences call it: ``unet``, or ``unet with control``, or ``unet with control in whole steps``."""
        label = f"{self.name} with {added_text(self.added)}" if self.added else self.name
        return f"{label} in whole steps" if self.loop is Loop.DEVICE else label

    @property
    def makes_steps(self) -> bool:
        """Whether there are engines of it that make whole steps: of a U-Net that draws pictures."""
        return self.kind.added_inputs and len(self.record.inputs[SAMPLE].shape) == 4

    @property
    def record(self) -> ComponentRecord:
        """What the manifest says of it."""
        return self.manifest.components[self.name]

    @property
    def kind(self) -> KindRow:
        """What its kind of component is."""
        return self.record.kind.row

    @property
    def onnx(self) -> Path:
        """The graph; its weights lie beside it."""
        return self.root / self.record.onnx

    @property
    def onnx_files(self) -> dict[str, FileRecord]:
        """Names below ``root`` and records of graph and weights."""
        names = [name for name in (self.record.onnx, self.record.weights) if name]
        return {name: self.manifest.files[name] for name in names}

    def of_graph(self, graph: Path, precision: Precision) -> "Component":
        """The component with another graph, and the weights beside that, in the place of its own.

        Args:
            graph: anywhere; its weights are in ``<name>.data``, if any are outside of it.
            precision: of the graph.
        """
        data = graph.with_name(f"{graph.name}.data").resolve()
        weights = str(data) if data.exists() else None
        sizes = {} if weights is None else {weights: FileRecord(size=data.stat().st_size, sha256="")}
        record = self.record.model_copy(
            update={"onnx": str(graph.resolve()), "weights": weights, "precision": precision}
        )
        changed = self.manifest.model_copy(
            update={
                "components": {**self.manifest.components, self.name: record},
                "files": {**self.manifest.files, **sizes},
            }
        )
        return replace(self, manifest=changed)

    @property
    def named_initializers(self) -> tuple[str, ...]:
        """The initializers of the graph that hold weights with a name in the checkpoint, each once.

        Raises:
            BundleError: the record of names is missing or damaged.
        """
        from latentrt.engines.bundle.records.named_weights import read_named_weights  # drawing needs none of it

        return read_named_weights(self.root / self.record.named_weights).initializers

    @property
    def onnx_sha256(self) -> str:
        """SHA-256 over the digests of graph and weights."""
        return hashlib.sha256(" ".join(file.sha256 for file in self.onnx_files.values()).encode()).hexdigest()

    @property
    def onnx_bytes(self) -> int:
        """Size of graph and weights."""
        return sum(file.size for file in self.onnx_files.values())

    def largest_batch(self, profile: Profile) -> int:
        """Samples per call that the profile's pictures make; of what decodes a video together, its frames."""
        return profile.frames if self.kind.exact_batch else profile.batch * self.record.batch_per_picture

    @cached_property
    def structure(self) -> "UnetStructure":
        """A U-Net's blocks.

        Raises:
            BundleError: the record of names is missing or damaged, or the component is no U-Net.
        """
        from latentrt.engines.bundle.records.named_weights import read_named_weights
        from latentrt.engines.bundle.unet.structure import unet_structure  # plain drawing needs none of it

        named = read_named_weights(self.root / self.record.named_weights)
        return unet_structure({name: row.shape for name, row in named.weights.items()})

    def spec_of_any_batch(self, shapes: Shapes) -> EngineSpec:
        """The tensors at these shapes, with every batch up to the profile's: for backends that take any shape."""
        return self._spec(shapes, tuple(range(1, self.largest_batch(shapes.profile) + 1)))

    def spec_of_one_batch(self, shapes: Shapes) -> EngineSpec:
        """The tensors at these shapes with the profile's batch alone: for backends of fixed shapes."""
        return self._spec(shapes, (self.largest_batch(shapes.profile),))

    def _spec(self, shapes: Shapes, batches: tuple[int, ...]) -> EngineSpec:
        spec = self.manifest.spec(self.name, shapes, batches)
        if shapes.added and isinstance(self.manifest, LatentsManifest):
            added = added_inputs(self.structure, shapes, self.manifest.latents.size(shapes.profile))
            spec = replace(spec, inputs={**spec.inputs, **added})
        return step_spec(spec) if shapes.loop is Loop.DEVICE else spec

    def fixed_batches(self, profile: Profile) -> tuple[int, ...]:
        """The batches that a backend of fixed shapes compiles at a profile: one, where it may be filled up."""
        largest = self.largest_batch(profile)
        if not self.kind.exact_batch:
            return (largest,)
        return tuple(range(1, min(largest, self.record.largest_chunk or largest) + 1))

    @property
    def static_shapes(self) -> tuple[StaticShape, ...]:
        """What a backend of fixed shapes compiles: one per profile of the bundle and batch, equal ones once.

        The text encoder knows of no picture sizes, so its profiles differ by their batch alone.
        """
        shapes: dict[object, StaticShape] = {}
        for profile, batch in [(one, batch) for one in self.manifest.profiles for batch in self.fixed_batches(one)]:
            at = Shapes(
                profile=profile,
                added=self.added,
                image_prompts=FIXED_IMAGE_PROMPTS,
                image_tokens=FIXED_IMAGE_TOKENS,
                loop=self.loop,
            )
            spec = self._spec(at, (batch,))
            tensors = {**spec.inputs, **spec.outputs}
            signature = tuple((name, tensor.sized(spec.batches[0])) for name, tensor in tensors.items())
            known = shapes.get(signature)
            served = (*known.profiles, profile) if known else (profile,)
            shapes[signature] = StaticShape(spec=spec, profiles=served)
        return tuple(shapes.values())
