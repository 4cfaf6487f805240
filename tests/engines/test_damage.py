"""Bundles that were cut, altered, mixed up or made elsewhere are refused; ``build BUNDLE`` mends the engines."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latentrt
from latentrt.engines.backends.ort_cpu import backend as ort_cpu
from latentrt.engines.bundle.records.manifests.manifest_file import SCHEMA
from latentrt.verifying import verify

PORTABLE = {
    "onnx": "onnx/fp32/unet/model.onnx",
    "weights": "onnx/fp32/unet/model.onnx.data",
    "probes": "probes/vae_decoder.safetensors",
    "tokenizer": "tokenizer/tokenizer.json",
    "embeddings": "embeddings/text_encoder.safetensors",
}
ENGINE = ("model.onnx", "model.onnx.data")


def flip(path: Path) -> None:
    """Changes one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Keeps the first half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def change(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def unet_engine(bundle: Path) -> Path:
    """The folder of the U-Net's engine."""
    return next(p.parent for p in bundle.glob("engines/*/engine.json") if '"unet"' in p.read_text())


def snapshot(bundle: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file."""
    files = [path for path in bundle.rglob("*") if path.is_file()]
    return {str(path.relative_to(bundle)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "no readable bundle.json"),
    "cut short": (cut, "cut short or not JSON"),
    "empty": (lambda path: path.write_bytes(b""), "cut short or not JSON"),
    "binary": (lambda path: path.write_bytes(b"\xff\x00"), "cut short or not JSON"),
    "a list": (lambda path: path.write_text("[]"), "schema_version"),
    "a number": (lambda path: path.write_text("3"), "schema_version|should be an object|valid dictionary"),
    "add-ons": (lambda path: change(path, addon=["control-net"]), "addon"),
    "a deep list": (lambda path: path.write_text("[" * 100_000), "cut short or not JSON"),
    "an unknown key": (lambda path: change(path, colour="red"), "colour"),
    "a newer schema": (
        lambda path: change(path, schema_version=SCHEMA + 1),
        f"schema {SCHEMA + 1}.*update latentrt",
    ),
    "an older schema": (lambda path: change(path, schema_version=1), "schema 1.*build the bundle again"),
    "a bad profile": (lambda path: change(path, profiles=["wide"]), "profiles"),
    "no profiles": (lambda path: change(path, profiles=[]), "profiles"),
    "of before the token embeddings were apart": (
        lambda path: change(path, token_embeddings=None),
        "token_embeddings.*build the bundle again",
    ),
    "token embeddings left out": (lambda path: change(path, token_embeddings={}), "lacks text_encoder's token embed"),
    "files left out": (lambda path: change(path, files={}), "files"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest(tiny_copy: Path, damage: str) -> None:
    """Opening and verifying say what is wrong with it."""
    spoil, reason = DAMAGES[damage]
    spoil(tiny_copy / "bundle.json")
    for use in (latentrt.open, verify, latentrt.build):
        if use is latentrt.build and damage == "missing":
            continue  # no bundle any more: taken for a model
        with pytest.raises(latentrt.BundleError, match=reason):
            use(tiny_copy)


@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink])
@pytest.mark.parametrize("kind", PORTABLE)
def test_a_damaged_portable_file(tiny_copy: Path, kind: str, spoil: Callable[[Path], Any]) -> None:
    """Verifying and building name the file; opening, too, where it reads it."""
    spoil(tiny_copy / PORTABLE[kind])
    uses: list[Callable[[Path], Any]] = [verify, latentrt.build]
    for use in uses + ([latentrt.open] if kind in ("tokenizer", "embeddings") else []):
        with pytest.raises(latentrt.BundleError, match=PORTABLE[kind]):
            use(tiny_copy)


def test_every_damaged_file_is_named_at_once(tiny_copy: Path) -> None:
    """So that nobody mends them one by one."""
    for name in PORTABLE.values():
        flip(tiny_copy / name)
    with pytest.raises(latentrt.BundleError) as refused:
        verify(tiny_copy)
    assert all(name in str(refused.value) for name in PORTABLE.values())


@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", [*ENGINE, "engine.json"])
@pytest.mark.grid
def test_a_damaged_engine_is_refused_and_rebuilt(tiny_copy: Path, name: str, spoil: Callable[[Path], Any]) -> None:
    """``build BUNDLE`` makes that engine again and touches nothing else."""
    folder = unet_engine(tiny_copy)
    victim = folder / name
    if not victim.stat().st_size:
        pytest.skip("the tiny U-Net has no large weights")
    before = snapshot(tiny_copy)
    spoil(victim)
    with pytest.raises(latentrt.BundleError, match=r"build the bundle again|written by latentrt build"):
        latentrt.open(tiny_copy)
    assert latentrt.build(tiny_copy).up_to_date is False
    after = snapshot(tiny_copy)
    assert after.keys() == before.keys()
    own = f"engines/{folder.name}/"
    assert {key: value for key, value in after.items() if not key.startswith(own)} == {
        key: value for key, value in before.items() if not key.startswith(own)
    }
    verify(tiny_copy)
    assert latentrt.build(tiny_copy).up_to_date is True


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (
            ort_cpu,
            "cpu_features",
            "linux riscv64 RVV",
            "compiled for another machine.*got 'linux.*expected 'linux riscv64",
        ),
        (ort_cpu, "version", "1.99.0", r"compiled by ONNX Runtime [\d.]+, installed is 1.99.0"),
    ],
)
def test_engines_from_elsewhere(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: str, reason: str
) -> None:
    """The refusal says from where and gives the command that helps; the command helps."""
    monkeypatch.setattr(module, name, lambda: value)
    with pytest.raises(latentrt.EngineError, match=rf"{reason}.*latentrt build {tiny_copy} --backend ort-cpu"):
        latentrt.open(tiny_copy)
    assert latentrt.build(tiny_copy).up_to_date is False
    with latentrt.open(tiny_copy) as pipe:
        pipe("a cat", num_inference_steps=1)
    monkeypatch.undo()
    latentrt.open(tiny_copy).close()  # the first engines are still there


def test_a_bundle_without_engines(tiny_copy: Path) -> None:
    """Opening never compiles behind the user's back."""
    shutil.rmtree(tiny_copy / "engines")
    with pytest.raises(latentrt.EngineError, match=rf"no ort-cpu engine of .*latentrt build {tiny_copy}"):
        latentrt.open(tiny_copy)
    assert not (tiny_copy / "engines").exists()
