"""fp16 from the command line: built, kept apart from fp32, refused, drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import no_preview_fitted

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Precision


@pytest.fixture(scope="module")
def half_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in fp16."""
    folder = tmp_path_factory.mktemp("bundles") / "half.bundle"
    latentrt.build(tiny_checkpoint, folder, precision="fp16", profiles=["32x32x2", "48x32"])
    return folder


def test_it_draws_almost_the_same_picture(half_bundle: Path, tiny_pipe: latentrt.Pipeline) -> None:
    """Same seed, same picture but for rounding; and rounding there is."""
    drawn = {"num_inference_steps": 4, "seed": 3, "output_type": "np", "width": 32, "height": 32}
    with latentrt.open(half_bundle) as pipe:
        half = pipe("a cat", **drawn)
    whole = tiny_pipe("a cat", **drawn)
    error = np.linalg.norm(half.latents - whole.latents) / np.linalg.norm(whole.latents)
    assert 1e-6 < error < 5e-3
    assert half.latents.dtype == np.float32


def test_what_the_bundle_says(half_bundle: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """Every component is fp16 and half as large; islands are counted; probes hold a stretched run."""
    ran = command("inspect", half_bundle, "--json")
    told, whole = json.loads(ran.stdout), open_bundle(tiny_bundle).manifest
    assert told["precision"] == "fp16"
    assert {row["precision"] for row in told["components"].values()} == {"fp16"}
    assert told["components"]["unet"]["islands"] == {"sines of timesteps and sizes": 8}
    for name, record in whole.components.items():
        assert record.weights is not None
        single = whole.files[record.weights].size
        weights = open_bundle(half_bundle).manifest.components[name].weights
        assert weights is not None
        assert (half_bundle / weights).stat().st_size < 0.55 * single
    half = open_bundle(half_bundle)
    assert len(half.probes("unet")) == len(open_bundle(tiny_bundle).probes("unet")) + 1
    assert "fp16 + 8 fp32" in command("inspect", half_bundle).stdout
    assert command("verify", half_bundle).status == 0


@pytest.mark.slow
def test_components_can_be_kept(half_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What is asked for stays in fp32 and is exact; a later build with other wishes is another bundle."""
    folder = tmp_path / "kept.bundle"
    latentrt.build(tiny_checkpoint, folder, precision="fp16", fp32=["vae_decoder"], profiles=["32x32"])
    manifest = open_bundle(folder).manifest
    assert manifest.precision is Precision.FP16
    assert manifest.kept_fp32 == ("vae_decoder",)
    assert manifest.components["vae_decoder"].precision is Precision.FP32
    assert manifest.components["vae_decoder"].parity.relative_error < 1e-4
    assert manifest.components["unet"].precision is Precision.FP16
    again = latentrt.build(tiny_checkpoint, folder, precision="fp16", fp32=["vae_decoder"], profiles=["32x32"])
    assert again.up_to_date
    assert not latentrt.build(tiny_checkpoint, folder, precision="fp16", profiles=["32x32"]).up_to_date


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--precision", "fp4"], ("fp4", "fp32, fp16")),
        (["--precision", "fp16", "--fp32", "vea_decoder"], ("vea_decoder", "vae_decoder")),
        (["--fp32", "vae_decoder"], ("precision fp16",)),
    ],
)
def test_refused(
    tiny_checkpoint: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    options: list[str],
    fragments: tuple[str, ...],
) -> None:
    """Before anything is loaded, in one line."""
    ran = command("build", tiny_checkpoint, "-o", tmp_path / "new.bundle", *options)
    assert ran.status == 2
    assert ran.stderr.count("\n") == 1
    assert all(fragment in ran.stderr for fragment in fragments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--precision", "fp32"], ["--fp32", "unet"]])
def test_a_bundle_stays_what_it_is(half_bundle: Path, command: Callable[..., Any], options: list[str]) -> None:
    """Another precision than a bundle's has to come from the model; its own may be said."""
    ran = command("build", half_bundle, *options)
    assert ran.status == 2
    assert "for a bundle built in fp16; build from the model" in ran.stderr
    assert command("build", half_bundle, "--precision", "fp16").status == 0


def test_an_overflow_is_named_before_it_is_built(
    tiny_checkpoint: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A decoder whose activations leave fp16's range fails the build with the module's name, and passes in fp32."""
    import shutil

    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    path = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_in.weight"] *= 1e6
    save_file(weights, path)
    ran = command("build", model, "-o", tmp_path / "new.bundle", "--precision", "fp16")
    assert ran.status == 2
    assert "vae_decoder cannot be fp16: decoder.conv_in reaches" in ran.stderr
    assert "--fp32 vae_decoder" in ran.stderr
    assert not (tmp_path / "new.bundle").exists()
    ran = command("build", model, "-o", tmp_path / "new.bundle", "--precision", "fp16", "--fp32", "vae_decoder")
    assert ran.status == 0, ran.stderr


def test_modules_to_keep_must_be_there(tiny_checkpoint: Path, exports: None, tmp_path: Path) -> None:
    """A scope that no module has ends the build of fp16."""
    options = {"precision": "fp16", "profiles": ["32x32x2"]}
    with pytest.raises(RequestError, match=r"got fp32 unet:\*.no_such, of which the graph has no module"):
        latentrt.build(tiny_checkpoint, tmp_path / "one.bundle", fp32=["unet:*.no_such"], **options)
    with pytest.raises(RequestError, match="got fp32 net:"):
        latentrt.build(tiny_checkpoint, tmp_path / "one.bundle", fp32=["net:*.mid_block.*"], **options)


@pytest.mark.slow
def test_modules_that_are_kept(tiny_checkpoint: Path, exports: None, tmp_path: Path) -> None:
    """What debugging suggests a build takes: the modules are islands of the new bundle."""
    with no_preview_fitted():
        result = latentrt.build(
            tiny_checkpoint,
            tmp_path / "kept.bundle",
            precision="fp16",
            profiles=["32x32x2"],
            fp32=["unet:*.mid_block.*"],
        )
    assert not result.up_to_date
    record = open_bundle(tmp_path / "kept.bundle").manifest.components["unet"]
    assert record.islands["asked for: *.mid_block.*"] > 10
