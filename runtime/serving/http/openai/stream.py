"""Pictures as server-sent events: partial ones from previews, then the finished ones."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from starlette.requests import Request

from latentrt.runtime.call.result import Result
from latentrt.runtime.serving.http.errors import Refusal, RefusedError
from latentrt.runtime.serving.http.openai.answer import Packing, Usage, finished_pictures, size_text
from latentrt.runtime.serving.http.openai.partials import partial_steps
from latentrt.runtime.serving.http.openai.refusals import in_openai_numbers
from latentrt.runtime.serving.http.streams import COMMENT, event_text
from latentrt.runtime.serving.http.waiting import disconnect_of, ends_with, finished, in_thread, refusal_of, steps_of
from latentrt.runtime.serving.jobs.job import Job

_UNDECIDED = 5.0  # seconds for which a refusal can still be a status instead of an event


@dataclass(frozen=True, kw_only=True)
class PictureStream:
    """The events of one job.

    Attributes:
        request: whose client reads them.
        job: what is drawn.
        kind: the first word of the events' names.
        packing: the form of the pictures.
        partial_images: how often there are pictures on the way; each time one of every picture of the job.
        size: of the pictures in pixels; None: partial ones are as small as the previews.
        keep_alive: seconds after which a comment is sent where there is nothing to tell.
    """

    request: Request
    job: Job
    kind: Literal["image_generation", "image_edit"]
    packing: Packing
    partial_images: int
    size: tuple[int, int] | None
    keep_alive: float

    async def begun(self) -> AsyncGenerator[bytes, None]:
        """The events from the first one on; what is refused until the first step is raised instead of told.

        Raises:
            RefusedError: the job failed, or the client has gone.
        """
        events = self._events()
        async with disconnect_of(self.request) as gone:
            first = asyncio.ensure_future(anext(events))
            await asyncio.wait((gone, first), return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                first.cancel()
                await asyncio.wait((first,))
                raise RefusedError(Refusal(status=410, message="the client has gone", code="disconnected"))
        first.result()
        return events

    async def _events(self) -> AsyncGenerator[bytes, None]:
        """Nothing as soon as the answer may begin, then the events. Who stops to read them cancels the job."""
        job = self.job
        with ends_with(job):
            await self._first_step()
            yield b""
            passed = sent = 0
            async for changed in steps_of(job, every=self.keep_alive):
                if not changed:
                    yield COMMENT
                due = sum(step <= job.step for step in partial_steps(job.steps, self.partial_images))
                if due > passed and not job.state.final:
                    passed = due  # where encoding takes longer than steps, the last preview alone is sent
                    async for event in self._partial(sent):
                        yield event
                    sent += 1
            if job.result is None:
                yield event_text({"type": "error", **in_openai_numbers(refusal_of(job)).openai_form}, "error")
                return
            async for event in self._completed(job.result):
                yield event
            self.request.app.state.fetched.add(job)

    async def _first_step(self) -> None:
        """Waits for it, for the end, or for as long as nothing need be told.

        Raises:
            RefusedError: the job ended without pictures.
        """
        job, until = self.job, asyncio.get_running_loop().time() + _UNDECIDED
        async for _ in steps_of(job, every=_UNDECIDED):
            if job.step or asyncio.get_running_loop().time() >= until:
                return
        finished(job)

    async def _partial(self, index: int) -> AsyncIterator[bytes]:
        for place, preview in enumerate(self.job.preview()):
            whole = preview if self.size is None else preview.resize(self.size, Image.Resampling.BICUBIC)
            told = {"partial_image_index": index, "index": place}
            yield await in_thread(self.request, self._picture, "partial_image", whole, None, told)

    async def _completed(self, result: Result) -> AsyncIterator[bytes]:
        for place, (image, parameters, seed) in enumerate(finished_pictures(result)):
            told = {"usage": Usage().model_dump(), "index": place, "seed": seed}
            yield await in_thread(self.request, self._picture, "completed", image, parameters, told)

    def _picture(self, what: str, image: Image.Image, parameters: str | None, told: Mapping[str, Any]) -> bytes:
        """One event; it takes as long as compressing the picture."""
        name = f"{self.kind}.{what}"
        return event_text(
            {
                "type": name,
                "b64_json": self.packing.text(image, parameters),
                "created_at": int(time.time()),
                "size": size_text(image),
                "quality": "auto",
                "background": "opaque",
                "output_format": self.packing.format,
                **told,
            },
            name,
        )
