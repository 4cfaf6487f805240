"""bf16 from a build to a picture: what is refused, what is judged, and what draws."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import filled_once, no_preview_fitted, write_sealed
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.building.default_backend import backend_for
from latentrt.describing import describe
from latentrt.engines.backends.tensorrt.contents import counts_with_weights
from latentrt.engines.bundle.bundle import open_addon, open_bundle, open_upscaler
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import LatentrtError, ParityError, RequestError
from latentrt.engines.precision import Backend, Precision
from latentrt.quantization.settings import Effort
from latentrt.verifying import verify

DRAWN = {"num_inference_steps": 4, "seed": 3, "output_type": "np"}
_BF16 = {"precision": "bf16"}


@pytest.fixture
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps and three pictures; the tiny models' pictures are noise, so that a step more changes nothing."""
    monkeypatch.setattr("latentrt.bf16.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, int8_prompts: Path, shared: Path) -> Path:
    """The tiny bundle in bf16, with engines of OpenVINO. Do not write to it."""
    pytest.importorskip("openvino")

    def build(folder: Path) -> None:
        source = shutil.copytree(tiny_bundle, folder / "fp32.bundle")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentrt.bf16.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))
            latentrt.build(source, folder / "bf16.bundle", prompts=int8_prompts, quality=30.0, **_BF16)

    return filled_once(shared / "bf16", build) / "bf16.bundle"


def in_bf16(bundle: Path, folder: Path) -> Path:
    """A bundle whose record says bf16, and nothing else of it is."""
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("engines"))
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["precision"] = "bf16"
    for component in manifest["components"].values():
        component["precision"] = "bf16"
    manifest["pictures"] = {
        "quality": 40.0,
        "source_sha256": "0" * 64,
        "drawn_by": "somebody 1.0",
        "prompts_sha256": "0" * 64,
        "prompts": 32,
        "steps": 20,
        "pictures": 32,
        "psnr_mean": 47.25,
        "psnr_worst": 41.5,
        "worst_prompt": "a cat",
    }
    write_sealed(folder / "bundle.json", manifest)
    return folder


@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cuda"])
def test_backends_without_bf16(tiny_bundle: Path, tmp_path: Path, backend: str) -> None:
    """Before anything is compiled, in one sentence that says what to do."""
    expected = "got precision bf16 for backend .*, expected openvino, tensorrt or tensorrt-rtx; .*--backend openvino"
    with pytest.raises(RequestError, match=expected):
        latentrt.build(tiny_bundle, tmp_path / "new.bundle", backend=backend, **_BF16)
    assert not (tmp_path / "new.bundle").exists()


def test_the_backend_where_none_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    """OpenVINO for what is asked for in bf16, or is in bf16 already; else the exact one."""
    bundle = in_bf16(tiny_bundle, tmp_path / "bf16.bundle")
    assert backend_for(Precision.BF16, [tiny_bundle]) is Backend.OPENVINO
    assert backend_for(None, [bundle, None]) is Backend.OPENVINO
    assert backend_for(None, ["some/net", bundle]) is Backend.OPENVINO
    assert backend_for(Precision.FP32, ["some/net", bundle]) is Backend.ORT_CPU
    assert backend_for(None, [tiny_bundle]) is Backend.ORT_CPU
    assert backend_for(None, ["owner/model"]) is Backend.ORT_CPU


def test_a_bundle_in_bf16_on_the_wrong_backend(tiny_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """Who has none of its engines is told which to make; what it was judged by is shown."""
    bundle = in_bf16(tiny_bundle, tmp_path / "bf16.bundle")
    for backend in ("ort-cpu", "auto"):
        with pytest.raises(LatentrtError, match="openvino"):
            latentrt.open(bundle, backend=backend)
    ran = command("build", bundle, "--backend", "ort-cpu")
    assert (ran.status, ran.stderr.count("\n")) == (2, 1)
    assert "expected openvino, tensorrt or tensorrt-rtx" in ran.stderr
    lora = tmp_path / "style.safetensors"
    lora.touch()
    with pytest.raises(RequestError, match=r"got precision bf16 for backend ort-cpu"):
        latentrt.build(bundle, tmp_path / "fused.bundle", loras=[str(lora)], backend="ort-cpu")
    told = command("inspect", bundle).stdout
    assert "32 bf16 pictures of 20 steps" in told
    assert "mean 47.2 dB" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0.0}, "got quality 0 dB, expected above 0 and below 99; ask for 40"),
        ({"profiles": ["32x32"]}, "got profiles or seamless for a bundle, which keeps its own in bf16"),
        ({"fp32": ["vea"]}, "got fp32 vea, expected some of text_encoder"),
        ({"loras": ["style.safetensors"]}, "got LoRAs and precision bf16 for a bundle.*--precision bf16"),
        ({"output": None}, "got no output folder"),
    ],
)
def test_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    """What a bundle in bf16 cannot be made with."""
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    Path("style.safetensors").touch()
    with pytest.raises(RequestError, match=message):
        latentrt.build(tiny_bundle, **{"output": tmp_path / "new.bundle", **_BF16, **options})


def test_made_of_fp32_alone(half_bundle: Path, tmp_path: Path) -> None:
    """What was rounded to fp16 is not rounded once more."""
    pytest.importorskip("openvino")
    with pytest.raises(RequestError, match="got a bundle in fp16, expected one in fp32 to make bf16 of"):
        latentrt.build(half_bundle, tmp_path / "new.bundle", **_BF16)


@pytest.mark.slow
def test_it_draws_almost_the_same_picture(made: Path, tiny_bundle: Path, tiny_pipe: latentrt.Pipeline) -> None:
    """Nobody names a backend; the figures are in the bundle, and it is whole."""
    manifest = open_bundle(made).manifest
    assert manifest.pictures is not None
    assert manifest.pictures.psnr_mean > 30
    assert manifest.pictures.drawn_by.startswith(("openvino", "onnxruntime"))
    assert {record.precision for record in manifest.components.values()} == {Precision.BF16}
    with latentrt.open(made) as pipe:
        assert pipe.backend is Backend.OPENVINO
        picture = pipe("a cat", **DRAWN).images[0]
    exact = tiny_pipe("a cat", width=32, height=32, **DRAWN).images[0]
    assert 35 < psnr(picture, exact, peak=1.0) < 70
    verify(made)


@pytest.mark.slow
def test_built_again(made: Path, int8_prompts: Path, tmp_path: Path, little_effort: None) -> None:
    """The same is there already; with another quality it is judged anew, and what is missed leaves nothing."""
    source, copy = made.with_name("fp32.bundle"), shutil.copytree(made, tmp_path / "bf16.bundle")
    assert latentrt.build(source, copy, prompts=int8_prompts, quality=30.0, **_BF16).up_to_date
    assert latentrt.build(copy).up_to_date
    new = tmp_path / "new.bundle"
    with pytest.raises(ParityError, match=r"bf16 pictures reached a mean of 4\d\.\d dB .*expected 90 dB.*--quality"):
        latentrt.build(source, new, prompts=int8_prompts, quality=90.0, **_BF16)
    assert not new.exists()
    built = latentrt.build(source, new, prompts=int8_prompts, quality=25.0, fp32=["vae_decoder"], **_BF16)
    assert "fp32 pictures" in built.seconds
    decoder = built.bundle.manifest.components["vae_decoder"]
    assert decoder.precision is Precision.FP32
    assert decoder.parity.psnr > 90
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_of_a_model(made: Path, tiny_checkpoint: Path, int8_prompts: Path, tmp_path: Path, little_effort: None) -> None:
    """The same graphs as of its bundle, byte for byte."""
    with no_preview_fitted():
        built = latentrt.build(
            tiny_checkpoint, tmp_path / "new.bundle", profiles=["32x32x2"], prompts=int8_prompts, quality=30.0, **_BF16
        )
    other = open_bundle(made)
    for name in other.manifest.components:
        one, two = (
            Component(root=bundle.root, manifest=bundle.manifest, name=name) for bundle in (built.bundle, other)
        )
        assert one.onnx_sha256 == two.onnx_sha256


@pytest.mark.slow
@pytest.mark.parametrize("modules", ["attn2.to_q", "conv1", "time_emb_proj"])
@pytest.mark.filterwarnings("error:compiling ")
def test_loras(made: Path, tiny_bundle: Path, tmp_path: Path, modules: str) -> None:
    """While drawing, in the graph as it is, and fused without torch: as near to fp32's as without one, and the picture
    moves."""
    lora = save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle, modules=modules, scale=0.3)
    pictures = []
    for bundle in (tiny_bundle, made):
        with latentrt.open(bundle) as pipe:
            pipe.load_lora(lora, name="style")
            keywords = {"width": 32, "height": 32, **DRAWN}
            pictures += [pipe("a cat", loras={"style": 1.0}, **keywords).images[0], pipe("a cat", **keywords).images[0]]
    exact, exact_plain, drawn, plain = pictures
    assert psnr(drawn, exact, peak=1.0) > 40
    assert psnr(drawn, plain, peak=1.0) < psnr(exact, exact_plain, peak=1.0) + 3
    fused = latentrt.build(made, tmp_path / "fused.bundle", loras=[str(lora)]).bundle
    assert fused.manifest.pictures is None
    with latentrt.open(fused.root) as pipe:
        assert psnr(pipe("a cat", **keywords).images[0], exact, peak=1.0) > 40


@pytest.mark.slow
def test_plans_for_gpus(tiny_bundle: Path, int8_prompts: Path, tmp_path: Path, little_effort: None) -> None:
    """Typed bf16 where no GPU is: judged by graphs whose results are rounded. Weights may be inputs."""
    pytest.importorskip("tensorrt_rtx")
    source = shutil.copytree(tiny_bundle, tmp_path / "fp32.bundle")
    built = latentrt.build(
        source,
        tmp_path / "rtx.bundle",
        backend="tensorrt-rtx",
        gpus=["sm89"],
        lora_ready=True,
        prompts=int8_prompts,
        quality=30.0,
        **_BF16,
    )
    pictures = built.bundle.manifest.pictures
    assert pictures is not None
    assert pictures.drawn_by.endswith("every result rounded")
    told = describe(built.bundle.root)
    assert len(told["engines"]) == 4
    for engine in told["engines"]:
        assert counts_with_weights(engine["contents"]["layers"]).keys() == {"bfloat16"}


@pytest.mark.slow
def test_nets_and_upscalers(
    made: Path, net_checkpoint: Callable[[str], Path], onnx_upscaler_bundle: Path, tmp_path: Path
) -> None:
    """A net has its model's precision; an upscaler the one that was asked for."""
    net = latentrt.build(net_checkpoint("sd1"), tmp_path / "net.bundle", for_bundle=made)
    assert {record.precision for record in open_addon(net.bundle.root).manifest.components.values()} == {Precision.BF16}
    with latentrt.open(made) as pipe:
        hint = np.zeros((32, 32, 3), np.uint8)
        result = pipe("a cat", control=[latentrt.Control(net.bundle.root, hint)], width=32, height=32, **DRAWN)
        assert np.isfinite(result.images[0]).all()
    source = onnx_upscaler_bundle.with_name("twice.onnx")
    upscaler = latentrt.build(source, tmp_path / "twice.bundle", profiles=["64x64"], precision="bf16")
    record = open_upscaler(upscaler.bundle.root).manifest.components["upscaler"]
    assert record.precision is Precision.BF16
    assert record.parity.psnr > 40
