"""Stage times of a pipeline that has diffusers' attributes: text encoding, every step, the U-Net, decoding."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.benchmarks.peers.output import save


class StageWatch:
    """Draws with a pipeline of diffusers, or one made after it, and times what it passes through.

    The U-Net is timed around ``__call__`` from a class laid over its own, so that what ``torch.compile`` compiles
    stays as it was.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._seconds: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._unet_calls: list[float] = []
        if hasattr(pipe, "set_progress_bar_config"):
            pipe.set_progress_bar_config(disable=True)
        pipe.encode_prompt = self._timed("encode", pipe.encode_prompt)
        pipe.vae.decode = self._timed("decode", pipe.vae.decode)
        inner = type(pipe.unet)
        timed = self._timed("unet", inner.__call__)
        pipe.unet.__class__ = type(inner.__name__, (inner,), {"__call__": lambda *a, **k: timed(*a, **k)})

    def _timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            begin = perf_counter()
            try:
                return work(*arguments, **keywords)
            finally:
                self._ends[stage] = perf_counter()
                seconds = self._ends[stage] - begin
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
                if stage == "unet":
                    self._unet_calls.append(seconds)

        return run

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """As ``worker.Adapter``."""
        import torch

        self._seconds, self._ends, self._unet_calls = {}, {}, []
        marks: list[float] = []
        last: list[Any] = []

        def mark(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            marks.append(perf_counter())
            last[:] = [tensors["latents"]]
            return {}

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in request["seeds"]]
        begin = perf_counter()
        pixels = self._pipe(
            list(request["prompts"]),
            generator=generators,
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance"],
            width=request["width"],
            height=request["height"],
            output_type="np",
            callback_on_step_end=mark,
        ).images
        total = perf_counter() - begin
        encoded = self._ends["encode"]
        save(output, pixels, last[0])
        return {
            "total": total,
            **{stage: seconds for stage, seconds in self._seconds.items() if stage != "unet"},
            "unet": self._unet_calls,
            "denoise": marks[-1] - encoded,
            "steps": [after - before for before, after in zip([encoded, *marks], marks, strict=False)],
        }
