"""The line at the device: who runs at once, who runs together, in what order, and what becomes of errors."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from waiting import SOON, until

from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array, EngineSpec, Tensor, TensorSpec, host_arrays
from latentrt.runtime.serving.lanes.engine_call import EngineCall
from latentrt.runtime.serving.lanes.line import Line
from latentrt.runtime.serving.lanes.shared_engine import SharedEngine, Sharing

FLOATS = np.dtype(np.float32)
INPUTS = {
    "x": TensorSpec(shape=("batch", 2), dtype=FLOATS),
    "more": TensorSpec(shape=("batch",), dtype=FLOATS, neutral=7.0),
}


class Summing(ClosesItself):
    """An engine that adds ``more`` to ``x``. Its first run waits for ``go``; ``runs`` are the inputs of all."""

    def __init__(self, batches: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)) -> None:
        outputs = {"y": INPUTS["x"]}
        self.spec = EngineSpec(inputs=INPUTS, outputs=outputs, batches=batches)
        self.runs: list[Mapping[str, Tensor]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.raises: Callable[[Array], BaseException | None] = lambda x: None

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        self.spec.check(inputs)
        self.runs.append(inputs)
        self.begun.set()
        assert self.go.wait(SOON)
        arrays = host_arrays(inputs)
        x = arrays["x"]
        error = self.raises(x)
        if error is not None:
            raise error
        return {"y": x + arrays.get("more", np.full(len(x), 7, FLOATS))[:, None]}

    def close(self) -> None:
        """Holds nothing."""

    @property
    def sizes(self) -> list[int]:
        """The rows of each run."""
        return [len(np.asarray(inputs["x"])) for inputs in self.runs]


class Party:
    """Threads at one line. The first call holds the device until ``drawn``; each that comes after it waits."""

    def __init__(self, seats: int = 1) -> None:
        self.line = Line(seats)
        self.futures: list[Future[dict[str, Array]]] = []

    def call(self, engine: Any, value: float, rows: int = 2, **more: Array) -> Future[dict[str, Array]]:
        """A thread that runs an engine on rows of a number; back when it has begun to run or to wait."""
        future: Future[dict[str, Array]] = Future()
        waiting, inputs = len(self.line._waiting), {"x": np.full((rows, 2), value, FLOATS), **more}

        def body() -> None:
            try:
                future.set_result(engine.run(inputs))
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        if self.futures:
            until(lambda: len(self.line._waiting) > waiting)
        self.futures.append(future)
        return future


@pytest.fixture
def party() -> Iterator[Party]:
    party = Party()
    yield party
    assert party.line._taken == 0, "a seat was not given back"
    assert not party.line._waiting


def shared(engine: Any, party: Party, lane: object = "unet", *sharing: Sharing) -> SharedEngine:
    return SharedEngine(engine, party.line, lane, *sharing)


def begun(party: Party, engine: Summing, lane: object = "unet") -> Future[dict[str, Array]]:
    """The call that holds the device."""
    first = party.call(shared(engine, party, lane), 0.0)
    assert engine.begun.wait(SOON)
    return first


def test_who_is_alone_runs_what_it_gave(party: Party) -> None:
    """The very mapping: nothing is copied, and nothing filled in."""
    engine = Summing()
    engine.go.set()
    inputs: dict[str, Tensor] = {"x": np.ones((3, 2), FLOATS)}
    assert shared(engine, party).run(inputs)["y"].tolist() == [[8, 8]] * 3
    assert engine.runs[0] is inputs


def test_calls_that_wait_run_as_one(party: Party) -> None:
    """Each gets its own rows, in arrays that nobody else holds; what some leave out is neutral."""
    engine = Summing()
    begun(party, engine)
    calls = [
        party.call(shared(engine, party), 1.0),
        party.call(shared(engine, party), 2.0, rows=1, more=np.array([10.0], FLOATS)),
        party.call(shared(engine, party), 3.0),
    ]
    engine.go.set()
    found = [call.result(SOON)["y"] for call in calls]
    assert [array[:, 0].tolist() for array in found] == [[8, 8], [12], [10, 10]]
    assert all(array.base is None for array in found)
    assert engine.sizes == [2, 5]


def test_the_largest_batch_and_age_decide(party: Party) -> None:
    """Oldest first; a call that does not fit waits for the next run, and smaller ones behind it need not."""
    engine = Summing()
    begun(party, engine)
    calls = [party.call(shared(engine, party), value, rows) for value, rows in ((1, 5), (2, 4), (3, 3), (4, 4))]
    engine.go.set()
    assert [call.result(SOON)["y"][0, 0] for call in calls] == [8, 9, 10, 11]
    assert engine.sizes == [2, 8, 8]
    assert np.asarray(engine.runs[1]["x"])[:, 0].tolist() == [1] * 5 + [3] * 3


def test_lanes_do_not_mix(party: Party) -> None:
    """A decoding takes its turn by its age, between steps; calls behind it join those before it."""
    unet, other, decoder = Summing(), Summing(), Summing()
    begun(party, unet)
    order: list[str] = []
    for engine, name in ((unet, "unet"), (other, "with a lora"), (decoder, "decoder")):
        engine.raises = lambda x, name=name: order.append(f"{name} {len(x)}")  # type: ignore[misc]
        engine.go.clear()
    lanes = [(unet, "unet"), (decoder, "decoder"), (other, "unet with a lora"), (unet, "unet")]
    for engine, lane in lanes:
        party.call(shared(engine, party, lane), 1.0)
    for engine in (unet, other, decoder):
        engine.go.set()
    for future in party.futures:
        future.result(SOON)
    assert order == ["unet 2", "unet 4", "decoder 2", "with a lora 2"]


def test_a_compiled_batch_is_filled(party: Party) -> None:
    """By calls together as far as they go, and else with rows for nothing; those of pixels fill it, too."""
    engine = Summing((4,))
    assert shared(engine, party).spec.batches == (1, 2, 3, 4)
    assert shared(engine, party).spec.computed(5) == 8
    begun(party, engine)
    ways = (Sharing.GATHERS, Sharing.GATHERS, Sharing.FILLS, Sharing.FILLS)
    calls = [party.call(shared(engine, party, "unet", way), 1.0, 1) for way in ways]
    engine.go.set()
    for future in party.futures:
        assert len(future.result(SOON)["y"]) in (1, 2)
    assert engine.sizes == [4, 4]
    assert calls[-1].result()["y"].tolist() == [[8, 8]]
    pixels = Summing()
    pixels.go.set()
    assert shared(pixels, party, "unet", Sharing.FILLS).spec is pixels.spec


def test_pixels_are_not_gathered(party: Party) -> None:
    """Where an engine runs any batch, a call with planes of pixels takes no more memory than alone."""
    engine = Summing()
    begun(party, engine)
    for _ in range(2):
        party.call(shared(engine, party, "decoder", Sharing.FILLS), 1.0, 1)
    engine.go.set()
    for future in party.futures:
        future.result(SOON)
    assert engine.sizes == [2, 1, 1]


def test_rows_that_act_on_each_other_stay_alone(party: Party) -> None:
    """A compiled batch is neither shared nor filled up: whose rows are missing has no such engine."""
    engine = Summing((2, 4))
    assert shared(engine, party, "unet", Sharing.EXACT).spec is engine.spec
    begun(party, engine)
    for _ in range(2):
        party.call(shared(engine, party, "unet", Sharing.EXACT), 1.0, 2)
    engine.go.set()
    for future in party.futures:
        assert len(future.result(SOON)["y"]) == 2
    assert engine.sizes == [2, 2, 2]


def test_an_error_is_that_of_one(party: Party) -> None:
    """What fails together is run again one by one; who is at fault is told, and the others are served."""
    engine = Summing()
    begun(party, engine)
    engine.raises = lambda x: EngineError("too many") if 2.0 in x else None
    calls = [party.call(shared(engine, party), value) for value in (1.0, 2.0, 3.0)]
    engine.go.set()
    with pytest.raises(EngineError, match="too many"):
        calls[1].result(SOON)
    assert [calls[index].result(SOON)["y"][0, 0] for index in (0, 2)] == [8, 10]
    assert engine.sizes == [2, 6, 2, 2, 2]


def test_who_is_interrupted_leaves_the_others(party: Party) -> None:
    """As the thread that runs for all is ended, and as one that waits is."""
    engine = Summing()
    begun(party, engine)
    interrupted = iter([KeyboardInterrupt()])
    engine.raises = lambda x: next(interrupted, None) if len(x) == 6 else None
    calls = [party.call(shared(engine, party), value) for value in (1.0, 2.0, 3.0)]
    engine.go.set()
    with pytest.raises(KeyboardInterrupt):
        calls[0].result(SOON)
    assert [call.result(SOON)["y"][0, 0] for call in calls[1:]] == [9, 10]


def test_who_is_interrupted_as_it_waits_is_not_waited_for(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call is not made."""
    engine = Summing()
    begun(party, engine)

    def sleep(call: EngineCall) -> None:
        raise KeyboardInterrupt

    inputs: dict[str, Tensor] = {"x": np.ones((2, 2), FLOATS)}
    with monkeypatch.context() as patch:
        patch.setattr(EngineCall, "sleep", sleep)
        with pytest.raises(KeyboardInterrupt):
            shared(engine, party).run(inputs)
    last = party.call(shared(engine, party), 5.0)
    engine.go.set()
    assert last.result(SOON)["y"][0, 0] == 12
    assert engine.sizes == [2, 2]


class OnDevice:
    """A result that stays where it was computed, in a batch that was filled up."""

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim

    def numpy(self) -> Array:
        return self.array


class OfDevice(Summing):
    """Keeps its results on a device."""

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"y": OnDevice(self.run(inputs)["y"])}


def test_what_is_on_a_device_goes_alone(party: Party) -> None:
    """In the batch that was compiled, of which it has all rows already."""
    engine = OfDevice((4,))
    engine.go.set()
    one = shared(engine, party)
    kept = one.run_kept({"x": np.ones((2, 2), FLOATS)})["y"]
    assert (type(kept), kept.shape) == (OnDevice, (4, 2))
    again = one.run_kept({"x": kept, "more": np.ones(2, FLOATS)})["y"]
    assert again.numpy()[:2].tolist() == [[9, 9]] * 2  # type: ignore[union-attr]
    found = one.run({"x": kept, "more": np.ones(2, FLOATS)})["y"]
    assert found.tolist() == [[9, 9]] * 2


def test_what_stays_nowhere_gathers(party: Party) -> None:
    """Where an engine's results are in the host's memory anyway, it does not matter how they are asked for."""
    host = Summing()
    begun(party, host)
    for _ in range(2):
        party.call(_Kept(shared(host, party)), 1.0)
    host.go.set()
    for future in party.futures:
        future.result(SOON)
    assert host.sizes == [2, 4]


class _Kept:
    """Runs an engine by ``run_kept``."""

    def __init__(self, engine: SharedEngine) -> None:
        self.run = engine.run_kept


def test_a_device_of_two_seats() -> None:
    """Runs that leave half of the cores idle go two at a time; the third waits."""
    party, engine = Party(seats=2), Summing()
    party.call(shared(engine, party), 1.0)
    threading.Thread(target=lambda: shared(engine, party).run({"x": np.ones((1, 2), FLOATS)}), daemon=True).start()
    until(lambda: len(engine.runs) == 2)
    party.call(shared(engine, party), 1.0, 3)
    engine.go.set()
    for future in party.futures:
        future.result(SOON)
    assert engine.sizes[2:] == [3]


def test_a_fork_leaves_the_line_to_the_parent() -> None:
    """In the child nobody runs and nobody waits."""
    party, engine = Party(), Summing()
    begun(party, engine)
    party.call(shared(engine, party), 1.0)
    engine.go.set()
    party.line.after_fork()
    assert shared(engine, party).run({"x": np.ones((1, 2), FLOATS)})["y"].tolist() == [[8, 8]]
