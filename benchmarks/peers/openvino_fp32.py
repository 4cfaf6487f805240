"""OpenVINO through optimum-intel: diffusers' pipeline around models that OpenVINO compiles for the shapes at hand.

Static shapes are its own advice, and draw faster than those that it takes as they come.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.older_names import with_older_names
from latentrt.benchmarks.peers.sampler import with_sampler
from latentrt.benchmarks.peers.stage_watch import StageWatch


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint with weights in fp32; otherwise those of large models would be halved or quantized."""
    from optimum.intel import OVStableDiffusionPipeline

    with with_older_names(checkpoint, folder) as older:
        pipe = OVStableDiffusionPipeline.from_pretrained(
            older, export=True, compile=False, load_in_8bit=False, safety_checker=None
        )
        pipe.save_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """All that the shapes of a draw's tensors depend on."""

    batch: int
    height: int
    width: int
    guided: bool


def shape_of(request: Mapping[str, Any]) -> Shape:
    """Of a draw."""
    return Shape(
        batch=len(request["prompts"]),
        height=request["height"],
        width=request["width"],
        guided=request["guidance"] > 1,
    )


def _with_batch(model: Any, batch: int) -> dict[Any, Any]:
    """The shapes of a model's inputs with so many samples; a timestep is one for all."""
    shapes = {tensor: tensor.get_partial_shape() for tensor in model.inputs}
    for tensor, shape in shapes.items():
        if tensor.get_any_name() != "timestep":
            shape[0] = batch
    return shapes


class Contender:
    """An exported checkpoint."""

    # Computed in float32, as the others do; where the processor has bfloat16 the default would be that
    settings: Mapping[str, str] = {"INFERENCE_PRECISION_HINT": "f32"}
    precision = "fp32"

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Opens the exported pipeline and compiles it for the first draw that ``options`` announce."""
        from optimum.intel import OVStableDiffusionPipeline

        threads = {"INFERENCE_NUM_THREADS": str(options["threads"])} if options.get("threads") else {}
        self._pipe = OVStableDiffusionPipeline.from_pretrained(
            model, compile=False, ov_config={**self.settings, **threads}, safety_checker=None
        )
        self._compile(shape_of(options["first"]))
        self._watch = StageWatch(with_sampler(self._pipe))

    def versions(self) -> Mapping[str, str]:
        """Of the libraries."""
        from importlib.metadata import version

        names = ("optimum-intel", "openvino", "nncf", "diffusers", "transformers", "torch")
        return {**{name: version(name) for name in names}, "precision": self.precision, **self.settings}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws; compiles anew, outside of what is timed, where the shapes are others than before."""
        shape = shape_of(request)
        if shape != self._shape:
            self._compile(shape)
        return self._watch.draw(request, output)

    def _compile(self, shape: Shape) -> None:
        """optimum's own ``reshape`` takes guidance for granted, and decodes the pictures of a batch one by one."""
        pipe = self._pipe
        pipe.reshape(batch_size=shape.batch, height=shape.height, width=shape.width, num_images_per_prompt=1)
        if not shape.guided:
            pipe.unet.model.reshape(_with_batch(pipe.unet.model, shape.batch))
        pipe.vae_decoder.model.reshape(_with_batch(pipe.vae_decoder.model, shape.batch))
        for part in (pipe.text_encoder, pipe.unet, pipe.vae_decoder):
            part.compile()
        self._shape = shape
