"""optimum-onnx: diffusers' pipeline around ONNX Runtime's CPU provider, from its own export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.older_names import export
from latentrt.benchmarks.peers.stage_watch import StageWatch


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint."""
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    export(ORTStableDiffusionPipeline, checkpoint, folder)


class Adapter(StageWatch):
    """An exported checkpoint."""

    libraries = ("optimum-onnx", "onnxruntime", "diffusers", "transformers", "torch")

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Opens the exported pipeline."""
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTStableDiffusionPipeline

        session = SessionOptions()
        session.intra_op_num_threads = options.get("threads") or 0
        self.watch(
            ORTStableDiffusionPipeline.from_pretrained(
                model, provider="CPUExecutionProvider", session_options=session, safety_checker=None
            )
        )
