"""OpenVINO through optimum-intel: diffusers' pipeline around models that OpenVINO compiles as they are opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.older_names import with_older_names
from latentrt.benchmarks.peers.sampler import with_sampler
from latentrt.benchmarks.peers.stage_watch import StageWatch


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint with weights in fp32; otherwise those of large models would be halved or quantized."""
    from optimum.intel import OVStableDiffusionPipeline

    with with_older_names(checkpoint, folder) as older:
        pipe = OVStableDiffusionPipeline.from_pretrained(older, export=True, compile=False, load_in_8bit=False)
        pipe.save_pretrained(folder)


class Contender:
    """An exported checkpoint."""

    # Computed in float32, as the others do; where the processor has bfloat16 the default would be that
    settings: Mapping[str, str] = {"INFERENCE_PRECISION_HINT": "f32"}
    precision = "fp32"

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Opens and compiles the exported pipeline."""
        from optimum.intel import OVStableDiffusionPipeline

        threads = {"INFERENCE_NUM_THREADS": str(options["threads"])} if options.get("threads") else {}
        pipe = OVStableDiffusionPipeline.from_pretrained(model, ov_config={**self.settings, **threads})
        self._watch = StageWatch(with_sampler(pipe))

    def versions(self) -> Mapping[str, str]:
        """Of the libraries."""
        from importlib.metadata import version

        names = ("optimum-intel", "openvino", "nncf", "diffusers", "transformers", "torch")
        return {**{name: version(name) for name in names}, "precision": self.precision, **self.settings}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws."""
        return self._watch.draw(request, output)
