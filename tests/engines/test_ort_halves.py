"""The halves of a batch at once: what comes back is what one session returns, and who may run so."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrt.engines import machine
from latentrt.engines.backends.ort_cpu import model as ort_cpu
from latentrt.engines.backends.ort_cpu.backend import OrtCpu, in_halves
from latentrt.engines.backends.ort_cpu.halves import HalvedEngine, Halves
from latentrt.engines.backends.ort_cpu.model import OrtCpuModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, EngineSpec, TensorSpec
from latentrt.engines.store.store import compiled_folder


def part_of(root: Path, name: str = "unet") -> Component:
    bundle = open_bundle(root)
    return Component(root=bundle.root, manifest=bundle.manifest, name=name)


def inputs_of(component: Component, batch: int) -> dict[str, Array]:
    random = np.random.default_rng(batch)
    spec = component.manifest.spec("unet", Shapes(profile=component.manifest.profiles[0]), (batch,))
    return {name: random.standard_normal(one.sized(batch)).astype(one.dtype) for name, one in spec.inputs.items()}


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_returns_what_one_session_does(batch: int, tiny_bundle: Path) -> None:
    """To the last bits in which a product's rounding depends on the batch; odd batches and one sample, too."""
    component = part_of(tiny_bundle)
    folder = compiled_folder(component, Backend.ORT_CPU)
    spec = component.manifest.spec("unet", Shapes(profile=component.manifest.profiles[0]), (batch,))
    inputs = inputs_of(component, batch)
    with (
        OrtCpuModel.of_compiled(folder, threads=2).engine(spec) as whole,
        OrtCpuModel.of_compiled(folder, threads=2, halves=True).engine(spec) as halves,
    ):
        expected, found = whole.run(inputs), halves.run(inputs)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


class Session:
    """A session that adds the condition to the sample; it tells who asked, and what for."""

    def __init__(self, fails: Callable[[Array], bool] = lambda sample: False) -> None:
        self.asked: list[tuple[str, int]] = []
        self._fails = fails
        self._both = threading.Barrier(2, timeout=10)

    def get_inputs(self) -> list[Any]:
        tensor = type("Tensor", (), {})
        named = []
        for name, shape in (("sample", ["batch", 2]), ("level", [1])):
            one = tensor()
            one.name, one.shape = name, shape
            named.append(one)
        return named

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        self.asked.append((threading.current_thread().name, len(inputs["sample"])))
        self._both.wait()  # comes through only if both halves are under way
        if self._fails(inputs["sample"]):
            raise ValueError("no memory")
        return [inputs["sample"] + inputs["level"] for _ in names]


def run(halves: Halves, inputs: dict[str, Array]) -> Array:
    """What an engine over a ``Session`` returns."""
    sample, level = (TensorSpec(shape=shape, dtype=np.dtype(np.float32)) for shape in (("batch", 2), (1,)))
    spec = EngineSpec(inputs={"sample": sample, "level": level}, outputs={"out": sample}, batches=(1, 2, 3))
    return HalvedEngine(halves, spec).run(inputs)["out"]


def test_both_halves_are_under_way_at_once() -> None:
    """On threads of their own; what has no batch goes to both."""
    session = Session()
    halves = Halves(session, lambda: pytest.fail("a batch of three needs no other session"))
    sample = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = run(halves, {"sample": sample, "level": np.ones(1, np.float32)})
    halves.close()
    np.testing.assert_array_equal(found, sample + 1)
    assert sorted(size for _, size in session.asked) == [1, 2]
    names = {name for name, _ in session.asked}
    assert len(names) == 2
    assert threading.current_thread().name not in names


@pytest.mark.parametrize("failing", [0.0, 1.0])
def test_a_half_that_fails_fails_the_whole(failing: float) -> None:
    """Whichever it is."""
    halves = Halves(Session(lambda sample: bool(sample[0, 0] == failing)), lambda: None)
    with pytest.raises(EngineError, match="no memory"):
        run(halves, {"sample": np.array([[0, 0], [1, 1]], np.float32), "level": np.ones(1, np.float32)})
    halves.close()


def test_one_sample_opens_the_other_session_once() -> None:
    """And never before."""
    opened = []

    class One(Session):
        def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
            return [inputs["sample"]]

    def whole() -> One:
        opened.append(One())
        return opened[-1]

    halves = Halves(Session(), whole)
    for _ in range(2):
        run(halves, {"sample": np.zeros((1, 2), np.float32), "level": np.ones(1, np.float32)})
    halves.close()
    assert len(opened) == 1


def test_closing_ends_the_threads(tiny_bundle: Path) -> None:
    component = part_of(tiny_bundle)
    spec = component.manifest.spec("unet", Shapes(profile=component.manifest.profiles[0]), (2,))
    before = set(threading.enumerate())  # those of models that others left open may end meanwhile
    model = OrtCpuModel.of_compiled(compiled_folder(component, Backend.ORT_CPU), threads=2, halves=True)
    engine = model.engine(spec)
    engine.run(inputs_of(component, 2))
    started = set(threading.enumerate()) - before
    engine.close()
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(EngineError, match="closed"):
        engine.run(inputs_of(component, 2))


def test_closed_it_says_so_for_any_batch() -> None:
    """Also to a caller that has the session still, and it opens nothing more."""
    halves = Halves(Session(), lambda: pytest.fail("opened after closing"))
    halves.close()
    for batch in (1, 2):
        with pytest.raises(EngineError, match="closed"):
            run(halves, {"sample": np.zeros((batch, 2), np.float32), "level": np.ones(1, np.float32)})


def test_a_whole_session_that_does_not_open_says_why_once(tiny_bundle: Path) -> None:
    """Its sentence is not put into another one."""
    component = part_of(tiny_bundle)
    spec = component.manifest.spec("unet", Shapes(profile=component.manifest.profiles[0]), (1,))

    def whole() -> None:
        raise EngineError("ONNX Runtime cannot open 'model.onnx'; open the bundle again")

    narrow = OrtCpuModel.of_compiled(compiled_folder(component, Backend.ORT_CPU), threads=1).session
    with HalvedEngine(Halves(narrow, whole), spec) as engine, pytest.raises(EngineError) as refused:
        engine.run(inputs_of(component, 1))
    assert str(refused.value) == "ONNX Runtime cannot open 'model.onnx'; open the bundle again"


def test_who_finds_the_threads_taken_runs_both_halves() -> None:
    """As halves all the same, so that a picture does not depend on who else draws."""
    goes_on = threading.Event()

    class Busy(Session):
        def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
            self.asked.append((threading.current_thread().name, len(inputs["sample"])))
            if threading.current_thread() is not threading.main_thread():
                assert goes_on.wait(60)
            return [inputs["sample"]]

    session = Busy()
    halves = Halves(session, lambda: None)
    inputs = {"sample": np.zeros((3, 2), np.float32), "level": np.ones(1, np.float32)}
    first = threading.Thread(target=run, args=(halves, inputs))
    first.start()
    while len(session.asked) < 2:
        time.sleep(0.001)
    run(halves, inputs)
    goes_on.set()
    first.join()
    halves.close()
    assert [size for name, size in session.asked if name == threading.main_thread().name] == [2, 1]


def test_each_half_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three cores the larger half gets two; its threads are the only ones that are kept anywhere."""
    kept: dict[str, frozenset[int]] = {}
    monkeypatch.setattr(machine, "cores", lambda: [frozenset({0, 4}), frozenset({1, 5}), frozenset({2})])
    monkeypatch.setattr(machine, "keep_to", lambda these: kept.update({threading.current_thread().name: these}))
    session = Session()
    halves = Halves(session, lambda: None)
    run(halves, {"sample": np.zeros((3, 2), np.float32), "level": np.ones(1, np.float32)})
    halves.close()
    assert {size: kept[name] for name, size in session.asked} == {2: {0, 1, 4, 5}, 1: {2}}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep a thread to processors")
def test_keeping_to_processors_is_one_threads_own() -> None:
    """A system that refuses is not argued with; no processors are no wish."""
    mine = os.sched_getaffinity(0)
    seen = []

    def keep() -> None:
        for processors in (frozenset({min(mine)}), frozenset[int](), frozenset({2**20})):
            machine.keep_to(processors)
            seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()
    assert seen == [{min(mine)}] * 3
    assert os.sched_getaffinity(0) == mine


def test_a_thread_that_outlives_the_main_one_still_draws(tiny_bundle: Path) -> None:
    """The interpreter takes no new work for helpers then."""
    script = f"""
import threading, time, latentrt
pipe = latentrt.open({str(tiny_bundle)!r}, threads=2)
def draw():
    threading.main_thread().join()
    time.sleep(0.2)
    print(pipe("a cat", num_inference_steps=1, seed=1, output_type="np").images[0].shape)
threading.Thread(target=draw).start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(", 3)"), done.stderr


def test_guided_unets_alone(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the autoencoder, not a U-Net that is called without guidance, and not with one thread."""

    def halved(threads: int | None) -> bool:
        part = part_of(tiny_bundle)
        model = OrtCpu().open(part, compiled_folder(part, Backend.ORT_CPU), threads=threads)
        try:
            return isinstance(model._model.session, Halves)
        finally:
            model.close()

    assert halved(2)
    assert not halved(1)
    monkeypatch.setattr(ort_cpu, "physical_cores", lambda: 1)
    assert not halved(None)
    assert not in_halves(part_of(tiny_bundle, "vae_decoder"))
    guided = part_of(tiny_bundle)
    assert in_halves(guided)
    record = guided.record.model_copy(update={"batch_per_picture": 1})
    manifest = guided.manifest.model_copy(update={"components": {"unet": record}})
    assert not in_halves(Component(root=guided.root, manifest=manifest, name="unet"))


def test_threads_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processors on two cores; where the system does not tell, every one counts."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path, *_: "0,2\n" if path.parts[5] in ("cpu0", "cpu2") else "1,3\n")
    assert machine.physical_cores() == 2
    assert machine.cores() == [{0, 2}, {1, 3}]

    def unreadable(path: Path, *_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert machine.physical_cores() == 4
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 6)
    assert machine.physical_cores() == 6
    assert machine.cores() == []
