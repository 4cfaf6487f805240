"""``--lora``: files with weights, on every drawing command, beside and in prompts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny_loras import save_tiny_lora

from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters

FAST = ("--steps", 1, "--seed", 1)
A1111 = ("--prompt-syntax", "a1111")


@pytest.fixture
def here(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two LoRAs; one has a colon in its name."""
    monkeypatch.chdir(tmp_path)
    save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle, metadata={"modelspec.trigger_phrase": "zorp"})
    save_tiny_lora(tmp_path / "a:0.5.safetensors", tiny_bundle, seed=2)
    return tmp_path


def prompt_of(path: Path) -> str:
    return settings_from_parameters(str(read_parameters(path)))["Prompt"]


@pytest.mark.parametrize("workflow", ["generate", "img2img", "inpaint", "outpaint"])
def test_every_command_takes_loras(workflow: str, here: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """It says what they are on stderr; the settings of the picture name them."""
    image = here / "start.png"
    Image.new("RGB", (32, 32), "white").save(image)
    more = {
        "generate": (),
        "img2img": ("--image", image, "--strength", 1),
        "inpaint": ("--image", image, "--mask", image),
        "outpaint": ("--image", image, "--left", 16),
    }[workflow]
    loras = ("--lora", "style.safetensors:0.5:0.25", "--lora", "a:0.5.safetensors:-1")
    done = command(workflow, tiny_bundle, "cat", *more, *FAST, *loras, "-o", "out.png", "--json")
    assert done.status == 0, done.stderr
    assert "style.safetensors: LoRA 'style'; trigger words: zorp" in done.stderr
    assert prompt_of(here / "out.png") == "cat <lora:style:0.25:0.5> <lora:a_0.5:-1>"
    told = json.loads(done.stdout)["pictures"][0]["loras"]
    assert [(one["name"], one["unet"], one["text"]) for one in told] == [("style", 0.5, 0.25), ("a_0.5", -1.0, -1.0)]


def test_loras_in_prompts(here: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """A file without a weight is there for the prompts that name it, each drawn with its own set; one that no prompt
    names has weight 1."""
    (here / "prompts.txt").write_text("cat <lora:style:0.5>\ndog <lora:style:0.5>\nfrog <lora:style:2>\nfish\n")
    loras = ("--lora", "style.safetensors", "--lora", "a:0.5.safetensors")
    done = command("generate", tiny_bundle, "--prompts", "prompts.txt", *A1111, *FAST, *loras, "-o", "{index}.png")
    assert done.status == 0, done.stderr
    assert [prompt_of(here / f"{index}.png") for index in range(4)] == [
        "cat <lora:style:0.5> <lora:a_0.5:1>",
        "dog <lora:style:0.5> <lora:a_0.5:1>",
        "frog <lora:style:2> <lora:a_0.5:1>",
        "fish <lora:a_0.5:1>",
    ]


def test_inspect_says_what_a_file_is(here: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """Without a model; what is none is refused by name."""
    metadata = {"ss_base_model_version": "sdxl_base_v1-0", "modelspec.trigger_phrase": "zorp", "notes": "x" * 500}
    save_tiny_lora(here / "sdxl_lightning_4step.safetensors", tiny_bundle, metadata=metadata)
    shown = command("inspect", "sdxl_lightning_4step.safetensors").stdout
    for told in ("LoRA for", "base       SDXL", "Lightning LoRA: sampler=latentrt.Sampler(", "triggers   zorp", "xxx…"):
        assert told in shown
    told = json.loads(command("inspect", "sdxl_lightning_4step.safetensors", "--json").stdout)
    assert (told["kinds"], told["metadata"], len(told["short_hash"])) == (["LoRA"], metadata, 12)
    save_file({"lllite_unet_x.down.0.weight": np.zeros((2, 2), np.float32)}, here / "a.safetensors")
    save_file({"a.weight": np.zeros((2, 2), np.float32)}, here / "b.safetensors")
    for name, reason in (("a", "LLLite"), ("b", "a file of 1 tensors that are no LoRA's"), ("c", "no bundle|expected")):
        refused = command("inspect", f"{name}.safetensors")
        assert refused.status == 2
        assert re.search(reason, refused.stderr)


@pytest.mark.parametrize(
    ("options", "prompt", "reason"),
    [
        (("--lora", "nowhere.safetensors:1"), "cat", "nowhere.safetensors"),
        (("--lora", "style.safetensors:x"), "cat", "expected PATH[:WEIGHT[:TEXT_WEIGHT]] with finite"),
        (("--lora", "style.safetensors:nan"), "cat", "with finite numbers, such as"),
        (("--lora", "style.safetensors", "--lora", "./style.safetensors"), "cat", "is loaded already"),
        (("--lora", "style.safetensors:1", *A1111), "cat <lora:style:1>", "named in the prompt and in loras"),
        (("--lora", "style.safetensors", *A1111), "cat <lora:stile:1>", "did you mean 'style'?"),
        (A1111, "cat <lora:style:1>", "or --lora PATH"),
    ],
)
def test_refused(
    options: tuple[str, ...],
    prompt: str,
    reason: str,
    here: Path,
    tiny_bundle: Path,
    command: Callable[..., Any],
) -> None:
    """Before anything is drawn."""
    done = command("generate", tiny_bundle, prompt, *FAST, *options)
    assert (done.status, done.stdout) == (2, "")
    assert reason in done.stderr.splitlines()[-1]
    assert not (here / "out.png").exists()
