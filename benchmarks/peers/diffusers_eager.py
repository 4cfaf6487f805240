"""diffusers as it comes: PyTorch, eager, fp32. The reference of the quality figures."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from latentrt.benchmarks.peers.stage_watch import StageWatch


class Adapter(StageWatch):
    """A checkpoint in diffusers layout."""

    libraries = ("diffusers", "torch", "transformers")

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Loads the pipeline in fp32."""
        if options.get("threads"):
            torch.set_num_threads(options["threads"])
        self.watch(self.pipeline(model))

    def pipeline(self, model: str) -> Any:
        """The pipeline, ready; without a safety checker, which no contender has."""
        return diffusers.DiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
