"""Control nets: those of one kind of picture, and union nets of several."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.bundle.kinds import CONTROL, HINT, ComponentKind
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, ControlRecord
from latentrt.engines.bundle.unet.net_inputs import CONDITION_SCALE, CONTROL_INDEX, CONTROL_TYPE, PICTURE, SCALES
from latentrt.engines.errors import CheckpointError
from latentrt.engines.spec import Array
from latentrt.export.addons.addon import NetAddon
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.control_checks import check_fits, check_settings
from latentrt.export.sources.addons.control_layout import (
    DIFFUSERS_MARK,
    LDM_MARK,
    PREFIXES,
    control_config,
    diffusers_names,
    union_config,
)
from latentrt.export.sources.addons.files import AddonFiles
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.parts import FilePart, FolderPart, Part
from latentrt.export.sources.single_file.ldm_layout import LayoutError

if TYPE_CHECKING:
    from latentrt.export.component_exports import ComponentExports

_RGB = "rgb"


@dataclass(frozen=True, kw_only=True)
class ControlNet(NetAddon):
    """A control net."""

    @property
    def kind(self) -> AddonKind:
        """A control net."""
        return AddonKind.CONTROL_NET

    @property
    def types(self) -> int:
        """Of a union net, how many kinds of pictures it tells apart; 0 of another."""
        return int(self.part.config["num_control_type"]) if self.part.name == "controlnet_union" else 0

    @property
    def control(self) -> ControlRecord:
        """Whether it averages, and the kinds of pictures."""
        return ControlRecord(conditional_only=bool(self.part.config.get("global_pool_conditions")), types=self.types)

    @property
    def components(self) -> tuple[str, ...]:
        """The picture's, and every step's."""
        return (HINT, CONTROL)

    def export(self, run: "ComponentExports") -> None:
        """Writes the hint's component and the step's."""
        import torch

        from latentrt.export.component_exports import release
        from latentrt.export.modules import control_net as modules
        from latentrt.export.modules.seamless import seamless_module
        from latentrt.export.tracing.probes import control_pictures, record_probe

        base = self.base
        latents = base.bundle.manifest.latents
        with run.progress.stage(f"{HINT}: load"):
            net = self.part.module()
        hint = seamless_module((modules.UnionHintModule if self.types else modules.HintModule)(net), run.seamless)
        graph = modules.hint_graph(
            base.structure.entry, (latents.height_factor, latents.width_factor), union=self.types > 0
        )
        with run.reference(HINT):
            hints = []
            for profile in run.profiles:
                inputs = {PICTURE: control_pictures(profile), **self._of_union(hint=True)}
                tensors = {name: torch.from_numpy(inputs[name]) for name in graph.inputs}
                hints.append(record_probe(hint, profile, tensors, list(graph.outputs)))
        run.component(HINT, ComponentKind.HINT, hint, graph, hints)
        embedded = {probe.profile: probe.outputs[HINT] for probe in hints}
        kind = modules.TextTimeControlModule if "text_embeds" in base.text_inputs else modules.ControlModule
        control = (modules.UnionControlModule if self.types else kind)(net)
        control = seamless_module(control, run.seamless)
        graph = modules.control_graph(base.structure, latents.channels, base.text_inputs, types=self.types)
        with run.reference(CONTROL):
            probes = []
            for told, scales in zip(base.probes(run.profiles), _scales(len(graph.outputs)), strict=False):
                inputs = {
                    **told.inputs,
                    "sample": told.inputs["sample"][:, : latents.channels],
                    **self._of_union(hint=False),
                    HINT: embedded[told.profile],
                    SCALES: scales,
                }
                tensors = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in graph.inputs}
                probes.append(record_probe(control, told.profile, tensors, list(graph.outputs)))
        run.component(CONTROL, ComponentKind.CONTROL, control, graph, probes, summed=True)
        release(hint)
        release(control)

    def _of_union(self, *, hint: bool) -> dict[str, Array]:
        """What a union net is told of two pictures of different kinds."""
        if not self.types:
            return {}
        first, last = 0, self.types - 1
        if hint:
            return {
                CONTROL_INDEX: np.array([first, last], np.int64),
                CONDITION_SCALE: np.array([1.0, 0.5], np.float32),
            }
        types = np.zeros((2, self.types), np.float32)
        types[0, first] = types[1, last] = 1.0
        return {CONTROL_TYPE: types}


def _scales(count: int) -> Iterator[Array]:
    """Scales (2, n) of one run after another: all 1, and then each its own."""
    yield np.ones((2, count), np.float32)
    while True:
        yield np.stack([np.linspace(0.5, 1.5, count), np.logspace(-1, 0, count)]).astype(np.float32)


def control_net(files: AddonFiles, base: BaseModel) -> ControlNet:
    """A control net of a folder or a file, compared with what it is for by configs and headers.

    Raises:
        CheckpointError: it is incomplete, asks for inputs that no family gives, or is for other models.
    """
    part, told = _part(files, base)
    check_settings(files.source, part)
    check_fits(files.source, part, base)
    if files.folder is not None and (faults := part.header_faults()):
        raise CheckpointError(
            f"{files.source!r} cannot be built: {'; '.join(faults)}; take the net as its author saved it"
        )
    return ControlNet(
        name=files.name,
        revision=files.place.revision,
        source=files.source,
        base=base,
        told=told,
        part=part,
    )


def _part(files: AddonFiles, base: BaseModel) -> tuple[Part, dict[str, Any]]:
    union = "task_embedding" in files.shapes
    name = "controlnet_union" if union else "controlnet"
    if files.folder is not None and DIFFUSERS_MARK in files.shapes:
        folder = FolderPart(
            name=name,
            recorded=name,
            config=_with_defaults(files.config, files.shapes),
            folder=files.folder,
            weights=tuple(file.path for file in files.weights),
            variant=None,
        )
        return folder, {"layout": decision("diffusers", "its config and its tensors' names")}
    file = files.file
    prefix, mark = _place(file.shapes)
    shapes = {key.removeprefix(prefix): shape for key, shape in file.shapes.items() if key.startswith(prefix)}
    names = diffusers_names(shapes) if mark == LDM_MARK else dict(zip(shapes, shapes, strict=True))
    ours = {name: shapes[key] for name, key in names.items()}
    try:
        read = union_config if union else control_config
        config = read(ours, base.size_embedding)
    except LayoutError as error:
        raise CheckpointError(
            f"{files.source!r} cannot be built: {error}, expected a ControlNet; choose such a net"
        ) from error
    part = FilePart(
        name=name,
        recorded=file.path.name,
        config=config,
        file=file,
        keys={name: prefix + key for name, key in names.items()},
        convert=lambda tensors, _: dict(tensors),
    )
    layout = "LDM" if mark == LDM_MARK else "diffusers"
    told = {"layout": decision(layout, "its tensors' names; its config follows from their shapes")}
    if _averages(files):
        part = _averaging(part)
        told["averages"] = decision("true", f"nothing but the file's name, {file.path.name}")
    return part, told


def _averages(files: AddonFiles) -> bool:
    """Whether a file is ControlNet 1.1's shuffle, which no tensor tells of."""
    return "shuffle" in files.place.path.stem.lower()


def _averaging(part: FilePart) -> FilePart:
    return replace(part, config={**part.config, "global_pool_conditions": True})


def _with_defaults(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A config of an earlier release, which lists less: with diffusers' defaults for what is read here."""
    types = {"num_control_type": shapes["task_embedding"][0]} if "task_embedding" in shapes else {}
    return {
        **types,
        "in_channels": 4,
        "conditioning_channels": 3,
        "cross_attention_dim": 1280,
        "controlnet_conditioning_channel_order": _RGB,
        "global_pool_conditions": False,
        **config,
    }


def _place(shapes: Mapping[str, Any]) -> tuple[str, str]:
    """Under which prefix a file keeps a net, and by which tensor it shows."""
    return next((prefix, mark) for prefix in PREFIXES for mark in (LDM_MARK, DIFFUSERS_MARK) if prefix + mark in shapes)
