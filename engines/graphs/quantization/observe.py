"""What flows into the quantizable nodes while pictures are drawn: ranges at every timestep, and some of the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.watch import (
    PLACES,
    ROW_DRAWS,
    ROWS,
    WINDOW_DRAWS,
    WINDOWS,
    observed_graph,
    observed_tensors,
)
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor, host_arrays

_RUNS = 8  # that fill what is kept: 256 rows of a matrix product's input, 24 windows of a convolution's
LARGEST_LATENTS = 32
_SEED = 11
_IN_PICTURES = 3  # of a window's places: sample, row and column
_TIMESTEP = "timestep"
_TURNS = 32  # rows that the runs of what has no timesteps take turns in


@dataclass
class Observed:
    """What one tensor was.

    ``lowest`` and ``highest`` are per row and channel, (rows, C), over all prompts: a row is a timestep, or one of some
    turns that a decoder's runs take. ``samples`` are rows (n, C) of a matrix product's input, or windows (n, C, h, w)
    of a convolution's, (n, C, F, h, w) of one over frames, each run's as likely among them. ``visits`` counts the runs.
    """

    lowest: list[Array] = field(default_factory=list)
    highest: list[Array] = field(default_factory=list)
    samples: list[Array] = field(default_factory=list)
    visits: int = 0

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The lowest and the highest number of each row."""
        return np.array([a.min() for a in self.lowest]), np.array([a.max() for a in self.highest])

    @property
    def channel_peaks(self) -> Array:
        """The largest magnitude that each channel ever had."""
        return np.asarray(np.maximum(-np.min(self.lowest, axis=0), np.max(self.highest, axis=0)))

    def widen(self, row: int, low: Array, high: Array) -> None:
        """Takes the channels' extremes (C,) of one run."""
        if row == len(self.lowest):
            self.lowest.append(np.array(low, np.float32))
            self.highest.append(np.array(high, np.float32))
        else:
            self.lowest[row] = np.minimum(self.lowest[row], low)
            self.highest[row] = np.maximum(self.highest[row], high)


@dataclass
class Observations:
    """What all tensors were; what a killed run had seen is read back from a file.

    ``timesteps`` are those of the schedule in the order of the tensors' rows: every picture visits the same, and a
    sampler that asks twice at one has one row for both. ``calls`` are the inputs of some runs, cut to one sample of at
    most ``LARGEST_LATENTS`` on each side.
    """

    runs: int = 0
    timesteps: list[float] = field(default_factory=list)
    calls: list[dict[str, Array]] = field(default_factory=list)
    tensors: dict[str, Observed] = field(default_factory=dict)

    def row(self, timestep: float) -> int:
        """The row of a timestep, which is new where it was not seen before."""
        if timestep not in self.timesteps:
            self.timesteps.append(timestep)
        return self.timesteps.index(timestep)

    def arrays(self) -> dict[str, Array]:
        """Everything as arrays by name, for a file."""
        saved: dict[str, Array] = {"runs": np.array(self.runs), "timesteps": np.array(self.timesteps, np.float64)}
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
        observations = cls(runs=int(saved["runs"]), timesteps=saved["timesteps"].tolist())
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


class ObservingEngine(ClosesItself):
    """A component in fp32 as an engine that watches itself while a pipeline draws with it."""

    def __init__(
        self,
        weights: OnnxWeights,
        nodes: Sequence[QuantizableNode],
        spec: EngineSpec,
        observations: Observations,
        recorded: Sequence[int] = (),
        ranged: Sequence[str] = (),
    ) -> None:
        """Opens the observed graph; goes on with what ``observations`` hold.

        Args:
            weights: the graph.
            nodes: what is observed.
            spec: the component's tensors.
            observations: where it is kept.
            recorded: the runs, counted from 0, whose inputs are kept.
            ranged: tensors whose range alone is kept, over all channels.

        Raises:
            EngineError: ONNX Runtime refuses the graph.
        """
        self.spec = spec
        self.observations = observations
        self._outputs = list(spec.outputs)
        self._watched = observed_tensors(nodes)
        ranged = [name for name in dict.fromkeys(ranged) if name not in self._watched]
        self._session: Any = weights.session(observed_graph(weights, nodes, ranged))
        self._watched |= dict.fromkeys(ranged, 0)
        # How many samples a run supplies of each
        self._sampled = {name: fresh for name, fresh in self._watched.items() if fresh}
        self._recorded = frozenset(recorded)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component and keeps what it saw.

        Raises:
            EngineError: activations that are not finite.
        """
        self.spec.check(inputs)
        arrays = host_arrays(inputs)
        rng = np.random.default_rng((_SEED, self.observations.runs))
        of_frames = np.random.default_rng((_SEED, self.observations.runs, _IN_PICTURES)).integers(
            2**40, size=(WINDOWS, PLACES - _IN_PICTURES)
        )
        draws = {
            ROW_DRAWS: rng.integers(2**40, size=ROWS),
            # What only videos have is drawn apart: pictures are sampled where they were before there were videos
            WINDOW_DRAWS: np.concatenate([rng.integers(2**40, size=(WINDOWS, _IN_PICTURES)), of_frames], axis=1),
        }
        shares = self._shares(rng)
        extremes = [f"{name}.{kind}" for name in self._watched for kind in ("lowest", "highest")]
        names = [*self._outputs, *extremes, *(f"{name}.samples" for name in shares)]
        found = dict(zip(names, self._session.run(names, {**arrays, **draws}), strict=True))
        row = self._row(arrays)
        for name in self._watched:
            low, high = found[f"{name}.lowest"], found[f"{name}.highest"]
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise EngineError(
                    f"the tensor {name!r} became NaN or infinite while calibrating, expected finite numbers; "
                    "check the model, or give other prompts"
                )
            self.observations.tensors.setdefault(name, Observed()).widen(row, low, high)
        for name in self._sampled:
            self.observations.tensors[name].visits += 1
        for name, share in shares.items():
            self._keep(self.observations.tensors[name], found[f"{name}.samples"], share, rng)
        if self.observations.runs in self._recorded:
            self.observations.calls.append(self._cut(arrays))
        self.observations.runs += 1
        return {name: found[name] for name in self._outputs}

    def close(self) -> None:
        """Unmaps the weights."""
        self._session = None

    def _row(self, inputs: Mapping[str, Array]) -> int:
        timestep = inputs.get(_TIMESTEP)
        seen = self.observations
        return seen.runs % _TURNS if timestep is None else seen.row(float(timestep.flat[0]))

    def _cut(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One sample of the inputs, the conditional one where there are two, and of large latents a part."""
        cut = {}
        for name, array in inputs.items():
            last = array[-1:] if self.spec.inputs[name].shape[0] == BATCH else array
            cut[name] = np.array(last[..., :LARGEST_LATENTS, :LARGEST_LATENTS] if last.ndim > 3 else last)
        return cut

    def _shares(self, rng: np.random.Generator) -> dict[str, int]:
        """How many of this run's samples are kept, by tensor: as many as chance leaves of all that there were."""
        shares = {}
        for name, fresh in self._sampled.items():
            seen = self.observations.tensors.get(name)
            visits = seen.visits if seen is not None else 0
            share = fresh if visits < _RUNS else int(rng.hypergeometric(fresh, visits * fresh, _RUNS * fresh))
            if share:
                shares[name] = share
        return shares

    def _keep(self, seen: Observed, fresh: Array, share: int, rng: np.random.Generator) -> None:
        """Keeps so many of a run's samples, in the place of others where there are enough."""
        kept = np.concatenate([*seen.samples, rng.permutation(fresh)[:share]])
        dropped = max(len(kept) - _RUNS * len(fresh), 0)
        if dropped:
            kept = np.delete(kept, rng.permutation(len(kept) - share)[:dropped], axis=0)
        seen.samples = [kept]
