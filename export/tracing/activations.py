"""The largest numbers inside a torch module while it runs: what fp16 could not hold is found before it is built."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.errors import ParityError
from latentrt.engines.graphs.half import LARGEST
from latentrt.engines.graphs.islands import Island
from latentrt.engines.spec import Array

# Real latents stay within about five deviations; strong guidance leaves that for a step or two
_EXTREME = 4.0


class ActivationRanges:
    """Remembers the largest magnitude of every module's output, and of its attention's scores, while it is entered."""

    def __init__(self) -> None:
        self._largest: WeakKeyDictionary[torch.nn.Module, float] = WeakKeyDictionary()
        self._scores: WeakKeyDictionary[torch.nn.Module, float] = WeakKeyDictionary()
        self._running: list[torch.nn.Module] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A context in which every module that runs is watched; do not trace in it."""
        attention = torch.nn.functional.scaled_dot_product_attention

        def watched(query: torch.Tensor, key: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
            self._see_scores(query, key, named.get("scale"))
            result: torch.Tensor = attention(query, key, *others, **named)
            return result

        hooks = [
            torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _: self._running.append(module)),
            torch.nn.modules.module.register_module_forward_hook(self._see),
        ]
        torch.nn.functional.scaled_dot_product_attention = watched
        try:
            yield
        finally:
            torch.nn.functional.scaled_dot_product_attention = attention
            for hook in hooks:
                hook.remove()
            self._running.clear()

    def _see(self, module: torch.nn.Module, _: Any, output: Any) -> None:
        self._running.pop()
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self._largest[module] = max(self._largest.get(module, 0.0), _largest(tensor))

    def _see_scores(self, query: torch.Tensor, key: torch.Tensor, scale: float | None) -> None:
        """Scores as ONNX's Attention has them: of queries and keys that are scaled already."""
        scaled = query.flatten(0, -3) * (query.shape[-1] ** -0.5 if scale is None else scale)
        # One head at a time: all at once would take gigabytes
        largest = max(_largest(q @ k.T) for q, k in zip(scaled, key.flatten(0, -3), strict=True))
        module = self._running[-1]
        self._scores[module] = max(self._scores.get(module, 0.0), largest)

    def check(self, component: str, module: torch.nn.Module, islands: Sequence[Island]) -> None:
        """Refuses a component whose activations fp16 cannot hold outside of its islands.

        Raises:
            ParityError: naming the module where it begins, and how to build all the same.
        """
        over = []
        for name, layer in module.named_modules():
            for seen, operator, told in (
                (self._largest, "", ""),
                (self._scores, "Attention", ", in the scores of its attention,"),
            ):
                largest = seen.get(layer, 0.0)
                if largest > LARGEST and not any(island.holds(name, operator) for island in islands):
                    over.append((name, told, largest))
        if over:
            # A module comes before those inside of it, and has their output: the innermost of the first is named
            names = {name for name, _, _ in over}
            name, told, largest = next(
                one for one in over if not any(inner != one[0] and _inside(inner, one[0]) for inner in names)
            )
            raise ParityError(
                f"{component} cannot be fp16: {name or 'its output'}{told} reaches {largest:.3g}, expected at most "
                f"{LARGEST:.0f}; keep it in fp32 with --fp32 {component}, or build it in fp32 and find which of its "
                f"modules have to be with latentrt debug --component {component} --precision fp16 --suggest"
            )


def _inside(inner: str, outer: str) -> bool:
    """Whether one module is part of another, by their paths; the whole has the path ""."""
    return not outer or inner.startswith(f"{outer}.")


def _largest(tensor: torch.Tensor) -> float:
    return float(torch.nan_to_num(tensor.abs().amax(), nan=float("inf")))


def extreme_inputs(kind: ComponentKind, inputs: Mapping[str, Array], channels: int) -> dict[str, Array] | None:
    """Inputs as extreme as a run can bring them, from real ones; None where there is nothing to stretch.

    Only the first ``channels`` are latents of a run: the mask of an inpainting model and the picture's latents stay.
    """
    name = kind.row.stretched
    if name is None:
        return None
    stretched = inputs[name].copy()
    stretched[..., :channels, :, :] *= _EXTREME
    return {**inputs, name: stretched}
