"""The options of commands that draw what a picture shows, without a prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.cli.drawing.drawing import GROUPED, Call, Drawing

ABOUT_PROMPTS = frozenset(GROUPED) | {
    "prompts",
    "textual_inversion",
    "prompt_2",
    "negative_prompt",
    "negative_prompt_2",
    "prompt_syntax",
    "long_prompt",
    "clip_skip",
    "wildcards",
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "aesthetic_score",
    "denoising_end",
}
"""Options of drawing that mean nothing to a model that reads no prompt."""


@dataclass(frozen=True, kw_only=True)
class SeenDrawing(Drawing):
    """The options of drawing, as far as they are not about prompts."""

    def draw_seen(self, bundle: Path, call: Call) -> None:
        """Draws ``count`` pictures with one opening, and writes each batch as soon as it is drawn.

        Args:
            bundle: the bundle's folder.
            call: draws a batch with a pipeline and keywords.

        Raises:
            LatentrtError: as ``Drawing.draw``.
        """
        from latentrt.cli.drawing.batches import Written, batches, pictures_at_once
        from latentrt.cli.outputs import Picture, output_paths

        self.check_count()
        pictures = [Picture(prompt="", seed=seed) for seed in self.seeds(self.count)]
        paths = output_paths(self.output, pictures, self.model_of(bundle), overwrite=self.overwrite)
        with self.ready(bundle, len(pictures)) as (pipe, options):
            at_once = pictures_at_once(pipe.manifest.profiles, (options["width"], options["height"]))
            with Written(paths, len(pictures), json=self.json) as written:
                self.draw_batches(pipe, batches(pictures, at_once), call, options, written.add)
        written.report()

    @contextmanager
    def ready(self, bundle: Path, count: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The bundle as a pipeline, and the keywords that ``count`` pictures are drawn with, LoRAs among them.

        Raises:
            LatentrtError: an option that cannot be read, or as ``latentrt.open`` does.
        """
        options = {name: value for name, value in self.options().items() if name not in GROUPED and value is not None}
        with self.opened(bundle) as pipe:
            options["sampler"] = self.sampler_of(pipe.manifest.defaults)
            if self.lora:
                from latentrt.cli.drawing.loras import load_loras, loras_of_pictures
                from latentrt.runtime.call.prompts.prompt_set import prompt_set_without_texts

                prompts = prompt_set_without_texts(count)
                _, options["loras"] = loras_of_pictures(pipe, prompts, load_loras(pipe, self.lora))
            yield pipe, {"width": None, "height": None, **options}

    @staticmethod
    def model_of(bundle: Path) -> str:
        """How the names of files call the model."""
        return bundle.absolute().name.removesuffix(".bundle")
