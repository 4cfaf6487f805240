"""Control nets: every residual is diffusers', from a picture that is embedded once."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from latentrt.engines.bundle.bundle import open_addon, open_bundle
from latentrt.engines.bundle.kinds import CONTROL, HINT
from latentrt.engines.bundle.unet.net_inputs import SCALES
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents


def run_net(bundle: Path, picture: Array, given: dict[str, Array]) -> dict[str, Array]:
    """What a net's engines make of a picture (1, 3, H, W) and the inputs of a step, at the bundle's first profile."""
    addon = open_addon(bundle)
    components = OpenComponents(addon, Backend.ORT_CPU, threads=1)
    try:
        shapes = Shapes(profile=addon.manifest.profiles[0])
        hint = components.engine(HINT, shapes).run({"picture": picture})["hint"]
        rows = len(given["sample"])
        return components.engine(CONTROL, shapes).run({**given, "hint": np.repeat(hint, rows, 0)})
    finally:
        components.close()


def step_inputs(bundle: Path) -> dict[str, Array]:
    """What the U-Net of a bundle was given in its first recorded run, of latents alone."""
    inputs = dict(open_bundle(bundle).probes("unet")[0].inputs)
    inputs.pop("timestep_cond", None)
    return {**inputs, "sample": np.ascontiguousarray(inputs["sample"][:, :4])}


def residuals_of(net: Path, picture: Array, given: dict[str, Array], scale: float = 1.0, **more: object) -> list[Array]:
    """diffusers' own."""
    model = diffusers.ControlNetModel.from_pretrained(net)
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    added = {name: tensors[name] for name in ("text_embeds", "time_ids") if name in tensors}
    with torch.inference_mode():
        down, mid = model(
            tensors["sample"],
            tensors["timestep"],
            tensors["encoder_hidden_states"],
            torch.from_numpy(picture).expand(len(given["sample"]), -1, -1, -1),
            conditioning_scale=scale,
            added_cond_kwargs=added or None,
            return_dict=False,
            **more,
        )
    return [one.numpy() for one in (*down, mid)]


def picture_of(size: int = 32) -> Array:
    return np.random.default_rng(1).random((1, 3, size, size), np.float32)


@pytest.mark.parametrize("family", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd2", "sdxl"))])
def test_residuals_are_diffusers_own(
    family: str,
    net_checkpoint: Callable[[str], Path],
    net_bundle: Callable[[str], Path],
    family_bundle: Callable[[str], Path],
) -> None:
    """In their order, with one scale and with guess mode's, which are no more than other scales."""
    given, picture = step_inputs(family_bundle(family)), picture_of()
    expected = residuals_of(net_checkpoint(family), picture, given, 0.7)
    count = len(expected)
    scales = np.full((2, count), 0.7, np.float32)
    got = run_net(net_bundle(family), picture, {**given, SCALES: scales})
    assert len(got) == count
    for one, other in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    factors = np.broadcast_to(np.logspace(-1, 0, count, dtype=np.float32) * 0.7, (2, count))
    guessed = residuals_of(net_checkpoint(family), picture, given, 0.7, guess_mode=True)
    got = run_net(net_bundle(family), picture, {**given, SCALES: np.ascontiguousarray(factors)})
    for one, other in zip(got.values(), guessed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_previous_residuals_are_added(tiny_net: Path, tiny_bundle: Path) -> None:
    """What nets before gave, each in its place; left out they are zeros."""
    given = step_inputs(tiny_bundle)
    names = list(open_addon(tiny_net).manifest.components[CONTROL].outputs)
    given[SCALES] = np.ones((2, len(names)), np.float32)
    alone = run_net(tiny_net, picture_of(), given)
    before = {f"previous_{name}": np.full_like(alone[name], index + 1) for index, name in enumerate(names)}
    added = run_net(tiny_net, picture_of(), {**given, **before})
    for index, name in enumerate(names):
        np.testing.assert_allclose(added[name], alone[name] + index + 1, rtol=1e-6)
