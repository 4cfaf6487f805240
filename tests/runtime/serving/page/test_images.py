"""Images to start from, masks, and settings that come back from pictures, in Chromium."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_visits import drawn, give, picture_file, pixels, setting
from PIL import Image


@pytest.mark.slow
def test_a_mask_that_was_painted_bounds_what_is_drawn(visit: Callable[..., Any], tmp_path: Path) -> None:
    """Outside of the stroke the image comes back as it was; undo, invert, eraser and clear do what they say."""
    page = visit()
    give(page, picture_file(tmp_path, (32, 32)))
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()

    def paint(x: float) -> None:
        """One stroke from top to bottom."""
        page.mouse.move(box["x"] + x * box["width"], box["y"] + 4)
        page.mouse.down()
        page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] - 4, steps=5)
        page.mouse.up()

    note = page.locator("#start-note")
    assert note.inner_text() == "image"
    paint(0.5)
    assert note.inner_text() == "image and mask"
    page.click("#undo")
    assert note.inner_text() == "image"
    page.click("#invert")
    assert note.inner_text() == "image and mask"
    page.click("#clear")
    assert note.inner_text() == "image"
    page.click("#undo")
    page.click("#undo")
    paint(0.2)
    paint(0.9)
    page.click("#eraser")
    paint(0.9)
    page.fill("#prompt", "stripes")
    page.click("#draw")
    drawn(page, 1)
    given, saved = Image.open(tmp_path / "given.png"), pixels(page)
    changed = [given.getpixel((x, 16)) != saved.getpixel((x, 16)) for x in range(32)]
    assert any(changed[4:9])
    assert not any(changed[10:])
    assert setting(page, "Denoising strength") == "0.75"


@pytest.mark.slow
def test_a_mask_painted_by_the_keyboard(visit: Callable[..., Any], tmp_path: Path) -> None:
    """Arrow keys move the brush, the space bar paints, Ctrl+Z takes it back."""
    page = visit()
    give(page, picture_file(tmp_path, (32, 32)))
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert page.locator("#start-note").inner_text() == "image and mask"
    page.keyboard.press("Control+z")
    assert page.locator("#start-note").inner_text() == "image"


@pytest.mark.slow
def test_an_image_of_other_proportions_is_cut_and_the_masked_part_alone_is_not(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    """The hint says which; only the masked part gives a picture of the image's own size."""
    page = visit()
    give(page, picture_file(tmp_path, (96, 48)))
    page.locator("#canvas-hint", has_text="The middle of the image is used").wait_for()
    page.focus("#canvas")
    page.keyboard.press("Space")
    page.click("#draw")
    drawn(page, 1)
    assert pixels(page).size == (32, 32)
    page.check("#only_masked")
    page.locator("#canvas-hint", has_not_text="The middle of the image is used").wait_for()
    page.fill("#padding_mask_crop", "4")
    page.click("#draw")
    drawn(page, 2)
    assert pixels(page).size == (96, 48)


@pytest.mark.slow
def test_a_file_that_is_no_image_is_refused_in_a_sentence(visit: Callable[..., Any], tmp_path: Path) -> None:
    """Beside the place for images."""
    (tmp_path / "notes.png").write_text("no picture")
    page = visit()
    page.set_input_files("#file", tmp_path / "notes.png")
    page.get_by_text("notes.png is no image that this browser can read.").wait_for()
    assert page.locator("#drop").is_visible()


@pytest.mark.slow
def test_again_with_these_restores_every_field(visit: Callable[..., Any], tmp_path: Path) -> None:
    """The image, its mask, the LoRA and all numbers; the picture that comes is the same."""
    page = visit()
    wanted = {
        "#prompt": "a [red] cat",
        "#negative_prompt": "a dog",
        "#num_inference_steps": "4",
        "#guidance_scale": "2.5",
        "#seed": "11",
        "#strength": "0.6",
    }
    chosen = {"#model": "other", "#size": "48x32", "#sampler": "euler_a", "#prompt_syntax": "a1111"}
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    for name, value in chosen.items():
        page.select_option(name, value)
    page.click("#add-lora")
    page.get_by_label("Weight of style").fill("0.5")
    give(page, picture_file(tmp_path, (48, 32)))
    page.focus("#canvas")
    page.keyboard.press("Space")
    for name, value in wanted.items():
        page.fill(name, value)
    page.select_option("#masked_content", "fill")
    page.check("#only_masked")
    page.fill("#padding_mask_crop", "8")
    page.click("#draw")
    drawn(page, 1)
    first = pixels(page)

    for name in wanted:
        page.fill(name, "1")
    for name, value in (("#model", "tiny"), ("#sampler", "ddim"), ("#prompt_syntax", "plain")):
        page.select_option(name, value)
    page.get_by_role("button", name="Remove style").click()
    page.click("#remove-image")
    page.click("#again")
    for name, value in {**wanted, **chosen, "#padding_mask_crop": "8", "#masked_content": "fill"}.items():
        assert page.input_value(name) == value, name
    assert page.get_by_label("Weight of style").input_value() == "0.5"
    assert page.locator("#start-note").inner_text() == "image and mask"
    assert page.is_checked("#only_masked")
    page.keyboard.press("Control+Enter")
    drawn(page, 2)
    assert pixels(page).tobytes() == first.tobytes()


@pytest.mark.slow
def test_settings_come_back_from_a_file_and_after_a_reload(visit: Callable[..., Any], tmp_path: Path) -> None:
    """A PNG that is dropped fills the form; a reload keeps the form and the pictures of this tab."""
    page = visit()
    page.fill("#prompt", 'é, "quoted": a cat\nin two lines')
    page.fill("#guidance_scale", "2")
    page.fill("#negative_prompt", "a dog")
    page.select_option("#size", "48x32")
    page.select_option("#sampler", "euler_a")
    page.fill("#seed", "123")
    page.click("#draw")
    drawn(page, 1)
    saved = pixels(page)
    file = tmp_path / "saved.png"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(file)
    assert saved.size == (48, 32)

    page.reload()
    drawn(page, 1)
    assert page.input_value("#seed") == "123"
    assert pixels(page).tobytes() == saved.tobytes()

    fresh = visit()
    bytes_of_file = list(file.read_bytes())
    fresh.evaluate(
        """(bytes) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], "saved.png", { type: "image/png" }));
            const drop = new DragEvent("drop", { dataTransfer, bubbles: true });
            document.querySelector("#stage").dispatchEvent(drop);
        }""",
        bytes_of_file,
    )
    fresh.locator("#live", has_text="saved.png").wait_for(state="attached")
    fields = ("prompt", "negative_prompt", "size", "sampler", "seed", "num_inference_steps", "guidance_scale")
    for name in fields:
        assert fresh.input_value(f"#{name}") == page.input_value(f"#{name}"), name
