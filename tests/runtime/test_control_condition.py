"""Control nets in a step: which rows they run on, in what order they are summed, and what is left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from latentrt.engines.bundle.unet.net_inputs import CONTROL_TYPE, HINT, SCALES
from latentrt.engines.spec import Array, DeviceArray, EngineSpec, Tensor, TensorSpec, host_arrays
from latentrt.runtime.denoiser.conditions.condition import UnetCall
from latentrt.runtime.denoiser.conditions.control import ControlCondition, ControlledRun
from latentrt.runtime.denoiser.conditions.features import AdaptedRun, FeaturesCondition
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE, Pass
from latentrt.runtime.denoiser.steps import ActiveSteps
from latentrt.runtime.sampling.schedule import Level

NAMES = ("down_residual_0", "down_residual_1", "mid_residual")
GUIDED = (NEGATIVE, POSITIVE)
ALWAYS = ActiveSteps(ratios=(2.0, 1.0), active=(True, True))


def tensor(*rest: int, neutral: float | None = None) -> TensorSpec:
    return TensorSpec(shape=("batch", *rest), dtype=np.dtype(np.float32), neutral=neutral)


class OnDevice:
    """What stays with a stand-in of a GPU; it counts how often it was copied to the host."""

    copies = 0

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim

    def numpy(self) -> Array:
        OnDevice.copies += 1
        return self.array


class Net:
    """Residual i of a row is (i + 1) · weight · (its hint + its sample's first number) · its scale, plus what came
    before."""

    def __init__(self, batches: tuple[int, ...], weight: float = 1.0, *, device: bool = False) -> None:
        inputs = {"sample": tensor(1, 2, 2), "timestep": tensor(), HINT: tensor(1), SCALES: tensor(3)}
        before = {f"previous_{name}": tensor(1, neutral=0.0) for name in NAMES}
        self.spec = EngineSpec(
            inputs={**inputs, **before}, outputs={name: tensor(1) for name in NAMES}, batches=batches
        )
        self.weight, self.device = weight, device
        self.calls: list[dict[str, Array]] = []

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self.spec.check(inputs)
        copies = OnDevice.copies
        arrays = host_arrays(inputs)
        OnDevice.copies = copies  # what it takes on the device is copied nowhere
        self.calls.append(arrays)
        base = self.weight * (arrays[HINT] + arrays["sample"][:, 0, :1, 0])
        results: dict[str, Array] = {}
        for index, name in enumerate(NAMES):
            before = arrays.get(f"previous_{name}", np.zeros_like(base))
            results[name] = (index + 1) * base * arrays[SCALES][:, index : index + 1] + before
        return {name: OnDevice(array) for name, array in results.items()} if self.device else results

    run: Any = run_kept

    def close(self) -> None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...


def run_of(net: Net, hints: Sequence[float], scales: Sequence[float] = (1, 1, 1), **more: Any) -> ControlledRun:
    hint = np.array(hints, np.float32)[:, None]
    return ControlledRun(
        **{"engine": net, "hint": hint, "scales": np.array(scales, np.float32), "steps": ALWAYS, **more}
    )


def call_of(
    pictures: int, passes: tuple[Pass, ...] = GUIDED, rows: slice | None = None, batch: int | None = None
) -> UnetCall:
    """Sample of picture i is i + 1; there is a further channel, as of an inpainting model, that nets do not see."""
    rows = rows or slice(0, pictures * len(passes))
    batch = batch or rows.stop - rows.start
    sample = np.full((batch, 2, 2, 2), 99, np.float32)
    for place, row in enumerate(range(rows.start, rows.stop)):
        sample[place, 0] = row % pictures + 1
    inputs = {"sample": sample, "timestep": np.full(batch, 7, np.float32), "told": np.zeros((batch, 1), np.float32)}
    return UnetCall(passes=passes, rows=rows, pictures=pictures, level=Level(500.0, 1.0, 2.0), inputs=inputs)


def rows_of(residuals: Mapping[str, Tensor], count: int) -> list[list[float]]:
    """Of each residual its first rows."""
    return [host_arrays(residuals)[name][:count, 0].tolist() for name in NAMES]


@pytest.mark.parametrize("batches", [(1, 2, 3, 4), (1, 2), (1,), (4,), (8,)])
def test_every_row_gets_its_pictures_residuals(batches: tuple[int, ...]) -> None:
    """Two pictures with a hint each, in both passes, whatever the net takes at once; each residual in its place."""
    net = Net(batches)
    found = ControlCondition([run_of(net, [10, 20], (1, 0.5, 2))]).at(call_of(2))
    base = np.array([11, 22, 11, 22])
    assert rows_of(found, 4) == [(base * 1).tolist(), (base * 2 * 0.5).tolist(), (base * 3 * 2).tolist()]
    assert all(set(call["timestep"]) <= {7.0, 0.0} for call in net.calls)


@pytest.mark.parametrize("batches", [(1, 2, 3, 4), (1,), (4,)])
def test_nets_are_summed_each_by_its_own_mode(batches: tuple[int, ...]) -> None:
    """The conditional half alone of one, both of the other; in whichever order they are named."""
    for order in (1, -1):
        one, other = Net(batches), Net(batches, 100.0)
        runs = [run_of(one, [10], conditional_only=True), run_of(other, [1])]
        found = ControlCondition(runs[::order]).at(call_of(1))
        assert rows_of(found, 2) == [[200, 211], [400, 422], [600, 633]]
        rows = sum(len(call[SCALES]) for call in one.calls)
        assert rows == (4 if batches == (4,) else 1)  # an engine of one batch computes the other half, too


def test_a_call_of_negatives_alone_has_no_conditional_residuals() -> None:
    """Nothing is run, and nothing given."""
    net = Net((1, 2))
    condition = ControlCondition([run_of(net, [10], conditional_only=True)])
    assert condition.at(call_of(2, rows=slice(0, 2))) == {}
    assert net.calls == []
    assert rows_of(condition.at(call_of(2, rows=slice(2, 4))), 2) == [[11, 12], [22, 24], [33, 36]]
    assert rows_of(condition.at(call_of(2, (POSITIVE,))), 2) == [[11, 12], [22, 24], [33, 36]]


def test_out_of_range_nets_are_not_run() -> None:
    """The first of two steps is the level's; a call between two steps belongs to the one before it."""
    late, early = Net((1, 2)), Net((1, 2))
    spans = {
        late: ActiveSteps(ratios=(2.0, 1.0), active=(False, True)),
        early: ActiveSteps(ratios=(2.0, 1.0), active=(True, False)),
    }
    condition = ControlCondition([run_of(net, [1], steps=steps) for net, steps in spans.items()])
    found = condition.at(call_of(1))
    assert rows_of(found, 2) == [[2, 2], [4, 4], [6, 6]]
    assert (len(late.calls), len(early.calls)) == (0, 1)
    assert spans[early].at(Level(300.0, 1.0, 1.5))
    assert not spans[early].at(Level(300.0, 1.0, 1.0))
    assert ControlCondition([run_of(late, [1], steps=spans[late])]).at(call_of(1)) == {}


def test_residuals_stay_on_the_device() -> None:
    """Of two nets, summed, in a fixed batch that is larger than the rows; not for a U-Net of another backend."""
    OnDevice.copies = 0
    one, other = Net((4,), device=True), Net((4,), 10.0, device=True)
    runs = [run_of(one, [1]), run_of(other, [2], conditional_only=True)]
    found = ControlCondition(runs).at(call_of(1, batch=4))
    assert all(isinstance(tensor, OnDevice) and tensor.shape == (4, 1) for tensor in found.values())
    assert OnDevice.copies == 0
    kept: DeviceArray = found["mid_residual"]  # type: ignore[assignment]
    assert kept.numpy()[:2, 0].tolist() == [6, 96]
    found = ControlCondition([run_of(one, [1], same_backend=False)]).at(call_of(1, batch=4))
    assert all(isinstance(tensor, np.ndarray) for tensor in found.values())


def test_pictures_are_taken_to_a_device_once() -> None:
    """Hints and features are the same arrays in every step, which nobody can write to."""
    net = Net((1, 2, 3, 4))
    condition = ControlCondition([run_of(net, [10, 20], conditional_only=True)])
    adapter = AdaptedRun(features={"feature_0": np.array([[1], [2]], np.float32)}, steps=ALWAYS)
    features = FeaturesCondition([adapter])
    given = []
    for _ in range(2):
        condition.at(call_of(2))
        condition.at(call_of(2, rows=slice(0, 3)))
        given.append(host_arrays(features.at(call_of(2, batch=5)))["feature_0"])
    assert given[0][:, 0].tolist() == [1, 2, 1, 2, 0]
    hints = [call[HINT] for call in net.calls]
    for first, again in ((hints[0], hints[2]), (hints[1], hints[3]), (given[0], given[1])):
        assert first is again
        assert not first.flags.writeable
        assert first.base is None


def test_union_nets_are_told_their_kinds() -> None:
    """In every row."""
    net = Net((1, 2))
    net.spec.inputs[CONTROL_TYPE] = tensor(6)  # type: ignore[index]
    ControlCondition([run_of(net, [1], types=np.array([0, 1, 0, 1, 0, 0], np.float32))]).at(call_of(1))
    assert net.calls[0][CONTROL_TYPE].tolist() == [[0, 1, 0, 1, 0, 0]] * 2


def test_features_are_summed_over_the_adapters_that_count() -> None:
    """One picture for all or one for each; an adapter may lack the last feature."""
    first = {"feature_0": np.array([[1], [2]], np.float32), "feature_1": np.array([[5], [6]], np.float32)}
    second = {"feature_0": np.array([[10]], np.float32)}
    late = ActiveSteps(ratios=(2.0, 1.0), active=(False, True))
    condition = FeaturesCondition([AdaptedRun(features=first, steps=ALWAYS), AdaptedRun(features=second, steps=late)])
    assert host_arrays(condition.at(call_of(2)))["feature_0"][:, 0].tolist() == [1, 2, 1, 2]
    call = call_of(2)
    object.__setattr__(call, "level", Level(200.0, 1.0, 1.0))
    found = host_arrays(condition.at(call))
    assert found["feature_0"][:, 0].tolist() == [11, 12, 11, 12]
    assert found["feature_1"][:, 0].tolist() == [5, 6, 5, 6]
    assert FeaturesCondition([AdaptedRun(features=second, steps=late)]).at(call_of(1)) == {}
