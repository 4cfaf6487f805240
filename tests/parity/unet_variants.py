"""U-Nets with added inputs beside diffusers' own: engines of one bundle, random inputs, and what diffusers answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.unet.added_inputs import MID_RESIDUAL, down_residual, feature, feature_planes
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.engine import Engine
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.store import compiled_folder
from latentrt.models import EMOJI

PICTURES = 3
FIXTURES = {"emoji": "emoji_bundle", "sd1-fp16": "half_bundle", "emoji-int8": "int8_bundle"}


class Variant:
    """A bundle's U-Net, opened for added inputs, and diffusers' own of the same checkpoint."""

    def __init__(self, bundle: Path, checkpoint: Path) -> None:
        opened = open_bundle(bundle)
        self.component = Component(root=opened.root, manifest=opened.manifest, name=UNET)
        self.checkpoint = checkpoint
        folder = compiled_folder(self.component, Backend.ORT_CPU)
        self._model = OrtCpu().open(self.component, folder, threads=2)

    def shapes(self, *added: AddedInputs, **more: Any) -> Shapes:
        """Those of the bundle's first profile, for so many pictures at once."""
        profile = self.component.manifest.profiles[0]
        wide = Profile(width=profile.width, height=profile.height, batch=PICTURES)
        return Shapes(profile=wide, added=frozenset(added), **more)

    def engine(self, *added: AddedInputs, **more: Any) -> Engine:
        """The U-Net for these shapes."""
        return self._model.engine(self.shapes(*added, **more))

    def diffusers(self) -> Any:
        """Its own U-Net."""
        import diffusers

        return diffusers.UNet2DConditionModel.from_pretrained(self.checkpoint, subfolder="unet").float().eval()

    def close(self) -> None:
        """Unmaps the weights."""
        self._model.close()


@contextmanager
def opened_variants(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Variant]]:
    """Variants by family and precision; each is opened when it is first asked for."""
    opened = []

    @cache
    def of(name: str) -> Variant:
        fixture = FIXTURES.get(name)
        bundle = request.getfixturevalue("family_bundle")(name) if fixture is None else request.getfixturevalue(fixture)
        family = name.removesuffix("-fp16").removesuffix("-int8")
        checkpoint = EMOJI if family == "emoji" else request.getfixturevalue("family_checkpoint")(family)
        opened.append(Variant(bundle, checkpoint))
        return opened[-1]

    yield of
    for one in opened:
        one.close()


def random_inputs(engine: Engine, batch: int, seed: int = 0, scale: float = 1.0) -> dict[str, Array]:
    """Of each input other numbers; a timestep of its own for every sample."""
    rng = np.random.default_rng((seed, batch))
    drawn = {
        name: (rng.standard_normal(one.sized(batch)) * (1.0 if one.neutral is None else scale)).astype(one.dtype)
        for name, one in engine.spec.inputs.items()
    }
    return {**drawn, "timestep": np.linspace(3, 950, batch).astype(drawn["timestep"].dtype)}


def neutral_inputs(engine: Engine, batch: int) -> dict[str, Array]:
    """Every input that may be left out, full of its neutral value."""
    inputs = engine.spec.inputs.items()
    return {name: np.full(one.sized(batch), one.neutral, one.dtype) for name, one in inputs if one.neutral is not None}


def without(inputs: Mapping[str, Array], engine: Engine) -> dict[str, Array]:
    """The U-Net's own alone."""
    return {name: array for name, array in inputs.items() if engine.spec.inputs[name].neutral is None}


def library_answer(
    unet: Any, inputs: Mapping[str, Array], structure: UnetStructure, conditions: Mapping[str, Any], **more: Any
) -> Array:
    """What diffusers answers to inputs by our names, further conditions and further arguments."""
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    added = {name: tensors[name] for name in ("text_embeds", "time_ids") if name in tensors}
    if MID_RESIDUAL in tensors:
        more["mid_block_additional_residual"] = tensors[MID_RESIDUAL]
        more["down_block_additional_residuals"] = [tensors[down_residual(i)] for i in range(len(structure.skips))]
    if feature(0) in tensors:
        features = (feature(index) for index in range(len(feature_planes(structure))))
        more["down_intrablock_additional_residuals"] = [tensors[name].clone() for name in features if name in tensors]
    with torch.no_grad():
        answer = unet(
            tensors["sample"],
            tensors["timestep"],
            tensors["encoder_hidden_states"],
            timestep_cond=tensors.get("timestep_cond"),
            added_cond_kwargs={**added, **conditions},
            **more,
        )
    return np.asarray(answer.sample)


def assert_close(found: Array, expected: Array, bound: float = 2e-5) -> None:
    """By the root mean square of the difference, relative to that of what is expected."""
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert error < bound, error
