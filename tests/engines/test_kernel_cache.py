"""TensorRT-RTX's kernels are compiled once per machine: kept beside the plan, and refused where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stand_ins import StandInDriver, StandInTensorRT, StandInTensorRTRTX

from latentrt.engines.backends.tensorrt.run import TensorRTModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.shapes import Profile, Shapes

PAIR = Shapes(profile=Profile(width=32, height=32, batch=2))
CACHE = "kernels-NVIDIA-Quadro-RTX-6000-8000.cache"

Drawn = Callable[..., StandInTensorRT]


@pytest.fixture
def drawn(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Opens the U-Net's plan in a folder, runs it so often, closes it; gives the module, which counts compilations."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    component = Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")
    folder = tmp_path / "0123abcd"
    folder.mkdir()
    (folder / "model.plan").write_text(json.dumps("plan"))

    def draw(runs: int = 1, kind: type[StandInTensorRT] = StandInTensorRTRTX, **attributes: object) -> StandInTensorRT:
        trt = kind(StandInDriver(), component, lambda inputs: {"out_sample": inputs["sample"]})
        for name, value in attributes.items():
            setattr(trt, name, value)
        model = TensorRTModel(trt, trt.driver, component, folder / "model.plan", maker="TensorRT-RTX")
        engine = model.engine(PAIR)
        inputs = {
            name: np.zeros(tensor.sized(engine.spec.batches[0]), tensor.dtype)
            for name, tensor in engine.spec.inputs.items()
        }
        for _ in range(runs):
            engine.run(inputs)
        model.close()
        assert not trt.driver.live
        return trt

    return draw


def test_kernels_are_compiled_once_per_machine(drawn: Drawn, tmp_path: Path) -> None:
    """The second process finds them, and writes nothing; TensorRT proper has none."""
    kept = tmp_path / "0123abcd" / CACHE
    assert drawn().compiled == 1
    written = kept.stat()
    assert drawn(3).compiled == 0
    assert kept.stat().st_mtime_ns == written.st_mtime_ns
    assert kept.stat().st_ino == written.st_ino
    assert sorted(path.name for path in kept.parent.iterdir()) == [CACHE, "model.plan"]
    assert not (tmp_path / "user").exists()
    kept.unlink()
    assert drawn(kind=StandInTensorRT).compiled == 0
    assert not kept.exists()


def test_a_plan_that_never_ran_leaves_nothing(drawn: Drawn, tmp_path: Path) -> None:
    """Nobody waits for kernels that no picture needed."""
    assert drawn(0).compiled == 1
    assert not (tmp_path / "0123abcd" / CACHE).exists()


@pytest.mark.parametrize("fault", ["cut off", "altered", "empty", "of another driver"])
def test_kernels_that_do_not_fit_are_compiled_again_and_replaced(drawn: Drawn, tmp_path: Path, fault: str) -> None:
    """Whatever is wrong with the file, the next process but one has its kernels."""
    kept = tmp_path / "0123abcd" / CACHE
    drawn(environment=b"1.0 NVIDIA 580" if fault != "of another driver" else b"0.9")
    content = kept.read_bytes()
    if fault == "cut off":
        kept.write_bytes(content[:-1])
    elif fault == "altered":
        kept.write_bytes(content[:-1] + b"1")
    elif fault == "empty":
        kept.write_bytes(b"")
    assert drawn().compiled == 1
    assert drawn().compiled == 0


def test_a_bundle_that_cannot_be_written(drawn: Drawn, tmp_path: Path) -> None:
    """The user's cache folder takes them, by the plan's key; where it does not either, nothing fails."""
    folder, user = tmp_path / "0123abcd", tmp_path / "user" / "latentrt" / "kernels"
    (folder / CACHE).mkdir()  # what no file can replace
    assert drawn().compiled == 1
    assert [path.name for path in user.iterdir()] == [f"0123abcd-{CACHE.removeprefix('kernels-')}"]
    assert drawn().compiled == 0
    (tmp_path / "user" / "latentrt").rename(tmp_path / "elsewhere")
    (tmp_path / "user" / "latentrt").write_text("a file")
    assert drawn().compiled == 1
