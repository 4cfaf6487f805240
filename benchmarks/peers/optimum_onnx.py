"""optimum-onnx: diffusers' pipeline around ONNX Runtime's CPU provider, from its own export."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.arithmetic.onnx_trace import arithmetic_of_trace
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
        """Opens the exported pipeline; ``trace`` begins the names of files that the profiler writes."""
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTStableDiffusionPipeline

        self._opened = model, options
        session = SessionOptions()
        session.intra_op_num_threads = options.get("threads") or 0
        if "trace" in options:
            session.enable_profiling, session.profile_file_prefix = True, options["trace"]
        self.watch(
            ORTStableDiffusionPipeline.from_pretrained(
                model, provider="CPUExecutionProvider", session_options=session, safety_checker=None
            )
        )

    def arithmetic(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """By a draw under the profiler, which only a session that opens can have; it has ended when this is done."""
        model, options = self._opened
        del self._pipe, self.unet  # there may be no memory for two
        with tempfile.TemporaryDirectory() as temporary:
            self.open(model, {**options, "trace": str(Path(temporary) / "trace")})
            self._opened = model, options
            self.draw(request, None)
            for part in (self._pipe.text_encoder, self._pipe.vae_decoder, self._pipe.vae_encoder):
                part.session.end_profiling()
            events = json.loads(Path(self._pipe.unet.session.end_profiling()).read_text("utf-8"))
        return arithmetic_of_trace(events)
