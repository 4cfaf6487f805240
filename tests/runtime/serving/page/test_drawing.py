"""Pictures drawn on the page in Chromium."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_visits import SOON, Server, drawn, pixels, setting
from shared import filled_once

import latentrt
from latentrt.benchmarks.studies.page_picture import served
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service


def test_a_picture_from_prompt_to_download(visit: Callable[..., Any]) -> None:
    """Drawn by the keyboard, with a live preview and its progress; what is downloaded has the settings inside."""
    page = visit()
    page.fill("#prompt", "a cat (sitting)")
    page.fill("#seed", "5")
    page.press("#seed", "Control+Enter")
    image = drawn(page, 1)
    assert image.get_attribute("alt") == "a cat (sitting)"
    assert (setting(page, "Steps"), setting(page, "Seed"), setting(page, "Size")) == ("3", "5", "32x32")
    saved = pixels(page)
    assert saved.size == (32, 32)
    assert saved.text["parameters"].startswith("a cat (sitting)\nSteps: 3, ")  # type: ignore[attr-defined]
    assert page.locator("#live").inner_text() == "Done: 1 picture"


@pytest.mark.slow
def test_previews_the_queue_and_cancelling(visit: Callable[..., Any], server: Server) -> None:
    """What is drawn shows its step; what waits says so; Esc ends the one, a button the other, and nothing is left."""
    page = visit()
    with server.gate.shut():
        page.fill("#num_images_per_prompt", "2")
        page.press("#prompt", "Control+Enter")
        page.locator("#pictures canvas[data-url]").nth(1).wait_for()
        page.locator("#progress-text", has_text=re.compile(r"^Step 2 of 3")).wait_for()
        assert page.evaluate("document.querySelector('#progress').value") == 2
        assert page.title() == "67 % · latentrt"
        page.fill("#prompt", "the second")
        page.click("#draw")
        waiting = page.locator("#queue li", has_text="the second")
        waiting.get_by_text("Waits: it is next").wait_for()
        waiting.get_by_role("button", name="Cancel the second").click()
        waiting.wait_for(state="detached")
        page.keyboard.press("Escape")
        page.get_by_text("Being cancelled").first.wait_for()
    page.locator("#cancel").wait_for(state="hidden")
    page.locator("#empty").wait_for()
    assert page.locator("#gallery li").count() == 0
    assert page.locator("#live").inner_text() == "Cancelled"
    assert [str(job.state) for job in server.service.jobs[-2:]] == ["cancelled", "cancelled"]


@pytest.mark.slow
def test_a_long_queue_keeps_its_order_and_is_drawn_to_the_end(visit: Callable[..., Any], server: Server) -> None:
    """More than a browser has connections; those that wait are told how many are before them, also as it shrinks."""
    page = visit()

    def places() -> list[str]:
        return list(page.locator("#queue .state").all_inner_texts()[1:])

    with server.gate.shut():
        for index in range(8):
            page.fill("#prompt", f"number {index}")
            page.click("#draw")
            page.locator("#draw:not([aria-busy])").wait_for()
        page.locator("#queue li").nth(7).wait_for()
        page.locator("#progress-text", has_text="Step 2 of 3").wait_for()
        page.get_by_text("Waits: it is next").wait_for()
        page.get_by_role("button", name="Cancel number 1").click()
        page.locator("#queue li", has_text="number 1").wait_for(state="detached")
        page.locator("#queue li", has_text="number 7").get_by_text("Waits: 5 before it").wait_for()
        page.locator("#queue li", has_text="number 2").get_by_text("Waits: it is next").wait_for()
        assert places() == ["Waits: it is next", *(f"Waits: {count} before it" for count in range(1, 6))]
    drawn(page, 7)
    page.locator("#queue-section").wait_for(state="hidden")
    shown = page.locator("#gallery img").evaluate_all("images => images.map((image) => image.alt.split(',')[0])")
    assert shown == [f"number {index}" for index in (7, 6, 5, 4, 3, 2, 0)]


@pytest.mark.slow
def test_each_picture_of_several_can_be_drawn_alone(visit: Callable[..., Any]) -> None:
    """Each has a seed of its own, which "Keep" puts into the form and the die takes out."""
    page = visit()
    page.fill("#seed", "7")
    page.fill("#num_images_per_prompt", "3")
    page.click("#draw")
    drawn(page, 3)
    page.locator("#gallery button").nth(2).click()
    assert setting(page, "Seed") == "9"
    third = pixels(page)
    page.click("#random-seed")
    assert page.input_value("#seed") == ""
    page.click("#keep-seed")
    assert page.input_value("#seed") == "9"
    page.fill("#num_images_per_prompt", "1")
    page.click("#draw")
    drawn(page, 4)
    difference = max(abs(a - b) for a, b in zip(pixels(page).tobytes(), third.tobytes(), strict=True))
    assert difference <= 1  # engines round otherwise in a batch


@pytest.mark.slow
def test_the_hires_fix_enlarges_to_a_size_that_there_is(
    visit: Callable[..., Any], tiny_checkpoint: Path, shared: Path
) -> None:
    """Sizes of the same proportions are offered; where there is none, a sentence says so."""
    bundle = filled_once(
        shared / "hires.bundle",
        lambda folder: latentrt.build(tiny_checkpoint, folder, profiles=["32x32", "64x64", "48x32"]),
    )
    service = Service(Models(Catalog(models={"hires": bundle}), latentrt.open))
    with served(service, Settings()) as url:
        page = visit(url=url)
        page.click("#hires-section summary")
        page.select_option("#size", "48x32")
        page.get_by_text("This model has no larger size of these proportions.").wait_for()
        page.select_option("#size", "32x32")
        assert page.locator("#hires\\.scale").inner_text().strip() == "64 × 64"
        page.select_option("#hires\\.upscaler", "lanczos")
        page.fill("#hires\\.steps", "2")
        page.click("#draw")
        drawn(page, 1)
        assert (setting(page, "Hires upscale"), setting(page, "Hires steps")) == ("2", "2")
        assert pixels(page).size == (64, 64)
        page.click("#hires-section summary")
        page.click("#again")
        assert page.locator("#hires\\.steps").is_visible()
    service.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_inference_steps", "0", "Got 0 steps"),
        ("num_inference_steps", "201", "expected at most 200"),
        ("num_images_per_prompt", "5", "expected at most 4"),
        ("seed", "seven", "This is no seed"),
        ("guidance_scale", "-1", "Got"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(visit: Callable[..., Any], field: str, value: str, said: str) -> None:
    """With a capital and a full stop, without the API's names; it goes once the field is changed."""
    page = visit()
    page.fill(f"#{field}", value)
    page.click("#draw")
    problem = page.locator(".fields .problem:visible")
    problem.get_by_text(said).wait_for()
    text = problem.inner_text()
    assert text[0].isupper()
    assert text.endswith(".")
    assert "_" not in text
    assert page.locator(f"#{field}").get_attribute("aria-describedby") == problem.get_attribute("id")
    page.fill(f"#{field}", "2")
    page.click("#draw")
    drawn(page, 1)
    assert problem.count() == 0


@pytest.mark.slow
def test_a_token_is_asked_for_once(visit: Callable[..., Any], server: Server, browser: Any) -> None:
    """In the page's own dialog, again where it was wrong; the tab keeps it, and streams and pictures are sent it."""
    with served(server.service, Settings(token="se cret")) as url:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(SOON)
        page.goto(url)
        page.get_by_label("Token", exact=True).fill("wrong")
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("does not know this token").wait_for()
        page.get_by_label("Token", exact=True).fill("se cret")
        page.keyboard.press("Enter")
        page.locator("#sampler option").first.wait_for(state="attached")
        page.fill("#num_inference_steps", "2")
        page.click("#draw")
        drawn(page, 1)
        page.reload()
        drawn(page, 1)
        assert not page.locator("#sign-in").is_visible()
        context.close()
