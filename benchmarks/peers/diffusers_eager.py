"""diffusers as it comes: PyTorch, eager, fp32. The reference of the quality figures."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from latentrt.benchmarks.peers.arithmetic.torch_trace import arithmetic_of_trace, traced
from latentrt.benchmarks.peers.stage_watch import StageWatch


class Adapter(StageWatch):
    """A checkpoint in diffusers layout."""

    libraries = ("diffusers", "torch", "transformers")
    dtype = torch.float32

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Loads the pipeline."""
        if options.get("threads"):
            torch.set_num_threads(options["threads"])
        self.watch(self.pipeline(model))

    def arithmetic(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """By a draw under the profiler, after one without that compiles what is to be compiled."""
        self.draw(request, None)
        whole, events = self.unet, list[dict[str, Any]]()

        def watched(*arguments: Any, **keywords: Any) -> Any:
            given, events[:] = traced(lambda: whole(*arguments, **keywords))
            return given

        self.unet = watched
        try:
            self.draw(request, None)
        finally:
            self.unet = whole
        return arithmetic_of_trace(events)

    def pipeline(self, model: str) -> Any:
        """The pipeline, ready; without a safety checker, which no contender has."""
        return diffusers.DiffusionPipeline.from_pretrained(model, torch_dtype=self.dtype, safety_checker=None)
