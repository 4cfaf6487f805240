"""Streamed pictures through OpenAI's client."""

import asyncio
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from openai import BadRequestError
from openai_answers import picture_of, png_bytes, same
from PIL import Image

from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.jobs.job import Job

LONG = 60.0  # seconds after which a test that waits has failed


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Jobs wait after their fourth and eighth step until this is set: until somebody has read the partial picture."""
    event, stepped = Event(), Job.stepped

    def waiting(job: Job, step: int, steps: int) -> None:
        stepped(job, step, steps)
        if step in (4, 8):
            event.wait(LONG)
            event.clear()

    monkeypatch.setattr(Job, "stepped", waiting)
    yield event
    event.set()


def test_partial_pictures_come_before_the_picture(served: Any, tiny_pipe: Pipeline, read: Event) -> None:
    """Previews of the size asked for, spread over the steps, then the pipeline's pictures; all fields are there."""
    settings = {"num_inference_steps": 12, "seed": [8, 3]}
    events = []
    for event in served.client().images.generate(
        prompt="a cat", size="48x32", n=2, stream=True, partial_images=2, extra_body=settings
    ):
        events.append(event)
        if event.type == "image_generation.partial_image" and event.index == 1:
            read.set()
    previews: dict[int, list[Image.Image]] = {}

    def look(pipe: Pipeline, step: int, timestep: float, tensors: dict[str, Any]) -> None:
        previews[step + 1] = [
            preview.resize((48, 32), Image.Resampling.BICUBIC) for preview in pipe.preview(tensors["denoised"])
        ]

    drawn = tiny_pipe(
        "a cat",
        width=48,
        height=32,
        num_images_per_prompt=2,
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["denoised"],
        **settings,
    )
    partial, completed = events[:4], events[4:]
    assert [(event.partial_image_index, event.index) for event in partial] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(event.type, event.seed) for event in completed] == [
        ("image_generation.completed", 8),
        ("image_generation.completed", 3),
    ]
    for event, image in zip(events, (*previews[4], *previews[8], *drawn.images), strict=True):
        assert same(picture_of(event.b64_json), image)
        assert (event.size, event.output_format, event.quality) == ("48x32", "png", "auto")
        assert set(type(event).model_fields) - set(event.model_fields_set) <= {"safety_identifier"}
    assert all(event.usage.total_tokens == 0 for event in completed)


def test_edits_stream_under_their_own_names(served: Any) -> None:
    """For asyncio, too; without partial pictures there is one event per picture."""

    async def names() -> list[tuple[str, int]]:
        async with served.async_client() as client:
            stream = await client.images.edit(
                image=png_bytes(), prompt="a cat", n=2, stream=True, extra_body={"steps": 2, "seed": 1}
            )
            return [(event.type, event.seed) async for event in stream]

    assert asyncio.run(names()) == [("image_edit.completed", 1), ("image_edit.completed", 2)]


def test_what_is_refused_has_a_status_also_in_a_stream(served: Any) -> None:
    """Even what only the pipeline knows."""
    before = served.requests
    with pytest.raises(BadRequestError, match="sampler"):
        served.client().images.generate(prompt="a cat", stream=True, extra_body={"sampler": "nothing"})
    assert served.requests == before + 1
