"""Every way into the program with models that are told of a picture: it works, or one sentence says what does.

The sentence names the call that draws with the model, or, where something is built, what to build instead.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.errors import LatentrtError, RequestError
from latentrt.quantization.calibration import CalibrationSet
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.models import Models

CALLS: Mapping[str, str] = {
    "svd": "img2vid",
    "zero123": "view",
    "stable-zero123": "view",
    "instruct-pix2pix": "edit",
    "sd-image-variations": "variation",
}
"""The call that draws with each kind of model."""
EDITS = "instruct-pix2pix"
STEP: dict[str, Any] = {"num_inference_steps": 1, "seed": 1}
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8))
MASK = Image.new("L", (32, 32), 255)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Who comes to a door: a model, in a folder with a picture, a mask, an embedding and orders."""

    bundle: Path
    checkpoint: Path
    pipe: latentrt.Pipeline
    folder: Path
    command: Callable[..., Any]

    def runs(self, *arguments: object) -> None:
        """A command of the terminal; what it refuses is raised."""
        ran = self.command(*arguments)
        if ran.status:
            raise RequestError(ran.stderr.strip().removeprefix("latentrt: "))

    def builds(self, model: Path | None = None, **options: Any) -> None:
        """A build of another bundle from the model's own, or from its checkpoint."""
        latentrt.build(model or self.bundle, self.folder / "made.bundle", **options)

    def draws(self, *arguments: object) -> None:
        """A drawing command."""
        self.runs(*arguments, "--steps", 1, "--seed", 1, "-o", "out.png", "--overwrite")


CALLING: Mapping[str, Callable[[Visit], Any]] = {
    "call": lambda v: v.pipe("a cat", **STEP),
    "hires": lambda v: v.pipe("a cat", hires=latentrt.Hires(), **STEP),
    "deep_cache": lambda v: v.pipe("a cat", deep_cache=3, num_inference_steps=10),
    "img2img": lambda v: v.pipe.img2img("a cat", image=PICTURE, **STEP),
    "inpaint": lambda v: v.pipe.inpaint("a cat", image=PICTURE, mask_image=MASK, **STEP),
    "outpaint": lambda v: v.pipe.outpaint("a cat", image=PICTURE, left=16, **STEP),
    "detail": lambda v: v.pipe.detail("a cat", image=PICTURE, boxes=[(4, 4, 20, 20)], **STEP),
    "submit": lambda v: v.pipe.submit("a cat", **STEP).result(),
    "check": lambda v: v.pipe.check("a cat", **STEP),
    "generate": lambda v: v.draws("generate", v.bundle, "a cat"),
    "img2img command": lambda v: v.draws("img2img", v.bundle, "a cat", "--image", "p.png"),
    "inpaint command": lambda v: v.draws("inpaint", v.bundle, "a cat", "--image", "p.png", "--mask", "m.png"),
    "outpaint command": lambda v: v.draws("outpaint", v.bundle, "a cat", "--image", "p.png", "--left", 16),
    "detail command": lambda v: v.draws("detail", v.bundle, "a cat", "--image", "p.png", "--box", "4,4,20,20"),
    "grid": lambda v: v.draws("grid", v.bundle, "a cat", "--x", "guidance=1,7"),
    "bench": lambda v: v.runs("bench", v.bundle, "--against", "none", "--steps", 1),
    "render": lambda v: v.runs("render", v.bundle, "text.jsonl", "-o", "rendered"),
}
"""Doors that none of these models goes through."""
EDITING: Mapping[str, Callable[[Visit], Any]] = {
    "edit": lambda v: v.pipe.edit("snow", image=PICTURE, **STEP),
    "submit a picture": lambda v: v.pipe.submit("snow", image=PICTURE, **STEP).result(),
    "check a picture": lambda v: v.pipe.check("snow", image=PICTURE, **STEP),
    "encode": lambda v: v.pipe.encode("snow"),
    "textual inversion": lambda v: v.pipe.load_textual_inversion("zorp.safetensors", "<zorp>"),
    "edit command": lambda v: v.draws("edit", v.bundle, "snow", "--image", "p.png"),
    "grid of a picture": lambda v: v.draws("grid", v.bundle, "snow", "--image", "p.png", "--x", "guidance=1,7"),
    "compare": lambda v: v.runs("compare", v.bundle, v.bundle, "snow", "--steps", 1, "-o", "compared.png"),
    "render a picture": lambda v: v.runs("render", v.bundle, "picture.jsonl", "-o", "rendered"),
    "serve": lambda v: Models(Catalog(models={"one": v.bundle}), lambda path: v.pipe),
}
"""Doors for models that draw edits."""
OPEN: Mapping[str, Callable[[Visit], Any]] = {
    "verify": lambda v: v.runs("verify", v.bundle),
    "inspect": lambda v: v.runs("inspect", v.bundle),
    "pickle": lambda v: pickle.loads(pickle.dumps(v.pipe)).close(),
    "unload": lambda v: (v.pipe.unload_textual_inversion(), v.pipe.unload_lora()),
    "build its engines": lambda v: latentrt.build(v.bundle),
}
"""Doors for all."""
TEXTS: Mapping[str, Callable[[Visit], Any]] = {
    "a net": lambda v: v.builds(v.checkpoint, for_bundle=v.bundle),
    "int8": lambda v: v.builds(precision="int8", prompts="prompts.txt"),
    "int8 of the checkpoint": lambda v: v.builds(v.checkpoint, precision="int8", prompts="prompts.txt"),
    "bf16": lambda v: v.builds(precision="bf16", prompts="prompts.txt"),
}
"""Builds for models that read text: with prompts, or of nets that read them."""
OTHER_CALLS: Mapping[str, Callable[[Any], Any]] = {
    "img2vid": lambda pipe: pipe.img2vid(PICTURE, num_inference_steps=2, seed=1),
    "view": lambda pipe: pipe.view(PICTURE, azimuth=30, **STEP),
    "variation": lambda pipe: pipe.variation(PICTURE, **STEP),
    "edit": lambda pipe: pipe.edit("snow", image=PICTURE, **STEP),
}
"""Of all kinds, by the name of each."""
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind == "stable-zero123" else ()) for kind in CALLS]


@pytest.fixture
def visit(
    picture_bundle: Callable[[str], Path],
    picture_checkpoint: Callable[[str], Path],
    picture_pipe: Callable[[str], latentrt.Pipeline],
    kind: str,
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Visit:
    """A model of a kind, and all that doors ask for."""
    monkeypatch.chdir(tmp_path)
    PICTURE.save("p.png")
    MASK.save("m.png")
    save_file({"emb_params": np.full((2, 64), 3.0, np.float32)}, "zorp.safetensors")
    order = {"prompt": "snow", **STEP}
    Path("prompts.txt").write_text("snow\n", "utf-8")
    Path("text.jsonl").write_text(json.dumps(order), "utf-8")
    Path("picture.jsonl").write_text(json.dumps({**order, "image": "p.png"}), "utf-8")
    return Visit(
        bundle=picture_bundle(kind),
        checkpoint=picture_checkpoint(kind),
        pipe=picture_pipe(kind),
        folder=tmp_path,
        command=command,
    )


def refusal(enter: Callable[[Visit], Any], visit: Visit) -> str:
    """What a door says; one line."""
    with pytest.raises(LatentrtError) as refused:
        enter(visit)
    said = str(refused.value)
    assert said.startswith("got ") or ".jsonl:1: got " in said
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", CALLING)
@pytest.mark.grid
def test_calls_of_other_models(visit: Visit, kind: str, door: str) -> None:
    """They name the call that draws."""
    assert f"; use {CALLS[kind]}, with a picture" in refusal(CALLING[door], visit)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", EDITING)
@pytest.mark.grid
def test_what_edits_have(visit: Visit, kind: str, door: str) -> None:
    """A model that draws edits goes through; the others name their call."""
    if kind == EDITS:
        EDITING[door](visit)
        visit.pipe.unload_textual_inversion()
    else:
        assert f"; use {CALLS[kind]}, with a picture" in refusal(EDITING[door], visit)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", OPEN)
@pytest.mark.grid
def test_open_doors(visit: Visit, kind: str, door: str) -> None:
    """What has nothing to do with how a model draws."""
    OPEN[door](visit)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if EDITS not in kind.values])
@pytest.mark.parametrize("door", TEXTS)
@pytest.mark.grid
def test_builds_for_models_that_read_text(visit: Visit, kind: str, door: str) -> None:
    """They say so before anything is exported."""
    assert "reads no" in refusal(TEXTS[door], visit)
    assert not (visit.folder / "made.bundle").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [name for name in OTHER_CALLS if hasattr(latentrt.Pipeline, name)])
@pytest.mark.grid(most=4)
def test_each_call_draws_with_its_own_kind(visit: Visit, kind: str, call: str) -> None:
    """And with no other; nor does any with a model that draws from text."""
    if CALLS[kind] == call:
        assert OTHER_CALLS[call](visit.pipe).latents.any()
    else:
        said = refusal(lambda visit: OTHER_CALLS[call](visit.pipe), visit)
        assert CALLS[kind] in said


@pytest.mark.parametrize("call", [name for name in OTHER_CALLS if hasattr(latentrt.Pipeline, name)])
def test_none_draws_with_a_model_of_texts(tiny_pipe: latentrt.Pipeline, call: str) -> None:
    """The sentence names what does."""
    with pytest.raises(RequestError, match="img2img"):
        OTHER_CALLS[call](tiny_pipe)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.grid(most=2)
def test_loras(visit: Visit, kind: str) -> None:
    """Of its own U-Net they are loaded where a call may name them, and fused into any; foreign ones are refused."""
    own = save_tiny_lora(visit.folder / "own.safetensors", visit.bundle, components=("unet",), modules="attn1.to_q")
    if kind == "svd":
        assert "latentrt build BUNDLE --lora" in refusal(lambda visit: visit.pipe.load_lora(own), visit)
    else:
        visit.pipe.load_lora(own)
        visit.pipe.unload_lora()
    visit.builds(loras=[str(own)])
    assert [lora.name for lora in open_bundle(visit.folder / "made.bundle").manifest.loras] == ["own"]


@pytest.mark.parametrize("kind", [EDITS])
def test_other_precisions_are_judged_by_edits(visit: Visit, kind: str) -> None:
    """Of the photograph that builds are compared on."""
    asked = CalibrationSet(prompts=("snow", "at night"), steps=2)
    (first, second), (third,) = (batch.images for batch in asked.judging(visit.pipe, 0, 3))
    expected = visit.pipe.edit(
        "snow",
        image=photograph(visit.pipe.manifest.profiles[0]),
        seed=[asked.seed + 1_000_000],
        num_inference_steps=2,
        output_type="np",
    )
    np.testing.assert_allclose(first, expected.images[0], atol=1e-4)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, third)  # one prompt, two seeds
