"""OpenVINO through optimum-intel: diffusers' pipeline around models that OpenVINO compiles for the shapes at hand.

Static shapes are its own advice, and draw faster than those that it takes as they come. Where the processor has
bfloat16, that is what it computes in unless it is told otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.arithmetic.openvino_nodes import arithmetic_of_compiled
from latentrt.benchmarks.peers.older_names import export
from latentrt.benchmarks.peers.stage_watch import StageWatch


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint with weights in fp32; otherwise those of large models would be halved or quantized."""
    from optimum.intel import OVStableDiffusionPipeline

    export(OVStableDiffusionPipeline, checkpoint, folder, compile=False, load_in_8bit=False)


class Adapter(StageWatch):
    """An exported checkpoint."""

    libraries = ("optimum-intel", "openvino", "nncf", "diffusers", "transformers", "torch")

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Opens the exported pipeline and compiles it for the first draw that ``options`` announce."""
        from optimum.intel import OVStableDiffusionPipeline

        self.settings = properties(options)
        pipe = OVStableDiffusionPipeline.from_pretrained(
            model, compile=False, ov_config=dict(self.settings), safety_checker=None
        )
        self._compile(pipe, options["first"])
        self.watch(pipe)

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws; compiles anew, outside of what is timed, where the shapes are others than before."""
        if _shapes(request) != self._shapes:
            self._compile(self._pipe, request)
        return super().draw(request, output)

    def arithmetic(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the U-Net as it was compiled."""
        return arithmetic_of_compiled(self._pipe.unet.request)

    def _compile(self, pipe: Any, request: Mapping[str, Any]) -> None:
        """optimum's own ``reshape`` takes guidance for granted, and decodes the pictures of a batch one by one."""
        self._shapes = batch, height, width, guided = _shapes(request)
        pipe.reshape(batch_size=batch, height=height, width=width, num_images_per_prompt=1)
        if not guided:
            pipe.unet.model.reshape(_with_batch(pipe.unet.model, batch))
        pipe.vae_decoder.model.reshape(_with_batch(pipe.vae_decoder.model, batch))
        for part in (pipe.text_encoder, pipe.unet, pipe.vae_decoder):
            part.compile()


def properties(options: Mapping[str, Any]) -> dict[str, str]:
    """What OpenVINO is told of ``options``: ``hint``, the type to compute in, and ``threads``; else it chooses."""
    names = {"hint": "INFERENCE_PRECISION_HINT", "threads": "INFERENCE_NUM_THREADS"}
    return {name: str(options[option]) for option, name in names.items() if options.get(option)}


def _shapes(request: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """All that the shapes of a draw's tensors depend on: batch, height, width, and whether it is guided."""
    return len(request["prompts"]), request["height"], request["width"], request["guidance"] > 1


def _with_batch(model: Any, batch: int) -> dict[Any, Any]:
    """The shapes of a model's inputs with so many samples; a timestep is one for all."""
    shapes = {tensor: tensor.get_partial_shape() for tensor in model.inputs}
    for tensor, shape in shapes.items():
        if tensor.get_any_name() != "timestep":
            shape[0] = batch
    return shapes
