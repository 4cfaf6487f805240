"""Upscalers built: told by their contents, as spandrel's modules compute; ONNX as it is; and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_stand_in import commit_of, hub_stand_in
from safetensors.torch import save_file
from tiny_upscalers import compact_state, onnx_upscaler, reference, require_spandrel, rrdb_state, saved

import latentrt
from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import open_upscaler
from latentrt.engines.bundle.checks.parity import Reference, psnr
from latentrt.engines.bundle.checks.photograph import picture_pixels
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UPSCALER
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Precision
from latentrt.engines.shapes import Profile
from latentrt.export.upscalers.finding import upscaler_from_headers
from latentrt.export.upscalers.onnx_graph import holds_half
from latentrt.export.upscalers.spandrel_networks import network_from_tensors
from latentrt.export.upscalers.torch_source import TorchUpscaler

PICTURE = picture_pixels(Profile(width=40, height=28))[0].transpose(1, 2, 0)


@pytest.fixture(scope="module", autouse=True)
def _spandrel_is_there() -> None:
    require_spandrel()


def flat(path: Path, state: dict[str, Any]) -> Path:
    """A safetensors file of wrapped weights, as converters leave it."""
    save_file({f"params.{name}": tensor for name, tensor in state.items()}, path)
    return path


def old_names(state: dict[str, Any]) -> dict[str, Any]:
    """ESRGAN's names before Real-ESRGAN's: BSRGAN's and RealSR's."""
    new = {"conv_body": "trunk_conv", "body.": "RRDB_trunk.", ".rdb": ".RDB", "conv_up": "upconv", "conv_hr": "HRconv"}

    def renamed(name: str) -> str:
        for now, then in new.items():
            name = name.replace(now, then)
        return name

    return {renamed(name): tensor for name, tensor in state.items()}


SAVED: dict[str, tuple[Callable[[Path], Path], int, int, str]] = {
    "RRDBNet": (lambda folder: saved(folder / "x4.pth", rrdb_state()), 4, 1, "ESRGAN"),
    "RRDBNet of half": (
        lambda folder: saved(folder / "h.pth", {k: v.half() for k, v in rrdb_state().items()}, "params"), 4, 1, "ESRGAN"
    ),
    "BSRGAN": (lambda folder: saved(folder / "b.pth", old_names(rrdb_state()), None), 4, 1, "ESRGAN"),
    "RRDBNet x2": (lambda folder: saved(folder / "x2.pth", rrdb_state(inputs=12)), 2, 4, "ESRGAN"),
    "anime, 6 blocks": (lambda folder: saved(folder / "a.pth", rrdb_state(blocks=6)), 4, 1, "ESRGAN"),
    "SRVGGNetCompact": (lambda folder: saved(folder / "c.pth", compact_state(), "params"), 2, 1, "RealESRGAN Compact"),
    "safetensors": (lambda folder: flat(folder / "c.safetensors", compact_state(scale=4)), 4, 1, "RealESRGAN Compact"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAVED)
def test_told_by_its_tensors(kind: str, tmp_path: Path) -> None:
    """From the header alone; spandrel makes of it what it is."""
    make, scale, multiple, architecture = SAVED[kind]
    found = upscaler_from_headers(str(make(tmp_path)))
    assert isinstance(found, TorchUpscaler)
    network = network_from_tensors(found.source, found._tensors())
    assert (network.scale, network.multiple, network.architecture) == (scale, multiple, architecture)


def test_the_bundle_tells_what_it_is(tiny_upscaler: Path) -> None:
    """Its figures against spandrel's module, its scale and its tiles."""
    manifest = open_upscaler(tiny_upscaler).manifest
    record = manifest.components[UPSCALER]
    assert (manifest.family, manifest.scale, manifest.upscaler) == ("ESRGAN", 4, "torch")
    assert list(map(str, manifest.profiles)) == ["32x32", "48x32"]
    assert record.reference is Reference.TORCH
    assert record.parity.psnr > 100
    assert record.parity.relative_error < 1e-5
    assert record.parity.cases == 2
    assert manifest.source.decisions["weights"].value == "params_ema"


@pytest.mark.slow
@pytest.mark.parametrize("state", [rrdb_state(inputs=12), compact_state(scale=3)], ids=["x2", "compact"])
def test_others_as_spandrel(state: dict[str, Any], tmp_path: Path) -> None:
    """Of a picture whose sides are no multiples of what the network takes."""
    bundle = latentrt.build(saved(tmp_path / "u.pth", state), tmp_path / "u.bundle", profiles=["32x32"]).bundle
    with latentrt.open_upscaler(bundle.root, threads=1) as upscaler:
        for picture in (PICTURE[:20, :20], PICTURE[:20, :19]):
            found, expected = upscaler.upscaled(picture[None])[0], reference(state, picture)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_fp16(tmp_path: Path) -> None:
    """Half the bytes, and pictures that nobody can tell apart."""
    source = saved(tmp_path / "x4.pth", rrdb_state())
    bundle = latentrt.build(source, tmp_path / "half.bundle", precision="fp16", profiles=["48x48"]).bundle
    record = bundle.manifest.components[UPSCALER]
    assert record.precision is Precision.FP16
    assert record.parity.psnr > 60
    with latentrt.open_upscaler(bundle.root, threads=1) as upscaler:
        found = upscaler.upscaled(PICTURE[None])[0]
    assert psnr(found, reference(rrdb_state(), PICTURE), peak=1.0) > 60


def test_up_to_date_and_more_engines(command: Callable[..., Any], tmp_path: Path) -> None:
    """A second build finds the same; other tiles are another bundle; to a bundle only engines are added."""
    source, root = onnx_upscaler(tmp_path / "twice.onnx"), tmp_path / "twice.bundle"
    assert not latentrt.build(source, root, profiles=["32x32"]).up_to_date
    assert latentrt.build(source, root, profiles=["32x32"]).up_to_date
    assert not latentrt.build(source, root, profiles=["48x32"]).up_to_date
    assert latentrt.build(root).up_to_date
    for folder in (root / "engines").iterdir():
        (folder / "model.onnx").unlink()
    assert not latentrt.build(root).up_to_date
    with pytest.raises(latentrt.RequestError, match="got precision, profiles for the bundle of an upscaler"):
        latentrt.build(root, precision="fp16", profiles=["64x64"])
    with pytest.raises(latentrt.OutputError, match="is the bundle of an upscaler, which a model does not replace"):
        latentrt.build("emoji", root)


@pytest.mark.parametrize(
    ("options", "multiple", "tiles"),
    [
        ({}, 1, "256x256"),
        ({"outside": True, "batch": "n"}, 1, "256x256"),
        ({"size": (40, 64)}, 1, "64x40"),
        ({"half": True}, 1, "256x256"),
    ],
    ids=["dynamic", "weights beside it", "of one size", "fp16"],
)
def test_onnx_is_taken_as_it_is(options: dict[str, Any], multiple: int, tiles: str, tmp_path: Path) -> None:
    """With the sizes freed; the file's own precision, unless the other is asked for."""
    source = onnx_upscaler(tmp_path / "twice.onnx", scale=3, **options)
    bundle = latentrt.build(source, tmp_path / "u.bundle").bundle
    manifest, record = bundle.manifest, bundle.manifest.components[UPSCALER]
    assert (manifest.scale, manifest.pixel_multiple, manifest.upscaler) == (3, multiple, "onnx")
    assert ",".join(map(str, manifest.profiles)) == tiles
    assert record.reference is Reference.ONNX
    assert record.precision is (Precision.FP16 if "half" in options else Precision.FP32)
    with latentrt.open_upscaler(bundle.root, threads=1) as upscaler:
        found = upscaler.upscaled(PICTURE[:9, :7][None])[0]
    np.testing.assert_allclose(found, PICTURE[:9, :7].repeat(3, 0).repeat(3, 1), atol=1e-3 if "half" in options else 0)


def test_onnx_that_holds_its_size_inside(tmp_path: Path) -> None:
    """Runs tiles of it alone; smaller pictures are mirrored to its size."""

    def body(helper: Any) -> list[Any]:
        import onnx

        shape = onnx.numpy_helper.from_array(np.array([1, 3, 24, 32], np.int64), "shape")
        return [
            helper.make_node("Constant", [], ["shape"], value=shape, name="shape"),
            helper.make_node("Reshape", ["in", "shape"], ["same"], name="reshape"),
            helper.make_node("Resize", ["same", "", "scales"], ["out"], mode="nearest", name="resize"),
        ]

    source = onnx_upscaler(tmp_path / "fixed.onnx", size=(24, 32), body=body)
    bundle = latentrt.build(source, tmp_path / "u.bundle").bundle
    assert bundle.manifest.source.decisions["tiles"].value == "32x24 alone"
    with latentrt.open_upscaler(bundle.root, threads=1) as upscaler:
        for picture in (PICTURE, PICTURE[:9, :7]):
            np.testing.assert_array_equal(upscaler.upscaled(picture[None])[0], picture.repeat(2, 0).repeat(2, 1))
    with pytest.raises(latentrt.RequestError, match="whose graph holds the size 32x24 inside"):
        latentrt.build(source, tmp_path / "v.bundle", profiles=["64x64"])


def test_onnx_in_fp16_on_request(tmp_path: Path) -> None:
    """Compared with the file's own fp32."""
    source = onnx_upscaler(tmp_path / "twice.onnx")
    bundle = latentrt.build(source, tmp_path / "half.bundle", precision="fp16", profiles=["32x32"]).bundle
    record = bundle.manifest.components[UPSCALER]
    assert record.precision is Precision.FP16
    assert record.parity.psnr > 45
    assert holds_half(load_graph(bundle.root / record.onnx))


class _Runs:
    """Runs a command where a pickle is trusted."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def _inverted(helper: Any) -> list[Any]:
    return [
        helper.make_node("Neg", ["in"], ["less"]),
        helper.make_node("Mul", ["less", "less"], ["grey"]),
        helper.make_node("Sub", ["less", "grey"], ["other"]),
        helper.make_node("Resize", ["other", "", "scales"], ["out"], mode="nearest"),
    ]


def _cut(path: Path, source: Path) -> Path:
    path.write_bytes(source.read_bytes()[:-200])
    return path


def _elsewhere(path: Path) -> Path:
    """An ONNX file that says that its weights are those of another folder."""
    source = onnx_upscaler(path, outside=True)
    content = source.read_bytes()
    there = f"{path.name}.data".encode()
    source.write_bytes(content.replace(there, b"../" + there[3:]))
    return source


WRONG: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "a pickle that runs something": (
        lambda folder: saved(folder / "evil.pth", {"body.0.weight": torch.zeros(1), "x": _Runs()}), {},
        "posix.system.*nothing of it was run",
    ),
    "cut short": (lambda folder: _cut(folder / "cut.pth", saved(folder / "u.pth", compact_state())), {}, "cut short"),
    "incomplete": (
        lambda folder: saved(
            folder / "u.pth", {k: v for k, v in rrdb_state().items() if "body.1.rdb2" not in k}
        ), {}, "an upscaler that is incomplete, or of a form of ESRGAN",
    ),
    "NaN": (
        lambda folder: saved(folder / "u.pth", compact_state() | {"body.2.bias": torch.full((8,), float("nan"))}), {},
        "NaN or infinite numbers in params_ema.body.2.bias",
    ),
    "a layer of a number that none has": (
        lambda folder: saved(folder / "u.pth", compact_state() | {"body.999999999.weight": torch.zeros(1)}), {},
        "whose number no network has",
    ),
    "grey": (
        lambda folder: saved(
            folder / "u.pth", compact_state() | {"body.0.weight": torch.zeros(8, 1, 3, 3)}
        ), {}, "expected an upscaler of RGB pictures",
    ),
    "int8": (lambda folder: saved(folder / "u.pth", compact_state()), {"precision": "int8"}, "fp32, fp16 or bf16"),
    "an option of models": (lambda folder: saved(folder / "u.pth", compact_state()), {"vae": "v"}, "got vae for an up"),
    "several in a call": (
        lambda folder: saved(folder / "u.pth", compact_state()), {"profiles": ["32x32x2"]}, "expected one in a call",
    ),
    "tiles of odd sides": (
        lambda folder: saved(folder / "u.pth", rrdb_state(inputs=12)), {"profiles": ["33x32"]},
        "multiples of 4 pixels.* such as 36x32",
    ),
    "for a model": (lambda folder: saved(folder / "u.pth", compact_state()), {"for_bundle": "tiny"}, "leave --for out"),
    "damaged ONNX": (lambda folder: _cut(folder / "cut.onnx", onnx_upscaler(folder / "u.onnx")), {}, "no ONNX model"),
    "ONNX of two inputs": (
        lambda folder: onnx_upscaler(folder / "u.onnx", inputs=2), {}, r"inputs in \(1, 3, h, w\) float, second",
    ),
    "ONNX of one channel": (lambda folder: onnx_upscaler(folder / "u.onnx", channels=1), {}, r"\(1, 1, h, w\) float"),
    "ONNX of a batch": (lambda folder: onnx_upscaler(folder / "u.onnx", batch=2), {}, r"\(2, 3, h, w\) float"),
    "ONNX of another picture": (
        lambda folder: onnx_upscaler(folder / "u.onnx", body=_inverted), {}, "its result is another picture",
    ),
    "ONNX by no whole number": (
        lambda folder: onnx_upscaler(folder / "u.onnx", scale=1.5), {}, r"a picture \(1, 3, .* became",  # type: ignore[arg-type]
    ),
    "ONNX with weights elsewhere": (lambda folder: _elsewhere(folder / "u.onnx"), {}, "are not or must not be"),
    "fp16 ONNX in fp32": (
        lambda folder: onnx_upscaler(folder / "u.onnx", half=True), {"precision": "fp32"}, "whose ONNX is in fp16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_refused(mistake: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence each; nothing is run, and nothing is left behind."""
    make, options, said = WRONG[mistake]
    monkeypatch.chdir(tmp_path)
    source = make(tmp_path)
    options = {name: tiny_bundle if value == "tiny" else value for name, value in options.items()}
    with pytest.raises(latentrt.LatentrtError, match=said) as caught:
        latentrt.build(source, tmp_path / "u.bundle", **options)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    assert not (tmp_path / "pwned").exists()
    assert not [path.name for path in tmp_path.iterdir() if "bundle" in path.name and path.is_dir()]


def test_a_file_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched alone; its name and its commit are the bundle's."""
    with hub_stand_in(tmp_path / "cache", monkeypatch) as hub:
        remote = hub.add("owner/upscalers", tmp_path / "remote")
        remote.mkdir()
        saved(remote / "x2.pth", compact_state())
        saved(remote / "other.pth", compact_state())
        found = upscaler_from_headers("owner/upscalers/x2.pth")
        assert isinstance(found, TorchUpscaler)
        assert (found.name, found.place.revision) == ("owner/upscalers/x2.pth", commit_of("main"))
        assert hub.weights() == {"x2.pth"}
        with pytest.raises(latentrt.CheckpointError, match="has no such file; check the name"):
            latentrt.build("owner/upscalers/x3.pth", tmp_path / "x3.bundle")


def test_other_files_are_no_upscalers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Models, folders and what is no file go their own way."""
    weights = tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "text.pth").write_text("nothing")
    shard = tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors"
    save_file({"conv_in.weight": torch.zeros(2)}, shard)
    nothing = tmp_path / "text.pth", tmp_path / "none.pth"
    for other in (shard, weights, tiny_checkpoint, "emoji", "owner/name", *nothing):
        assert upscaler_from_headers(str(other)) is None


@pytest.mark.slow
def test_a_network_that_spandrel_knows_by_other_names(tmp_path: Path) -> None:
    """What no row of ours tells is shown to spandrel; without it the file is what it was."""
    from spandrel.architectures.SPAN import SPAN

    torch.manual_seed(0)
    net = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)
    source = saved(tmp_path / "span.pth", net.state_dict(), "params")
    found = upscaler_from_headers(str(source))
    assert isinstance(found, TorchUpscaler)
    bundle = latentrt.build(source, tmp_path / "span.bundle", profiles=["32x32"]).bundle
    assert bundle.manifest.family == "SPAN"
    assert bundle.manifest.components[UPSCALER].parity.psnr > 60


@pytest.mark.slow
def test_a_network_that_is_traced_for_one_size(tmp_path: Path) -> None:
    """SwinIR's windows: a trace for every size holds one inside, which is found out, and the tiles are of one size."""
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    net = SwinIR(
        img_size=16, depths=[2], embed_dim=12, num_heads=[2], window_size=8, upscale=2, upsampler="pixelshuffledirect"
    )
    source = saved(tmp_path / "swin.pth", net.state_dict(), "params")
    bundle = latentrt.build(source, tmp_path / "swin.bundle", profiles=["32x32"]).bundle
    assert bundle.manifest.components[UPSCALER].parity.psnr > 100
    assert bundle.manifest.source.decisions["tiles"].value == "32x32 alone"
    with latentrt.open_upscaler(bundle.root, threads=1) as upscaler:
        assert upscaler.upscaled(PICTURE[None]).shape == (1, 56, 80, 3)
    with pytest.raises(latentrt.CheckpointError, match="cannot be traced for tiles of more than one size"):
        latentrt.build(source, tmp_path / "two.bundle", profiles=["32x32", "64x64"])


def test_plans_are_built_without_a_gpu(tiny_upscaler: Path, onnx_upscaler_bundle: Path, tmp_path: Path) -> None:
    """By TensorRT-RTX for sm89: one shape a size of tiles."""
    pytest.importorskip("tensorrt_rtx")
    for root, shapes in ((tiny_upscaler, 2), (onnx_upscaler_bundle, 1)):
        component = Component(root=root, manifest=open_upscaler(root).manifest, name=UPSCALER)
        folder = tmp_path / root.name
        folder.mkdir()
        contents = TensorRTRTX().compile(component, Target(machine=gpu_machine("sm89")), folder, None)
        assert contents is not None
        assert len(contents.shapes) == shapes
