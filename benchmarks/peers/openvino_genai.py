"""OpenVINO GenAI, the C++ pipelines that need no torch. Beside a server it draws one picture after the other.

Not one of the peers of ``latentrt bench``: of the samplers drawn with there it has none.
"""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.benchmarks.peers.openvino_fp32 import FLOAT32
from latentrt.benchmarks.peers.openvino_fp32 import prepare as export_parts
from latentrt.benchmarks.peers.output import save

_TOKENIZER = "openvino_tokenizer.xml"


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports the checkpoint, and its tokenizer as a model."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    export_parts(checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    openvino.save_model(convert_tokenizer(tokenizer), folder / "tokenizer" / _TOKENIZER)


class Adapter:
    """A pipeline for each size, compiled for it as its own advice is; one call at a time."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Compiles for all ``options['sizes']`` with guidance."""
        threads = {"INFERENCE_NUM_THREADS": options["threads"]} if options.get("threads") else {}
        self._pipes = {(width, height): _compiled(model, width, height, threads) for width, height in options["sizes"]}

    def versions(self) -> Mapping[str, str]:
        """Of its packages, and how they compute."""
        from importlib.metadata import version

        return {**{name: version(name) for name in ("openvino-genai", "openvino")}, "precision": "fp32", **FLOAT32}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws one picture after the other, by Euler; its noise is that of C++'s generator."""
        import numpy as np

        pixels = []
        begin = perf_counter()
        for prompt, seed in zip(request["prompts"], request["seeds"], strict=True):
            tensor = self._pipes[request["width"], request["height"]].generate(
                prompt,
                num_inference_steps=request["steps"],
                guidance_scale=request["guidance"],
                width=request["width"],
                height=request["height"],
                rng_seed=seed,
            )
            pixels.append(np.array(tensor.data[0], np.float32) / 255)
        total = perf_counter() - begin
        save(output, np.stack(pixels), None)
        return {"total": total}


def _compiled(model: str, width: int, height: int, threads: Mapping[str, Any]) -> Any:
    import openvino_genai

    pipe = openvino_genai.Text2ImagePipeline(model)
    kind = openvino_genai.Scheduler.Type.EULER_DISCRETE
    pipe.set_scheduler(
        openvino_genai.Scheduler.from_config(str(Path(model) / "scheduler" / "scheduler_config.json"), kind)
    )
    guided = 7.5
    pipe.reshape(1, height, width, guided)
    pipe.compile("CPU", **FLOAT32, **threads)
    return pipe
