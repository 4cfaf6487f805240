"""Components on openvino beside the same on ort-cpu."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentrt.engines.backends.compiler import Model
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import BundleFolder, folder_and_seal
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Backend
from latentrt.engines.spec import Array
from latentrt.engines.store.compile import compile_component
from latentrt.engines.store.store import compiled_folder


class Beside(NamedTuple):
    """A component, opened on both."""

    component: Component
    openvino: Model
    ort: Model


def component_of(bundle: Path, name: str) -> Component:
    """One of a bundle of any sort."""
    return Component(root=bundle, manifest=folder_and_seal(bundle)[0].manifest, name=name)


def weights_of(component: Component) -> ComponentWeights:
    """The bundle's, by name."""
    return BundleFolder(root=component.root, manifest=component.manifest).weights(component.name)


def changeable(component: Component) -> tuple[str, ...]:
    """The names of weights that adapters may change: not those of layers whose results the model does not take."""
    weights = weights_of(component)
    names = []
    for name in weights.named.weights:
        with suppress(RequestError):
            weights.array(name)
            names.append(name)
    return tuple(names)


def compiled(component: Component) -> None:
    """Makes its engine for openvino, where there is none."""
    compiler = COMPILERS[Backend.OPENVINO]
    (target,) = compiler.targets(())
    probes = BundleFolder(root=component.root, manifest=component.manifest).probes(component.name)
    compile_component(component, compiler, target, probes)


@contextmanager
def beside(component: Component, threads: int | None = 1) -> Iterator[Beside]:
    """It, opened on both."""
    with ExitStack() as opened:
        models = []
        for backend in (Backend.OPENVINO, Backend.ORT_CPU):
            folder = compiled_folder(component, backend)
            models.append(COMPILERS[backend].open(component, folder, threads=threads))
            opened.callback(models[-1].close)
        yield Beside(component, *models)


def drawn_inputs(engine: Engine, batch: int, seed: int = 0, leave_out: bool = False) -> dict[str, Array]:
    """Of each input other numbers: of masks ones and a few zeros, of timesteps one for every sample."""
    rng = np.random.default_rng((seed, batch))
    drawn: dict[str, Array] = {}
    for name, tensor in engine.spec.inputs.items():
        if leave_out and tensor.neutral is not None:
            continue
        shape = tensor.sized(batch)
        if name == "timestep":
            drawn[name] = np.linspace(3, 950, batch).astype(tensor.dtype)
        elif np.issubdtype(tensor.dtype, np.integer):
            drawn[name] = (np.arange(shape[-1]) < shape[-1] - 5).astype(tensor.dtype) * np.ones(shape, tensor.dtype)
        else:
            scale = 1.0 if tensor.neutral is None else 0.3
            drawn[name] = (scale * rng.standard_normal(shape)).astype(tensor.dtype)
    return drawn


def decibels(found: dict[str, Array], expected: dict[str, Array]) -> float:
    """The PSNR of the worst output, by the range of what is expected."""
    assert found.keys() == expected.keys()
    worst = np.inf
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        error = float(np.mean((found[name].astype(np.float64) - array) ** 2))
        worst = min(worst, 10 * np.log10(float(np.ptp(array)) ** 2 / max(error, 1e-30)))
    return worst


def changes_of(names: tuple[str, ...], seed: int = 0) -> Changes:
    """Other numbers for some weights: by a tenth of their spread, of those that are all alike by a tenth."""

    def moved(weight: Array) -> Array:
        rng = np.random.default_rng([seed, weight.size])
        noise = rng.standard_normal(weight.shape).astype(np.float32)
        return (weight + 0.1 * noise * (weight.std() or 1.0)).astype(np.float32)

    return Changes(key=f"{seed} {names}", weights=dict.fromkeys(names, moved))
