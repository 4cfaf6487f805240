"""Control nets that are stored as what differs from a model: Control-LoRAs, and nets with a tensor ``difference``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.errors import CheckpointError, RequestError
from latentrt.engines.spec import Array
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.control_checks import ANOTHER, check_fits, check_settings
from latentrt.export.addons.control_net import ControlNet
from latentrt.export.sources.addons.control_layout import LDM_MARK, PREFIXES, control_config, diffusers_names
from latentrt.export.sources.addons.files import AddonFiles
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.parts import FilePart
from latentrt.export.sources.single_file.ldm_layout import LayoutError

LORA_MARK, DIFFERENCE_MARK = "lora_controlnet", "difference"
_UP, _DOWN = ".up", ".down"
_WEIGHT = ".weight"
# What a control net has of its U-Net
_SHARED = ("conv_in.", "time_embedding.linear_", "add_embedding.", "down_blocks.", "mid_block.")


class Factors(NamedTuple):
    """What is added to one of the U-Net's weights: up · down, or a difference as it is, where there is no ``up``."""

    up: Array | None
    down: Array


@dataclass(frozen=True, kw_only=True)
class BasedPart(FilePart):
    """A net some of whose tensors are the U-Net's own, with ``changes`` made to them.

    Attributes:
        base: the U-Net's weights.
        differs: weights of which the file has only what is added.
    """

    base: ComponentWeights
    differs: frozenset[str]

    @cached_property
    def read(self) -> frozenset[str]:
        """As ``Part.read``; what is added to the U-Net's weights is read, too."""
        return super().read | {name for name in self.keys if _is_added(name, self.differs)}

    @property
    def parameters(self) -> int:
        """How many weights the net has."""
        own = sum(prod(shape) for name, shape in self._own_shapes.items())
        return own + sum(prod(self.base.shape(name)) for name in self._of_base(self._own_shapes))

    @property
    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {name: self.file.shapes[key] for name, key in self.keys.items()}
        return {name: shape for name, shape in shapes.items() if not _is_added(name, self.differs)}

    def converted(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The file's own tensors, and the U-Net's for the others."""
        import torch

        own = {name: tensor for name, tensor in tensors.items() if not _is_added(name, self.differs)}
        if any(tensor.is_meta for tensor in tensors.values()):
            empty = {name: torch.empty(self.base.shape(name), device="meta") for name in self._of_base(own)}
            return {**own, **self._of_latents(empty)}
        try:
            given = {name: torch.from_numpy(self.base.array(name).astype("float32")) for name in self._of_base(own)}
        except RequestError as error:
            raise CheckpointError(str(error)) from error
        return {**own, **self._of_latents(given)}

    def _of_latents(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Without what the first convolution of an inpainting model does to the mask and to what is around it."""
        first = "conv_in.weight"
        if first in tensors:
            tensors[first] = tensors[first][:, : self.config["in_channels"]]
        return tensors

    def _of_base(self, own: Mapping[str, Any]) -> Iterator[str]:
        return (name for name in self.base.named.weights if name.startswith(_SHARED) and name not in own)


@dataclass(frozen=True, kw_only=True)
class BasedControlNet(ControlNet):
    """A control net that a model's weights are needed for."""

    part: BasedPart

    @cached_property
    def files(self) -> Mapping[str, FileRecord]:
        """Its own file, and what holds the U-Net's weights."""
        files = self.base.bundle.manifest.files
        taken = (self.base.unet.onnx, self.base.unet.weights, self.base.unet.remainders)
        return {**super().files, **{f"for/{name}": files[name] for name in taken if name}}

    def added(self) -> dict[str, Factors]:
        """What is added to the U-Net's weights, by their names. Reads the file."""
        keys, file = self.part.keys, self.part.file
        found = {}
        for name in sorted(self.part.differs):
            start = name.removesuffix(_WEIGHT)
            if start + _UP in keys:
                found[name] = Factors(file.array(keys[start + _UP]), file.array(keys[start + _DOWN]))
            else:
                found[name] = Factors(None, file.array(keys[name]))
        return found

    def with_changes(self, changes: Changes) -> "BasedControlNet":
        """The same with the U-Net's weights changed so."""
        return replace(self, part=replace(self.part, changes=changes))


def control_lora(files: AddonFiles, base: BaseModel) -> BasedControlNet:
    """A Control-LoRA: low ranks for the weights of the U-Net's way down, and whatever else a net has in full.

    Raises:
        CheckpointError: it is incomplete or for other models.
    """
    return _based_net(files, base, difference=False)


def difference_net(files: AddonFiles, base: BaseModel) -> BasedControlNet:
    """A net whose weights, where the U-Net has such, are differences to the U-Net's.

    Raises:
        CheckpointError: it is incomplete or for other models.
    """
    return _based_net(files, base, difference=True)


def _based_net(files: AddonFiles, base: BaseModel, *, difference: bool) -> BasedControlNet:
    file = files.file
    prefix = next((prefix for prefix in PREFIXES if prefix + LDM_MARK in file.shapes), "")
    shapes = {
        key.removeprefix(prefix): shape
        for key, shape in file.shapes.items()
        if key.startswith(prefix) and key not in (LORA_MARK, DIFFERENCE_MARK)
    }
    names = diffusers_names(shapes)
    ours = {name: shapes[key] for name, key in names.items()}
    of_base = {name: row.shape for name, row in base.weights.named.weights.items() if name.startswith(_SHARED)}
    latents = base.bundle.manifest.latents.channels  # an inpainting model's U-Net takes more
    of_base["conv_in.weight"] = (of_base["conv_in.weight"][0], latents, *of_base["conv_in.weight"][2:])
    if difference:
        differs = frozenset(ours.keys() & of_base.keys())
    else:
        differs = frozenset(name.removesuffix(_UP) + _WEIGHT for name in ours if name.endswith(_UP))
    faults = [*_faults(ours, of_base, differs)]
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise CheckpointError(
            f"got {files.source!r}, made for another model than {base.label}: {faults[0]}{more}; {ANOTHER}"
        )
    whole = {**of_base, **{name: shape for name, shape in ours.items() if not _is_added(name, differs)}}
    try:
        config = control_config(whole, base.size_embedding)
    except LayoutError as error:
        raise CheckpointError(
            f"{files.source!r} cannot be built: {error}, expected all that a ControlNet has beside its U-Net's "
            "weights; choose another copy of it"
        ) from error
    part = BasedPart(
        name="controlnet",
        recorded=file.path.name,
        config=config,
        file=file,
        keys={name: prefix + key for name, key in names.items()},
        convert=lambda tensors, _: dict(tensors),
        base=base.weights,
        differs=differs,
    )
    check_settings(files.source, part)
    check_fits(files.source, part, base, whole)
    kind = "a difference" if difference else "a Control-LoRA"
    return BasedControlNet(
        name=files.name,
        revision=files.place.revision,
        source=files.source,
        base=base,
        told={
            "layout": decision(
                kind,
                f"its tensor {DIFFERENCE_MARK if difference else LORA_MARK}; {len(differs)} "
                "weights are made of the model's",
            )
        },
        part=part,
    )


def _faults(
    ours: Mapping[str, tuple[int, ...]], of_base: Mapping[str, tuple[int, ...]], differs: frozenset[str]
) -> Iterator[str]:
    """What of the file's tensors cannot be added to the U-Net's."""
    for name in sorted(differs):
        if name not in of_base:
            yield f"{name} is no weight of its U-Net"
            continue
        expected, start = of_base[name], name.removesuffix(_WEIGHT)
        if start + _UP not in ours:
            if ours[name] != expected:
                yield f"got a difference of {ours[name]} to {name}, expected {expected}"
        elif start + _DOWN not in ours:
            yield f"{start + _DOWN} is missing"
        else:
            up, down = ours[start + _UP], ours[start + _DOWN]
            if (
                not (up and down)
                or (up[0], prod(down[1:])) != (expected[0], prod(expected[1:]))
                or prod(up[1:]) != down[0]
            ):
                yield f"got low ranks of {up} and {down} for {name}, expected a product of {expected}"


def _is_added(name: str, differs: frozenset[str]) -> bool:
    """Whether a tensor of the file is no weight, but a part of what is added to one."""
    return name in differs or name.endswith((_UP, _DOWN))
