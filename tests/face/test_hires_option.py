"""``--hires`` and the options beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import latentrt


def test_a_second_pass_is_asked_for(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """Every option is in the picture's settings; a scale of 1 draws on at the same size."""
    picture = tmp_path / "cat.png"
    options = ("--hires", 1, "--hires-strength", 0.5, "--hires-steps", 1, "--hires-upscaler", "lanczos")
    options += ("--hires-sampler", "euler", "--hires-prompt", "a dog", "--hires-negative", "red", "--hires-guidance", 3)
    ran = command("generate", tiny_bundle, "a cat", *options, "--steps", 2, "--seed", 1, "-o", picture)
    assert ran.status == 0, ran.stderr
    settings = str(latentrt.read_parameters(picture))
    for pair in ("Denoising strength: 0.5", "Hires upscale: 1", "Hires steps: 1", "Hires upscaler: Lanczos"):
        assert pair in settings
    for pair in ("Hires sampler: Euler", "Hires prompt: a dog", "Hires negative prompt: red", "Hires CFG Scale: 3"):
        assert pair in settings


def test_options_beside_it_want_it(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """A sentence, before the bundle is opened."""
    ran = command("generate", tiny_bundle, "a cat", "--hires-steps", 3, "-o", tmp_path / "cat.png")
    assert ran.status == 2
    assert "got --hires-steps without --hires" in ran.stderr
    ran = command("generate", tiny_bundle, "a cat", "--hires", 2, "-o", tmp_path / "cat.png")
    assert ran.status == 2
    assert "or build again with --profile 64x64" in ran.stderr
