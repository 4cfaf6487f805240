"""The numbered examples run, one after the other, and leave what they say."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_loras import save_tiny_lora

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TRAINING = EXAMPLES / "90_train_emoji.py"
SCRIPTS = [path for path in sorted(EXAMPLES.glob("[0-9][0-9]_*.py")) if path != TRAINING]
# The others draw with the same functions, or build first
OFTEN = {"00_draw", "02_img2img", "10_sdxl", "12_four_steps"}
COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "black")


def run(script: Path, folder: Path, *arguments: object) -> str:
    """Runs a script in a folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(
    emoji_bundle: Path,
    wide_bundle: Path,
    family_bundle: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The examples' output folder, with the embedded model's bundles built already, and tiny ones for SDXL's."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(emoji_bundle, folder / "emoji.bundle")
    shutil.copytree(wide_bundle, folder / "wide.bundle")
    shutil.copytree(family_bundle("sdxl"), folder / "sdxl.bundle")
    shutil.copytree(family_bundle("sdxl-refiner"), folder / "refiner.bundle")
    for seed, name in enumerate(("lcm-lora", "style")):
        save_tiny_lora(folder / f"{name}.safetensors", emoji_bundle, seed=seed, scale=0.01)
    return folder


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, id=script.stem, marks=() if script.stem in OFTEN else pytest.mark.slow)
        for script in SCRIPTS
    ],
)
def test_example_runs(script: Path, folder: Path) -> None:
    """It prints something and leaves a new picture."""
    before = set(folder.glob("*.png"))
    files = ("emoji.bundle", "lcm-lora.safetensors", "style.safetensors") if script.stem == "12_four_steps" else ()
    assert run(script, folder, folder, *files)
    assert set(folder.glob("*.png")) - before


@pytest.mark.slow
def test_training_makes_a_checkpoint(tmp_path: Path) -> None:
    """A step of each stage on eight drawn icons, in the place of the npm package's."""
    pytest.importorskip("resvg_py", reason="the dev extra is not installed")
    icons = {
        f"{colour}-circle": {"body": f'<circle cx="16" cy="16" r="{8 + index}" fill="{colour}"/>'}
        for index, colour in enumerate(COLOURS)
    }
    data = tmp_path / "icons.json"
    data.write_text(json.dumps({"icons": icons, "width": 32, "height": 32}))
    titles = ("Animals & Nature", "Food & Drink", "Smileys & Emotion")
    categories = {title: list(icons)[index::3] for index, title in enumerate(titles)}
    data.with_name("metadata.json").write_text(json.dumps({"categories": categories}))
    out = tmp_path / "model"
    run(TRAINING, tmp_path, "--data", data, "--work", tmp_path / "work", "--out", out, "--steps", 1)
    names = ("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer")
    assert all((out / name).exists() for name in names)
