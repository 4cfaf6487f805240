"""latentrt itself: a bundle on one of its backends."""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import latentrt
from latentrt.benchmarks.peers.output import save


class Adapter:
    """A bundle; ``options`` may name ``backend`` and ``threads``."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Opens the bundle."""
        self._root, self._threads = Path(model), options.get("threads")
        self._pipe = latentrt.open(model, backend=options.get("backend", "auto"), threads=options.get("threads"))

    def arithmetic(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Of the U-Net's engine, opened once more; GPUs' builders do not tell."""
        from latentrt.benchmarks.peers.arithmetic.own_engine import arithmetic_of_engine

        return arithmetic_of_engine(self._root, self._pipe.backend, request, threads=self._threads)

    def versions(self) -> Mapping[str, str]:
        """latentrt, and what runs its engines."""
        from importlib.metadata import version

        from latentrt.engines.backends.registry import COMPILERS
        from latentrt.engines.precision import Backend

        backend = Backend(self._pipe.backend)
        maker = COMPILERS[backend]
        return {
            "latentrt": version("latentrt"),
            "backend": backend.value,
            maker.maker: maker.version(),
            "precision": self._pipe.manifest.precision.value,
        }

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws; the first step counts from the end of the text encoding."""
        marks: list[float] = []
        begin = perf_counter()
        result = self._pipe(
            list(request["prompts"]),
            seed=list(request["seeds"]),
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance"],
            width=request["width"],
            height=request["height"],
            sampler="dpmpp_2m_k",
            output_type="np",
            callback_on_step_end=lambda *_: marks.append(perf_counter()),
        )
        total = perf_counter() - begin
        timings = result.timings
        before = begin + timings.encode_image + timings.encode_prompt
        save(output, result.images, result.latents)
        return {
            "total": total,
            "encode": timings.encode_prompt,
            "denoise": timings.denoise,
            "unet": list(timings.calls),
            "decode": timings.decode,
            "steps": [after - mark for mark, after in zip([before, *marks], marks, strict=False)],
        }
