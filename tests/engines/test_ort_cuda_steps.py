"""Whole steps in ONNX Runtime's CUDA provider, with the CPU as the device: what is copied there, and what stays."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInDriver

from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.ort_cuda import backend
from latentrt.engines.backends.ort_cuda.backend import OrtCuda
from latentrt.engines.backends.ort_cuda.model import Device, OrtCudaModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.denoise_step import NEXT_STATE, STATE
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import AddedInputs, Loop, Profile, Shapes
from latentrt.engines.spec import EngineSpec, Tensor

STEPS = Shapes(profile=Profile(width=32, height=32, batch=2), loop=Loop.DEVICE)


class CopyingDriver(StandInDriver):
    """Copies any memory of this process, as ONNX Runtime allocates it."""

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """At once."""
        import ctypes

        self._called("copy_on_device")
        ctypes.memmove(target, source, size)


@pytest.fixture
def driver() -> CopyingDriver:
    """What copies."""
    return CopyingDriver()


@pytest.fixture(scope="module")
def graphs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plain graph of whole steps; those with added inputs cost more than they tell."""
    folder = tmp_path_factory.mktemp("ort-cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_combinations", lambda: iter(()))
        patch.setattr(backend, "STEPS_WITH", (frozenset(),))
        OrtCuda().compile(unet_of(tiny_bundle), Target(machine="here"), folder, None)
    assert [path.name for path in folder.iterdir()] == ["steps.onnx"]
    return folder


def unet_of(bundle: Path) -> Component:
    """Its U-Net."""
    return Component(root=bundle, manifest=open_bundle(bundle).manifest, name="unet")


@pytest.fixture
def model(tiny_bundle: Path, graphs: Path, driver: CopyingDriver) -> Iterator[OrtCudaModel]:
    """It, opened with the CPU as the device."""
    device = Device(provider="CPUExecutionProvider", memory="cpu", driver=lambda: driver)
    opened = OrtCudaModel(unet_of(tiny_bundle), device, graphs)
    yield opened
    opened.close()


def inputs_of(spec: EngineSpec, seed: int) -> dict[str, Tensor]:
    """Random ones for all that may not be left out."""
    random = np.random.default_rng(seed)
    return {
        name: (0.1 * random.normal(size=tensor.sized(2))).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
        if tensor.neutral is None
    }


def test_a_run_alternates_between_two_bindings(model: OrtCudaModel, driver: CopyingDriver) -> None:
    """Nothing is copied on the device, and it leads where steps from the host's memory do."""
    engine = model.engine(STEPS)
    given = inputs_of(engine.spec, 0)
    state: Any = given[STATE]
    for _ in range(4):
        state = engine.run_kept({**given, STATE: state})[NEXT_STATE]
    assert "copy_on_device" not in driver.log
    found, expected = state.numpy(), np.asarray(given[STATE])
    for _ in range(4):
        expected = engine.run({**given, STATE: expected})[NEXT_STATE]
    np.testing.assert_array_equal(found, expected)


def test_the_plain_session_is_opened_by_who_needs_it(
    tiny_bundle: Path, graphs: Path, driver: CopyingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that begins with whole steps has but these weights on the device; it computes what the other does."""
    opened: list[str] = []
    opens = OrtCudaModel._open

    def counted(self: OrtCudaModel, options: dict[str, str]) -> Any:
        opened.append(self._graph().name)
        return opens(self, options)

    monkeypatch.setattr(OrtCudaModel, "_open", counted)
    device = Device(provider="CPUExecutionProvider", memory="cpu", driver=lambda: driver)
    unet = unet_of(tiny_bundle)
    plain = replace(STEPS, loop=Loop.HOST)
    model = OrtCudaModel(unet, device, graphs, loop=Loop.DEVICE)
    engine = model.engine(STEPS)
    engine.run(inputs_of(engine.spec, 0))
    assert set(opened) == {"steps.onnx"}
    expected = OrtCudaModel(unet, device, graphs)
    opened.clear()
    given = inputs_of(model.engine(plain).spec, 0)
    ours, theirs = model.engine(plain).run(given), expected.engine(plain).run(given)
    np.testing.assert_array_equal(ours["out_sample"], theirs["out_sample"])
    assert opened == ["model.onnx"]
    model.close()
    expected.close()


def test_what_somebody_has_is_copied_before_it_is_written(model: OrtCudaModel, driver: CopyingDriver) -> None:
    """Two runs whose steps alternate are what they are one after the other; every result that is held stays."""
    engine = model.engine(STEPS)
    starts = [inputs_of(engine.spec, seed) for seed in range(2)]

    def steps(count: int, which: int, state: Any) -> Iterator[Any]:
        for _ in range(count):
            state = engine.run_kept({**starts[which], STATE: state})[NEXT_STATE]
            yield state

    apart = [[state.numpy() for state in steps(3, which, starts[which][STATE])] for which in range(2)]
    together: list[list[Any]] = [[], []]
    for held in zip(*(steps(3, which, starts[which][STATE]) for which in range(2)), strict=True):
        for which, state in enumerate(held):
            together[which].append(state)
    assert driver.log.count("copy_on_device") > 0
    for alone, kept in zip(apart, together, strict=True):
        for expected, state in zip(alone, kept, strict=True):
            np.testing.assert_array_equal(state.numpy(), expected)


def test_an_engine_without_the_graph_says_so(model: OrtCudaModel) -> None:
    """As one that was made before there was such a graph."""
    from dataclasses import replace

    with pytest.raises(EngineError, match="without whole steps with control, expected one with them; install"):
        model.engine(replace(STEPS, added=frozenset({AddedInputs.CONTROL})))
