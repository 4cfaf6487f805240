"""The largest numbers inside a torch module while it runs: what fp16 could not hold is found before it is built."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

import torch

from latentrt.engines.errors import ParityError
from latentrt.engines.spec import Array
from latentrt.export.half import LARGEST
from latentrt.export.islands import Island

# Real latents stay within about five deviations; strong guidance leaves that for a step or two
_EXTREME = 4.0
_STRETCHED = {"unet": "sample", "vae_decoder": "latent_sample"}


class ActivationRanges:
    """Remembers the largest magnitude of every module's output while it is entered."""

    def __init__(self) -> None:
        self._largest: WeakKeyDictionary[torch.nn.Module, float] = WeakKeyDictionary()

    def watching(self) -> AbstractContextManager[None]:
        """A context in which every module that runs is watched; do not trace in it."""

        @contextmanager
        def watch() -> Any:
            hook = torch.nn.modules.module.register_module_forward_hook(self._see)
            try:
                yield
            finally:
                hook.remove()

        return watch()

    def _see(self, module: torch.nn.Module, _: Any, output: Any) -> None:
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                largest = float(torch.nan_to_num(tensor.abs().amax(), nan=float("inf")))
                self._largest[module] = max(self._largest.get(module, 0.0), largest)

    def check(self, component: str, module: torch.nn.Module, islands: Sequence[Island]) -> None:
        """Refuses a component whose activations fp16 cannot hold outside of its islands.

        Raises:
            ParityError: naming the module where it begins, and how to build all the same.
        """
        kept = [island.scope for island in islands if not island.operators]
        over = [
            (name, self._largest[layer])
            for name, layer in module.named_modules()
            if self._largest.get(layer, 0.0) > LARGEST and not any(fnmatchcase(name, scope) for scope in kept)
        ]
        if over:
            # A module comes before those inside of it, and has their output: the last name is the innermost
            name, largest = next(
                (
                    pair
                    for pair in over
                    if not any(
                        other.startswith(f"{pair[0]}." if pair[0] else pair[0]) and other != pair[0]
                        for other, _ in over
                    )
                ),
                over[0],
            )
            raise ParityError(
                f"{component} cannot be fp16: {name or 'its output'} reaches {largest:.3g}, expected at most "
                f"{LARGEST:.0f}; keep it in fp32 with --fp32 {component}"
            )


def extreme_inputs(component: str, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """Inputs as extreme as a run can bring them, from real ones; None where there is nothing to stretch."""
    name = _STRETCHED.get(component)
    return None if name is None else {**inputs, name: inputs[name] * _EXTREME}
