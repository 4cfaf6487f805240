"""diffusers as it comes: PyTorch, eager, fp32. The reference of the quality figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from latentrt.benchmarks.peers.sampler import with_sampler
from latentrt.benchmarks.peers.stage_watch import StageWatch


class Contender:
    """A checkpoint in diffusers layout."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Loads the pipeline in fp32."""
        if options.get("threads"):
            torch.set_num_threads(options["threads"])
        self._watch = StageWatch(self.pipeline(model))

    def pipeline(self, model: str) -> Any:
        """The pipeline, ready; without a safety checker, which no contender has."""
        pipe = diffusers.DiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
        return with_sampler(pipe)

    def versions(self) -> Mapping[str, str]:
        """Of the libraries."""
        named = {"diffusers": diffusers, "torch": torch, "transformers": transformers}
        return {**{name: str(module.__version__) for name, module in named.items()}, "precision": "fp32"}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws."""
        return self._watch.draw(request, output)
