"""optimum-onnx: diffusers' pipeline around ONNX Runtime's CPU provider, from its own export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.older_names import with_older_names
from latentrt.benchmarks.peers.sampler import with_sampler
from latentrt.benchmarks.peers.stage_watch import StageWatch


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint."""
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    with with_older_names(checkpoint, folder) as older:
        pipe = ORTStableDiffusionPipeline.from_pretrained(older, export=True, safety_checker=None)
        pipe.save_pretrained(folder)


class Contender:
    """An exported checkpoint."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Opens the exported pipeline."""
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTStableDiffusionPipeline

        session = SessionOptions()
        session.intra_op_num_threads = options.get("threads") or 0
        pipe = ORTStableDiffusionPipeline.from_pretrained(
            model, provider="CPUExecutionProvider", session_options=session, safety_checker=None
        )
        self._watch = StageWatch(with_sampler(pipe))

    def versions(self) -> Mapping[str, str]:
        """Of the libraries."""
        from importlib.metadata import version

        names = ("optimum-onnx", "onnxruntime", "diffusers", "transformers", "torch")
        return {**{name: version(name) for name in names}, "precision": "fp32"}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws."""
        return self._watch.draw(request, output)
