"""IP-Adapters: an adapter's file and the image encoder that it was trained with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from latentrt.engines.bundle.checked_files import record_file
from latentrt.engines.bundle.kinds import IMAGE_ENCODER, PROJECTION, ComponentKind
from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, ImagePromptRecord
from latentrt.engines.bundle.unet.net_inputs import PIXELS
from latentrt.engines.errors import CheckpointError
from latentrt.export.addons.addon import Addon
from latentrt.export.addons.base_model import BaseModel, label_of_context
from latentrt.export.sources.addons.files import AddonFiles
from latentrt.export.sources.addons.image_encoder import ImageEncoder, image_encoder
from latentrt.export.sources.addons.image_prompt_layout import AdapterLayout, ProjectionKind, adapter_layout
from latentrt.export.sources.checks.fitting import named
from latentrt.export.sources.checks.unread import is_idle
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.parts import FLOATS
from latentrt.export.sources.single_file.ldm_layout import LayoutError
from latentrt.export.sources.weights_file import WeightsFile

if TYPE_CHECKING:
    from latentrt.export.component_exports import ComponentExports

_ANOTHER = "choose an adapter that was made for such a model"


@dataclass(frozen=True, kw_only=True)
class ImagePromptAdapter(Addon):
    """An IP-Adapter's file and its image encoder."""

    file: WeightsFile
    layout: AdapterLayout
    encoder: ImageEncoder

    @property
    def kind(self) -> AddonKind:
        """An adapter for image prompts."""
        return AddonKind.IMAGE_PROMPT

    @property
    def image_prompt(self) -> ImagePromptRecord:
        """What drawing needs to know."""
        return ImagePromptRecord(
            tokens=self._tokens,
            context=self.layout.context,
            widths=tuple(layer.width for layer in self.base.structure.cross_attentions),
            encoder_output=self.layout.kind.encoder_output,
            image_size=(self.encoder.size, self.encoder.size),
            image_mean=self.encoder.mean,
            image_std=self.encoder.std,
        )

    @property
    def _tokens(self) -> int:
        return self.encoder.tokens if self.layout.tokens is None else self.layout.tokens

    @property
    def components(self) -> tuple[str, ...]:
        """What sees pictures, and what makes keys and values of that."""
        return (IMAGE_ENCODER, PROJECTION)

    @cached_property
    def files(self) -> Mapping[str, FileRecord]:
        """Size and digest of the adapter's file and the encoder's."""
        read = {self.file.path.name: self.file.path, **self.encoder.part.files}
        return {name: record_file(path) for name, path in sorted(read.items())}

    @property
    def parameters(self) -> int:
        """How many weights both have."""
        return self.file.parameters(self._read) + self.encoder.part.parameters

    @property
    def _read(self) -> tuple[str, ...]:
        return (*self.layout.projection.values(), *self.layout.keys, *self.layout.values)

    @property
    def unread(self) -> Mapping[str, tuple[str, ...]]:
        """What the files hold and nothing reads."""
        read = set(self._read)
        found = {
            self.file.path.name: tuple(key for key in self.file.shapes if key not in read and not is_idle(key)),
            self.encoder.part.name: self.encoder.part.unread,
        }
        return {name: keys for name, keys in found.items() if keys}

    def check(self) -> None:
        """As ``Addon.check``; shapes of the adapter's own tensors were compared as it was found."""
        odd = {key: dtype for key in self._read if (dtype := self.file.dtypes[key]) not in FLOATS}
        if odd:
            raise CheckpointError(
                f"{self.source!r} is stored as {', '.join(sorted(set(odd.values())))} ({named(list(odd))}), expected "
                "float32, float16 or bfloat16; choose another copy of it"
            )
        broken = [key for key in self._read if not self.file.is_finite(key)]
        if broken:
            raise CheckpointError(
                f"{self.source!r} cannot be built: it has NaN or infinite numbers in {named(broken)}; choose another "
                "copy of it"
            )
        self.encoder.part.read  # noqa: B018  # found once, and kept
        fault = self.encoder.part.value_fault()
        if fault is not None:
            raise CheckpointError(f"the image encoder cannot be built: {fault}; choose another copy of it")

    def export(self, run: "ComponentExports") -> None:
        """Writes both components."""
        import torch

        from latentrt.export.component_exports import release
        from latentrt.export.modules import image_prompt as modules
        from latentrt.export.tracing.probes import encoder_pixels, record_probe

        layout, output, profile = self.layout, self.layout.kind.encoder_output, run.profiles[0]
        whole = layout.kind is ProjectionKind.BASE
        with run.progress.stage(f"{IMAGE_ENCODER}: load"):
            encoder = (modules.ImageEncoderModule if whole else modules.PatchEncoderModule)(self.encoder.part.module())
        taken = self.encoder.shape(layout.kind)
        graph = modules.image_encoder_graph(output, self.encoder.size, taken)
        pixels = torch.from_numpy(encoder_pixels(self.encoder.size, self.encoder.mean, self.encoder.std))
        with run.reference(IMAGE_ENCODER):
            seen = record_probe(encoder, profile, {PIXELS: pixels}, [output])
        run.component(IMAGE_ENCODER, ComponentKind.IMAGE_ENCODER, encoder, graph, [seen])
        release(encoder)
        with run.progress.stage(f"{PROJECTION}: load"):
            tensors = {key: self.file.tensor(key).to(torch.float32).contiguous() for key in self._read}
            projection = modules.ProjectionModule(layout, tensors).eval().requires_grad_(requires_grad=False)
            del tensors
        embedded = torch.from_numpy(seen.outputs[output])
        if whole:  # the negative pass's
            embedded = torch.cat([embedded[:1], torch.zeros_like(embedded[:1])])
        width = sum(layer.width for layer in self.base.structure.cross_attentions)
        graph = modules.projection_graph(output, taken, self._tokens, width)
        with run.reference(PROJECTION):
            probe = record_probe(projection, profile, {output: embedded}, list(graph.outputs))
        run.component(PROJECTION, ComponentKind.PROJECTION, projection, graph, [probe])
        release(projection)


def image_prompt_adapter(files: AddonFiles, base: BaseModel, encoder: str | None) -> ImagePromptAdapter:
    """An IP-Adapter's file, compared with the model that it is for by names and shapes.

    Args:
        files: it.
        base: the model.
        encoder: the image encoder, a folder or one on the hub; None: what lies beside it.

    Raises:
        CheckpointError: of a kind that is not drawn with, incomplete, for other models, or its image encoder is missing
            or another one.
    """
    file = files.file
    try:
        layout = adapter_layout(files.shapes)
    except LayoutError as error:
        raise CheckpointError(
            f"{files.source!r} cannot be built: {error}; give a base, plus, plus-face or full-face IP-Adapter for "
            "Stable Diffusion 1.x or XL"
        ) from error
    _check_fits(files, layout, base)
    found = image_encoder(encoder, file.path, layout, files.source)
    return ImagePromptAdapter(
        name=files.name,
        revision=files.place.revision,
        source=files.source,
        base=base,
        told={
            "adapter": decision(layout.kind.value, "its tensors' names"),
            "image encoder": decision(found.place.name or found.part.folder.resolve().name, found.reason),
        },
        file=file,
        layout=layout,
        encoder=found,
    )


def _check_fits(files: AddonFiles, layout: AdapterLayout, base: BaseModel) -> None:
    """Compares its matrices with the model's cross-attentions.

    Raises:
        CheckpointError: an adapter for other models.
    """
    if layout.context != base.context:
        raise CheckpointError(
            f"got {files.source!r}, an IP-Adapter for {label_of_context(layout.context)}, expected one for "
            f"{base.label}; {_ANOTHER}"
        )
    layers = base.structure.cross_attentions
    if len(layout.keys) != len(layers):
        raise CheckpointError(
            f"got {files.source!r}, an IP-Adapter for a U-Net with {len(layout.keys)} cross-attentions, expected "
            f"{len(layers)} for {base.bundle.root.name}, a model of {base.label}; {_ANOTHER}"
        )
    for key, layer in zip((*layout.keys, *layout.values), (*layers, *layers), strict=True):
        expected = (layer.width, layout.context)
        if files.shapes[key] != expected:
            raise CheckpointError(
                f"got {files.source!r}, an IP-Adapter whose {key} is {files.shapes[key]}, expected {expected} for "
                f"{layer.scope} of {base.bundle.root.name}; {_ANOTHER}"
            )
