"""What flows into the quantizable nodes while pictures are drawn: ranges of every run, and some of the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError
from latentrt.engines.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.spec import BATCH, Array, EngineSpec

_ROWS = 256  # of a matrix product's input that are kept, over all runs
_WINDOWS = 24  # of a convolution's input, each with nine outputs or more
_PER_VISIT = 8  # the part of these that one run may supply
_VISITED_EVERY = 8
_FETCHED = 256 * 2**20  # bytes of whole tensors that are read in one run
LARGEST_LATENTS = 32
_SEED = 11


@dataclass
class Observed:
    """What one tensor was, run by run.

    ``lowest`` and ``highest`` are per run and channel, (runs, C). ``samples`` are rows (n, C) of a matrix product's
    input, or windows (n, C, h, w) of a convolution's. ``visits`` counts the runs that samples were taken from.
    """

    lowest: list[Array] = field(default_factory=list)
    highest: list[Array] = field(default_factory=list)
    samples: list[Array] = field(default_factory=list)
    visits: int = 0

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The lowest and the highest number of each run."""
        return np.array([a.min() for a in self.lowest]), np.array([a.max() for a in self.highest])

    @property
    def channel_peaks(self) -> Array:
        """The largest magnitude that each channel ever had."""
        return np.asarray(np.maximum(-np.min(self.lowest, axis=0), np.max(self.highest, axis=0)))


@dataclass
class Observations:
    """What all tensors were; what a killed run had seen is read back from a file.

    ``calls`` are the inputs of some runs, cut to one sample of at most ``LARGEST_LATENTS`` on each side.
    """

    runs: int = 0
    calls: list[dict[str, Array]] = field(default_factory=list)
    tensors: dict[str, Observed] = field(default_factory=dict)

    def arrays(self) -> dict[str, Array]:
        """Everything as arrays by name, for a file."""
        saved: dict[str, Array] = {"runs": np.array(self.runs)}
        for name, seen in self.tensors.items():
            saved[f"lowest/{name}"] = np.array(seen.lowest)
            saved[f"highest/{name}"] = np.array(seen.highest)
            saved[f"visits/{name}"] = np.array(seen.visits)
            if seen.samples:
                saved[f"samples/{name}"] = np.concatenate(seen.samples)
        for index, call in enumerate(self.calls):
            saved |= {f"call{index}/{name}": array for name, array in call.items()}
        return saved

    @classmethod
    def from_arrays(cls, saved: Mapping[str, Array]) -> "Observations":
        """What ``arrays`` gave, read back."""
        observations = cls(runs=int(saved["runs"]))
        for key, array in saved.items():
            kind, _, name = key.partition("/")
            if not name:
                continue
            if kind.startswith("call"):
                index = int(kind.removeprefix("call"))
                observations.calls += [{} for _ in range(index + 1 - len(observations.calls))]
                observations.calls[index][name] = array
                continue
            seen = observations.tensors.setdefault(name, Observed())
            if kind == "visits":
                seen.visits = int(array)
            elif kind == "samples":
                seen.samples = [array]
            else:
                setattr(seen, kind, list(array))
        return observations


def observed_graph(weights: OnnxWeights, nodes: Sequence[QuantizableNode]) -> Any:
    """A graph that also gives every quantizable node's input, and the channels' extremes of it.

    Extremes of convolutions' outputs are among them, because some recipes round these, too.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(weights.model)
    graph = model.graph
    for tensor, axes in _observed_axes(nodes).items():
        initializer = f"{tensor}.observed_axes"
        graph.initializer.append(helper.make_tensor(initializer, TensorProto.INT64, [len(axes)], axes))
        for kind, operator in (("lowest", "ReduceMin"), ("highest", "ReduceMax")):
            name = f"{tensor}.{kind}"
            graph.node.append(helper.make_node(operator, [tensor, initializer], [name], name=name, keepdims=0))
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    known = {value.name for value in (*graph.output, *graph.input)}
    for name in dict.fromkeys(node.input for node in nodes):
        if name not in known:
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def _observed_axes(nodes: Sequence[QuantizableNode]) -> dict[str, list[int]]:
    """The tensors whose extremes are wanted, and the axes that are reduced: all but the channels'."""
    axes: dict[str, list[int]] = {}
    for node in nodes:
        # A matrix product's input is a prompt's or picture's rows, a Gemm's one row per sample
        axes[node.input] = {"Conv": [0, 2, 3], "MatMul": [0, 1], "Gemm": [0]}[node.operator]
    for node in nodes:
        if node.operator == "Conv":
            axes.setdefault(node.output, [0, 2, 3])
    return axes


class ObservingEngine(ClosesItself):
    """The fp32 U-Net as an engine that watches itself while a pipeline draws with it."""

    def __init__(
        self,
        weights: OnnxWeights,
        nodes: Sequence[QuantizableNode],
        spec: EngineSpec,
        observations: Observations,
        recorded: Sequence[int] = (),
    ) -> None:
        """Opens the observed graph; goes on with what ``observations`` hold.

        Args:
            weights: the graph.
            nodes: what is observed.
            spec: the U-Net's tensors.
            observations: where it is kept.
            recorded: the runs, counted from 0, whose inputs are kept.

        Raises:
            EngineError: ONNX Runtime refuses the graph.
        """
        self.spec = spec
        self.observations = observations
        self._session: Any = weights.session(observed_graph(weights, nodes))
        self._outputs = list(spec.outputs)
        self._consumers = {node.input: node for node in nodes}
        self._extremes = list(_observed_axes(nodes))
        self._bytes = dict.fromkeys(self._consumers, 64 * 2**20)
        self._recorded = frozenset(recorded)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the U-Net and keeps what it saw.

        Raises:
            EngineError: activations that are not finite.
        """
        self.spec.check(inputs)
        fetched = self._next()
        extremes = [f"{name}.{kind}" for name in self._extremes for kind in ("lowest", "highest")]
        whole = [name for name in fetched if name not in inputs]
        names = [*self._outputs, *extremes, *whole]
        found = dict(zip(names, self._session.run(names, inputs), strict=True))
        for name in self._extremes:
            low, high = found[f"{name}.lowest"], found[f"{name}.highest"]
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise EngineError(
                    f"the U-Net's tensor {name!r} became NaN or infinite while calibrating, expected finite numbers; "
                    "check the model, or give other prompts"
                )
            seen = self.observations.tensors.setdefault(name, Observed())
            seen.lowest.append(np.atleast_1d(low).astype(np.float32))
            seen.highest.append(np.atleast_1d(high).astype(np.float32))
        for name in fetched:
            array = found[name] if name in found else inputs[name]
            self._bytes[name] = array.nbytes
            self._sample(name, array)
        if self.observations.runs in self._recorded:
            self.observations.calls.append(self._cut(inputs))
        self.observations.runs += 1
        return {name: found[name] for name in self._outputs}

    def close(self) -> None:
        """Unmaps the weights."""
        self._session = None

    def _cut(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One sample of the inputs, the conditional one where there are two, and of large latents a part."""
        cut = {}
        for name, array in inputs.items():
            last = array[-1:] if self.spec.inputs[name].shape[0] == BATCH else array
            cut[name] = np.array(last[..., :LARGEST_LATENTS, :LARGEST_LATENTS] if last.ndim == 4 else last)
        return cut

    def _next(self) -> list[str]:
        """Whose whole tensors this run reads: those visited least, as many as the memory set aside holds.

        Each is read in one run of ``_VISITED_EVERY`` whatever the memory, so that a short calibration sees them all.
        """
        order = sorted(self._consumers, key=lambda name: self.observations.tensors.get(name, _NEVER).visits)
        chosen: list[str] = []
        total = 0
        for name in order:
            total += self._bytes[name]
            if len(chosen) * _VISITED_EVERY >= len(order) and total > _FETCHED:
                break
            chosen.append(name)
        return chosen

    def _sample(self, name: str, array: Array) -> None:
        """Keeps some rows or windows, so that every visited run is as likely to be among what is kept."""
        seen, node = self.observations.tensors.setdefault(name, Observed()), self._consumers[name]
        rng = np.random.default_rng((_SEED, self.observations.runs, len(name), node.parameters))
        seen.visits += 1
        limit = _WINDOWS if node.operator == "Conv" else _ROWS
        fresh = _windows(array, node, limit // _PER_VISIT, rng) if node.operator == "Conv" else _rows(array, rng)
        kept = np.concatenate([*seen.samples, fresh])
        if len(kept) > limit:  # of v visits the last one keeps its share, 1/v
            old = len(kept) - len(fresh)
            share = min(len(fresh), max(1, round(limit / seen.visits)))
            kept = np.concatenate(
                [
                    kept[:old][rng.permutation(old)[: limit - share]],
                    fresh[rng.permutation(len(fresh))[:share]],
                ]
            )
        seen.samples = [kept]


_NEVER = Observed()


def _rows(array: Array, rng: np.random.Generator) -> Array:
    rows = array.reshape(-1, array.shape[-1])
    return np.array(rows[rng.integers(0, len(rows), _ROWS // _PER_VISIT)])


def _windows(array: Array, node: QuantizableNode, count: int, rng: np.random.Generator) -> Array:
    """Windows that hold three by three outputs, or what the picture has."""
    height, width = (
        min(kernel + 2 * stride, size)
        for kernel, stride, size in zip(node.kernel, node.strides, array.shape[2:], strict=True)
    )
    windows = []
    for _ in range(count):
        sample = rng.integers(len(array))
        top, left = (rng.integers(size - part + 1) for size, part in zip(array.shape[2:], (height, width), strict=True))
        windows.append(array[sample, :, top : top + height, left : left + width])
    return np.array(windows)
