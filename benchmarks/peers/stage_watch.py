"""What the adapters of diffusers and of pipelines made after it share: they draw alike, and tell stage times."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.benchmarks.peers.output import save
from latentrt.benchmarks.peers.registry import EULER, SAMPLER


class StageWatch:
    """Draws by DPM++ 2M on Karras's sigmas, and times text encoding, every step, the U-Net, and decoding.

    A draw may name another sampler. The U-Net is timed around ``__call__`` from a class laid over its own, so that what
    ``torch.compile`` compiles stays as it was.
    """

    libraries: tuple[str, ...]
    settings: Mapping[str, str] = {}

    def watch(self, pipe: Any) -> None:
        """Takes the pipeline that draws."""
        self._plain = pipe.scheduler.config
        if hasattr(pipe, "set_progress_bar_config"):
            pipe.set_progress_bar_config(disable=True)
        pipe.encode_prompt = self._timed("encode", pipe.encode_prompt)
        pipe.vae.decode = self._timed("decode", pipe.vae.decode)
        inner = type(pipe.unet)
        self.unet: Callable[..., Any] = inner.__call__
        timed = self._timed("unet", lambda *arguments, **keywords: self.unet(*arguments, **keywords))
        pipe.unet.__class__ = type(inner.__name__, (inner,), {"__call__": lambda *a, **k: timed(*a, **k)})
        self._pipe = pipe
        self._calls: dict[str, list[tuple[float, float]]] = {}

    def _timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            begin = perf_counter()
            try:
                return work(*arguments, **keywords)
            finally:
                self._calls.setdefault(stage, []).append((begin, perf_counter()))

        return run

    def versions(self) -> Mapping[str, str]:
        """Of the libraries, and what they were told."""
        return {**{name: version(name) for name in self.libraries}, **self.settings}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """As ``worker.Adapter``."""
        import torch

        self._calls.clear()
        marks: list[float] = []
        last: list[Any] = []

        def mark(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            marks.append(perf_counter())
            last[:] = [tensors["latents"]]
            return {}

        self._pipe.scheduler = _scheduler(request.get("sampler", SAMPLER), self._plain)
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
        save(output, pixels, last[0].float())  # NumPy has no bfloat16
        encoded = self._calls["encode"][-1][1]
        seconds = {stage: [end - start for start, end in calls] for stage, calls in self._calls.items()}
        return {
            "total": total,
            "encode": sum(seconds["encode"]),
            "denoise": marks[-1] - encoded,
            "decode": sum(seconds["decode"]),
            "unet": seconds["unet"],
            "steps": [after - before for before, after in zip([encoded, *marks], marks, strict=False)],
        }


def _scheduler(sampler: str, config: Any) -> Any:
    """diffusers' scheduler of a sampler, for the model whose own has this configuration."""
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    if sampler == EULER:
        return EulerDiscreteScheduler.from_config(config)
    return DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
