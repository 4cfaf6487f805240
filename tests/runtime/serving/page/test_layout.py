"""Who can use the page: by the keyboard, on a phone, in the dark."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_visits import drawn, give, picture_file


@pytest.mark.slow
def test_the_keyboard_reaches_everything(visit: Callable[..., Any]) -> None:
    """From the prompt by tabs alone, each stop with a frame that is seen; the picture's actions, too."""
    page = visit()
    page.focus("#prompt")
    reached, framed = [], []
    for _ in range(20):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        framed.append(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
        page.keyboard.press("Tab")
    reached = reached[: reached.index("draw") + 1]
    order = ["prompt", "negative_prompt", "model", "size", "num_images_per_prompt", "sampler", "num_inference_steps"]
    assert [name for name in reached if name in order] == order
    assert {"seed", "random-seed", "guidance_scale", "draw"} <= set(reached)
    assert framed[: len(reached)] == ["solid"] * len(reached)
    page.press("#prompt", "Control+Enter")
    drawn(page, 1)
    page.focus("#draw")
    assert page.evaluate("scrollY") == 0  # what has the focus was in view
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "again"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_scrolls_down_alone(visit: Callable[..., Any], width: int, tmp_path: Path) -> None:
    """With all folds open and long words nothing is wider than the window; what is tapped is 44 pixels high."""
    page = visit(width, 780, is_mobile=True, has_touch=True)
    page.fill("#prompt", "incomprehensibilities" * 3)
    page.tap("#draw")
    drawn(page, 1)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.click("#add-lora")
    give(page, picture_file(tmp_path, (32, 32)))
    page.focus("#canvas")
    page.keyboard.press("Space")
    page.locator("#only_masked").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth") <= width
    small = page.evaluate(
        """[...document.querySelectorAll("button, select, summary, a[download], input:not([type=checkbox])")]
            .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44)
            .map((e) => e.id || e.textContent)"""
    )
    assert small == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(visit: Callable[..., Any], scheme: str) -> None:
    """Contrast of every text that is seen on its ground, at least 4.5 to 1 (WCAG 2, AA); every control has a name."""
    page = visit(color_scheme=scheme)
    page.fill("#num_inference_steps", "0")
    page.click("#draw")
    page.locator(".problem:visible").wait_for()
    page.fill("#num_inference_steps", "2")
    page.click("#draw")
    drawn(page, 1)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert page.evaluate(FAINT_TEXTS) == []
    tree = page.locator("body").aria_snapshot()
    for role in ("button", "textbox", "combobox", "spinbutton", "checkbox", "slider"):
        assert not re.search(rf"^\s*- {role}(?::|$| \[)", tree, re.M), role


FAINT_TEXTS = """() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const groundOf = (e) => {
        for (; e; e = e.parentElement) {
            const color = parts(getComputedStyle(e).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const e of document.querySelectorAll("body *")) {
        const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !e.checkVisibility() || e.disabled || e.closest("svg, option, .unseen")) continue;
        const [one, other] = [parts(getComputedStyle(e).color), groundOf(e)].map(luminance);
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (ratio < 4.5) faint.push([e.textContent.slice(0, 40), ratio]);
    }
    return faint;
}"""
