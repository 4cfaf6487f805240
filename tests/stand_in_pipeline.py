"""A pipeline that draws nothing: a test says when it goes a step further."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.runtime.call.result import Result, Timings
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.serving.lanes.future import PictureFuture

SOON = 20.0  # seconds that nothing here takes


class _Followed(PictureFuture):
    """Says when the service listens to it: a test that went on before could end a job that has no future yet."""

    def __init__(self, steps: int, followed: Callable[[], None]) -> None:
        super().__init__(steps, lambda denoised: [Image.new("RGB", (4, 4), "teal")])
        self._followed = followed

    def add_done_callback(self, function: Callable[[Future[Result]], object]) -> None:
        """The last that a service does as it starts a job."""
        super().add_done_callback(function)
        self._followed()


class Drawing:
    """What was submitted. It takes as many steps as it is let, and is done after those it has."""

    def __init__(
        self, prompt: Any, keywords: Mapping[str, Any], steps: int, begun: "Callable[[Drawing], None]"
    ) -> None:
        """Waits for its first step; ``begun`` is called when its job knows of it."""
        self.prompt, self.keywords, self.steps = prompt, keywords, steps
        self.progress: Callable[[int, int], None] = keywords.get("progress") or (lambda step, steps: None)
        self.future = _Followed(steps, lambda: begun(self))
        self._orders: Queue[Exception | None] = Queue()

    def go(self, steps: int = 1) -> None:
        """Lets it take so many steps."""
        for _ in range(steps):
            self._orders.put(None)

    def finish(self) -> None:
        """Lets it take all."""
        self.go(self.steps)

    def fail(self, error: Exception) -> None:
        """Fails at its next step."""
        self._orders.put(error)

    def draw(self) -> Result:
        """All steps, each once it may."""
        for step in range(1, self.steps + 1):
            error = self._orders.get(timeout=SOON)
            if error is not None:
                raise error
            self.progress(step, self.steps)
            self.future.stepped(step, self.steps, np.zeros((1, 4, 4, 4), np.float32))
        return result_of(self)


def result_of(drawing: Drawing) -> Result:
    """Pictures of one colour, with their settings."""
    count, keywords = drawing.keywords.get("num_images_per_prompt", 1), drawing.keywords
    width, height, seed = keywords.get("width", 32), keywords.get("height", 32), keywords.get("seed", 0)
    metadata = tuple(
        PictureMetadata(
            prompt=drawing.prompt or "",
            negative_prompt=None,
            num_inference_steps=drawing.steps,
            guidance_scale=7.5,
            sampler="euler",
            sampler_label="Euler",
            seed=seed,
            batch_index=index,
            width=width,
            height=height,
            model="tiny",
        )
        for index in range(count)
    )
    timings = Timings(
        encode_prompt=0.001,
        encode_image=0.0,
        denoise=0.01,
        calls=(0.005,) * drawing.steps,
        unet_calls=drawing.steps,
        decode=0.002,
        total=0.02,
    )
    images = [Image.new("RGB", (width, height), "teal") for _ in range(count)]
    latents = np.zeros((count, 4, 4, 4), np.float32)
    return Result(images=images, latents=latents, seeds=(seed,) * count, timings=timings, metadata=metadata)


class StandInPipeline:
    """Has the manifest of a bundle. ``patient`` drawings wait for the test; others are done at once."""

    def __init__(self, manifest: BundleManifest) -> None:
        """Draws at once."""
        self.manifest, self.loras, self.patient, self.closed = manifest, (), False, False
        self.refuses: Exception | None = None
        self.shared_runs = {1: 3, 4: 2}
        self._drawings: Queue[Drawing] = Queue()
        self._all: list[Drawing] = []

    def __call__(self, path: Path) -> Any:
        """What opens a bundle: this pipeline."""
        return self

    def submit(self, prompt: Any = None, **keywords: Any) -> PictureFuture:
        """Begins in a thread of its own."""
        if self.refuses is not None:
            raise self.refuses
        drawing = Drawing(prompt, keywords, keywords.get("num_inference_steps", 3), self._drawings.put)
        if not self.patient:
            drawing.finish()
        self._all.append(drawing)
        Thread(target=drawing.future.draw, args=(drawing.draw,), daemon=True).start()
        return drawing.future

    def drawing(self) -> Drawing:
        """The next one that was submitted, once its job follows it."""
        return self._drawings.get(timeout=SOON)

    def let_go(self) -> None:
        """Lets all that was submitted take its steps, and what will be."""
        self.patient = False
        for drawing in self._all:
            drawing.finish()

    def close(self) -> None:
        """Nothing is open."""
        self.closed = True
