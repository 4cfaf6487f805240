"""IP-Adapters' files: told by their tensors, compared with the model and the image encoder, refused with a reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_image_prompts import PROJECTED, WIDTH, save_image_encoder

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import CheckpointError, RequestError
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.finding import addon_from_headers
from latentrt.export.addons.image_prompt import ImagePromptAdapter
from latentrt.export.sources.addons.image_prompt_layout import adapter_layout
from latentrt.export.sources.single_file.ldm_layout import LayoutError

LAYERS = {f"ip_adapter.{n}.to_{one}_ip.weight": (320, 768) for n in (1, 3) for one in "kv"}
FACEID = {"proj.0.weight": (1024, 512), "proj.2.weight": (3072, 1024), "norm.weight": (768,)}


def shapes_of(own: dict[str, tuple[int, ...]], **layers: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """A file's."""
    return {**{f"image_proj.{name}": shape for name, shape in own.items()}, **LAYERS, **layers}


def test_published_sizes_are_read() -> None:
    """Those of SD 1.5's plain adapter."""
    base = {"proj.weight": (3072, 1024), "proj.bias": (3072,), "norm.weight": (768,), "norm.bias": (768,)}
    layout = adapter_layout(shapes_of(base))
    assert (layout.embedded, layout.context, layout.tokens) == (1024, 768, 4)
    assert layout.keys == ("ip_adapter.1.to_k_ip.weight", "ip_adapter.3.to_k_ip.weight")
    trained = {name.replace("ip_adapter", "adapter_modules"): shape for name, shape in LAYERS.items()}
    again = adapter_layout({**{f"image_proj_model.{name}": shape for name, shape in base.items()}, **trained})
    assert (again.embedded, again.kind) == (1024, layout.kind)


@pytest.mark.parametrize(
    ("own", "part"),
    [
        (FACEID, "FaceID, which takes the embedding of a face"),
        ({**FACEID, "perceiver_resampler.proj_in.weight": (768, 1280)}, "FaceID Plus, which"),
        ({"latents": (1, 16, 1280), "proj_in.weight": (1280, 512)}, "InstantID adapter, which"),
        ({"proj.weight": (3072, 1024)}, "lacks proj.bias"),
        ({"mapper.weight": (3, 3)}, "unknown kind"),
    ],
)
def test_other_projections_are_refused(own: dict[str, tuple[int, ...]], part: str) -> None:
    """FaceID and its relatives with the reason, others by what is missing."""
    with pytest.raises(LayoutError, match=part):
        adapter_layout(shapes_of(own))


@pytest.fixture(scope="module")
def base(family_bundle: Callable[[str], Path]) -> BaseModel:
    """The tiny model that adapters are for."""
    return BaseModel(open_bundle(family_bundle("sd1")))


def test_the_encoder_is_found_beside_the_adapter(
    base: BaseModel, adapter_file: Callable[[str, str], Path], image_encoder: Path, tmp_path: Path
) -> None:
    """As a folder, or named as InvokeAI does it; given, that one is taken."""
    shutil.copy(adapter_file("sd1", "base"), tmp_path / "ip_adapter.bin")
    (tmp_path / "image_encoder.txt").write_text(f"{image_encoder}\n")
    named = addon_from_headers(str(tmp_path), base)
    assert isinstance(named, ImagePromptAdapter)
    assert named.encoder.reason == "named in image_encoder.txt beside the adapter"
    shutil.copytree(image_encoder, tmp_path / "image_encoder")
    beside = addon_from_headers(str(tmp_path / "ip_adapter.bin"), base)
    assert beside.decisions["image encoder"].value == "image_encoder"
    assert beside.files["image_encoder/config.json"].size
    given = addon_from_headers(str(tmp_path / "ip_adapter.bin"), base, image_encoder=str(image_encoder))
    assert given.decisions["image encoder"].reason == "given with --image-encoder"


def test_whole_clip_models_and_single_files_are_read(
    base: BaseModel, adapter_file: Callable[[str, str], Path], image_encoder: Path, tmp_path: Path
) -> None:
    """A model with its text half; of a file that lies alone, the config by its shapes."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from latentrt.export.sources.addons.image_encoder import _config_of_file

    whole = shutil.copytree(image_encoder, tmp_path / "whole")
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(
        json.dumps({"model_type": "clip", "projection_dim": config.pop("projection_dim"), "vision_config": config})
    )
    tensors = load_file(whole / "model.safetensors")
    text = {"text_model.final_layer_norm.weight": torch.ones(8), "text_projection.weight": torch.ones(4, 8)}
    save_file({**tensors, **text}, whole / "model.safetensors")
    adapter = addon_from_headers(str(adapter_file("sd1", "base")), base, image_encoder=str(whole))
    adapter.check()
    assert adapter.unread == {}
    settings = {"hidden_size": 1280, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16}
    known = CLIPVisionConfig(intermediate_size=32, num_attention_heads=16, hidden_act="gelu", **settings)
    CLIPVisionModelWithProjection(known).save_pretrained(tmp_path / "known")
    found = _config_of_file(tmp_path / "known" / "model.safetensors", "file")
    assert found == {key: getattr(known, key) for key in found}
    file = shutil.copy(image_encoder / "model.safetensors", tmp_path / "clip_vision.safetensors")
    assert "without config.json beside it" in refusal(adapter_file("sd1", "base"), base, Path(file))


def refusal(adapter: Path, base: BaseModel, encoder: Path | None) -> str:
    """Why an adapter is not built."""
    with pytest.raises(CheckpointError) as error:
        addon_from_headers(str(adapter), base, image_encoder=None if encoder is None else str(encoder))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_does_not_fit_is_refused(
    base: BaseModel, adapter_file: Callable[[str, str], Path], image_encoder: Path, tmp_path: Path
) -> None:
    """No encoder, a wrong one, no encoder's folder, an adapter for another family, one of FaceID."""
    plus = adapter_file("sd1", "plus")
    message = refusal(plus, base, None)
    assert "without an image encoder" in message
    assert f"patches of width {WIDTH}" in message
    assert "--image-encoder" in message
    other = save_image_encoder(tmp_path / "other", hidden_size=32, projection_dim=16)
    assert f"with a width of 32, expected a CLIP model, which gives patches of width {WIDTH}" in refusal(
        plus, base, other
    )
    assert f"a width of 16, expected a CLIP model, which gives an embedding of width {PROJECTED}" in refusal(
        adapter_file("sd1", "base"), base, other
    )
    assert "no config.json" in refusal(plus, base, adapter_file("sd1", "base").parent)
    (other / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    assert "expected three numbers" in refusal(plus, base, other)
    (other / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.5, 0.0, 0.5]}))
    assert "expected three numbers above 0" in refusal(plus, base, other)
    assert "an IP-Adapter for prompts 192 wide" in refusal(adapter_file("sdxl", "base"), base, image_encoder)
    assert "FaceID" in refusal(adapter_file("sd1", "faceid"), base, image_encoder)
    with pytest.raises(RequestError, match="leave --image-encoder out"):
        latentrt.build("emoji", tmp_path / "emoji.bundle", image_encoder=image_encoder)


def test_known_encoders_are_named() -> None:
    """With where they lie."""
    from latentrt.export.sources.addons.image_encoder import needed_encoder

    base = {"proj.weight": (3072, 1024), "proj.bias": (3072,), "norm.weight": (768,), "norm.bias": (768,)}
    assert "ViT-H (models/image_encoder of h94/IP-Adapter)" in needed_encoder(adapter_layout(shapes_of(base)))
    big = {**base, "proj.weight": (3072, 1280)}
    assert "ViT-bigG (sdxl_models/image_encoder" in needed_encoder(adapter_layout(shapes_of(big)))


@pytest.mark.slow
def test_fp16_is_gated_listed_and_verified(
    adapter_file: Callable[[str, str], Path],
    image_encoder: Path,
    half_bundle: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    """As the model's bundle is; a second build finds it up to date."""
    for kind in ("base", "plus", "full"):
        made = tmp_path / f"{kind}.bundle"
        arguments = ("build", adapter_file("sd1", kind), "-o", made, "--for", half_bundle)
        ran = command(*arguments, "--image-encoder", image_encoder)
        assert ran.status == 0, ran.stderr
        assert "up to date" in command(*arguments, "--image-encoder", image_encoder).stdout
        assert command("verify", made).status == 0
        listed = command("inspect", made)
        assert listed.status == 0, listed.stderr
        assert "projection" in listed.stdout
    with latentrt.open(half_bundle) as pipe:
        photograph = np.random.default_rng(0).random((32, 32, 3), np.float32)
        plain = pipe("a cat", num_inference_steps=2, seed=1)
        drawn = pipe(
            "a cat",
            num_inference_steps=2,
            seed=1,
            image_prompt=latentrt.ImagePrompt(tmp_path / "plus.bundle", photograph),
        )
    assert np.abs(drawn.latents - plain.latents).max() > 1e-3
