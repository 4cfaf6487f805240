"""OpenVINO GenAI, the C++ pipelines that need no torch, one picture after the other.

It has no DPM++ 2M and none of Karras's sigmas, so it draws by Euler. Its noise is C++'s, unless it is given.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.benchmarks.peers.arithmetic.openvino_nodes import arithmetic_of_compiled
from latentrt.benchmarks.peers.openvino_optimum import prepare as export_parts
from latentrt.benchmarks.peers.openvino_optimum import properties
from latentrt.benchmarks.peers.output import save

_TOKENIZER = "openvino_tokenizer.xml"
_MICROSECONDS, _MILLISECONDS = 1e-6, 1e-3


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint, and its tokenizer as a model."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    export_parts(checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    openvino.save_model(convert_tokenizer(tokenizer), folder / "tokenizer" / _TOKENIZER)


class Adapter:
    """A pipeline for each size and guidance, compiled for it as its own advice is; one call at a time."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Compiles for all ``options['sizes']`` with guidance, or for the first draw that ``options`` announce."""
        self._model, self._properties = model, properties(options)
        self._pipes: dict[tuple[int, int, bool], Any] = {}
        first = [options["first"]] if "first" in options else []
        sizes = [{"width": width, "height": height, "guidance": 7.5} for width, height in options.get("sizes", ())]
        for request in (*first, *sizes):
            self._pipe(request)

    def _pipe(self, request: Mapping[str, Any]) -> Any:
        """The pipeline of a draw's size, compiled when it is first asked for."""
        shapes = request["width"], request["height"], request["guidance"] > 1
        if shapes not in self._pipes:
            self._pipes[shapes] = _compiled(self._model, *shapes, self._properties)
        return self._pipes[shapes]

    def versions(self) -> Mapping[str, str]:
        """Of its packages, and what they were told."""
        from importlib.metadata import version

        return {**{name: version(name) for name in ("openvino-genai", "openvino")}, **self._properties}

    def arithmetic(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """It keeps what it compiled to itself: of the same U-Net, compiled for the same shapes by the same OpenVINO."""
        import openvino

        unet = openvino.Core().read_model(Path(self._model) / "unet" / "openvino_model.xml")
        batch = 2 if request["guidance"] > 1 else 1
        factor = 2 ** (len(_blocks(self._model)) - 1)
        sizes = {2: request["height"] // factor, 3: request["width"] // factor}
        shapes = {tensor: tensor.get_partial_shape() for tensor in unet.inputs}
        for tensor, shape in shapes.items():
            if tensor.get_any_name() != "timestep":
                shape[0] = batch
            if tensor.get_any_name() == "sample":
                shape[2], shape[3] = sizes[2], sizes[3]
        unet.reshape(shapes)
        found = arithmetic_of_compiled(openvino.Core().compile_model(unet, "CPU", self._properties))
        return {**found, "source": f"{found['source']}, of a twin"}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws one picture after the other; ``noise`` names a file of the initial noise of each, (N, C, h, w)."""
        import numpy as np

        noise = np.load(request["noise"]) if request.get("noise") else [None] * len(request["prompts"])
        pipe = self._pipe(request)
        pixels = []
        begin = perf_counter()
        for prompt, seed, given in zip(request["prompts"], request["seeds"], noise, strict=True):
            tensor = pipe.generate(
                prompt,
                num_inference_steps=request["steps"],
                guidance_scale=request["guidance"],
                width=request["width"],
                height=request["height"],
                **({"rng_seed": seed} if given is None else {"generator": _given(given)}),
            )
            pixels.append(np.array(tensor.data[0], np.float32) / 255)
        total = perf_counter() - begin
        save(output, np.stack(pixels), None)
        return {"total": total, **(_stages(pipe.get_performance_metrics()) if len(pixels) == 1 else {})}


def _stages(told: Any) -> dict[str, Any]:
    """Seconds by stage, as the pipeline tells them of its latest picture."""
    steps = [step * _MICROSECONDS for step in told.raw_metrics.iteration_durations]
    return {
        "encode": sum(told.get_text_encoder_infer_duration().values()) * _MILLISECONDS,
        "denoise": sum(steps),
        "decode": told.get_vae_decoder_infer_duration() * _MILLISECONDS,
        "steps": steps,
        "unet": [call * _MICROSECONDS for call in told.raw_metrics.unet_inference_durations],
    }


def _given(noise: Any) -> Any:
    """A generator that gives this noise, once."""
    import openvino
    import openvino_genai

    class Given(openvino_genai.Generator):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def randn_tensor(self, shape: Any) -> Any:
            return openvino.Tensor(noise.reshape(list(shape)))

    return Given()


def _compiled(model: str, width: int, height: int, guided: bool, told: Mapping[str, str]) -> Any:
    import openvino_genai

    pipe = openvino_genai.Text2ImagePipeline(model)
    kind = openvino_genai.Scheduler.Type.EULER_DISCRETE
    pipe.set_scheduler(
        openvino_genai.Scheduler.from_config(str(Path(model) / "scheduler" / "scheduler_config.json"), kind)
    )
    pipe.reshape(1, height, width, 7.5 if guided else 1.0)
    pipe.compile("CPU", **told)
    return pipe


def _blocks(model: str) -> Any:
    return json.loads((Path(model) / "vae_decoder" / "config.json").read_text("utf-8"))["block_out_channels"]
