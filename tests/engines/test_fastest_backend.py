"""Which backend ``auto`` takes of a bundle that was built for speed, and what is shown of it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from shared import write_sealed
from twin_backend import leave_twin_alone

import latentrt
from latentrt.engines.backends.ort_cpu.backend import FLAGS
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import Profile
from latentrt.engines.store.choose import best_backend
from latentrt.engines.store.speed import SPEED_FILE, SpeedRecord, SpeedRow, write_speed


def record(backend: Backend, machine: str, rows: Sequence[SpeedRow] = ()) -> SpeedRecord:
    """What a build for speed might have left."""
    return SpeedRecord(
        latentrt="1",
        machine=machine,
        precision=Precision.FP32,
        backend=backend,
        reference=Backend.ORT_CPU,
        quality=30.0,
        profile=Profile(width=32, height=32, batch=2),
        steps=2,
        rounds=3,
        pictures=3,
        versions={},
        made_of="",
        rows=tuple(rows),
    )


def test_engines_of_other_files_are_told_from_none(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to make one is said once."""
    monkeypatch.setitem(FLAGS, "recipe", "another")
    with pytest.raises(EngineError) as caught:
        best_backend(open_bundle(tiny_copy))
    assert "the ort-cpu engine of text_encoder was compiled of other files, or by another version" in str(caught.value)
    assert str(caught.value).count("latentrt build") == 1


def test_auto_takes_what_was_kept_on_this_machine(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """On another machine, or without the engine, it goes by the order as ever; an edited record is refused."""
    leave_twin_alone(monkeypatch)
    latentrt.build(tiny_copy, backend="openvino")
    bundle, here = open_bundle(tiny_copy), COMPILERS[Backend.OPENVINO].here()
    assert best_backend(bundle) is Backend.ORT_CPU
    row = SpeedRow(precision=Precision.FP32, backend=Backend.OPENVINO, step=0.1, picture=1.5, share=0.5)
    write_speed(tiny_copy, record(Backend.OPENVINO, here, [row]))
    assert best_backend(bundle) is Backend.OPENVINO
    with latentrt.open(tiny_copy) as pipe:
        assert pipe.backend == "openvino"
    shown = command("inspect", tiny_copy).stdout
    assert "auto       openvino (kept by a build for speed)" in shown
    assert "1.50 s" in shown
    told = json.loads(command("inspect", tiny_copy, "--json").stdout)
    assert (told["auto"], told["speed"]["machine"], told["speed"]["seal"]["intact"]) == ("openvino", here, True)
    write_speed(tiny_copy, record(Backend.OPENVINO, "another machine"))
    assert best_backend(bundle) is Backend.ORT_CPU
    assert "auto       ort-cpu\n" in command("inspect", tiny_copy).stdout
    write_speed(tiny_copy, record(Backend.ORT_CUDA, here))
    assert best_backend(bundle) is Backend.ORT_CPU
    path = tiny_copy / SPEED_FILE
    path.write_text(path.read_text("utf-8").replace('"ort-cuda"', '"openvino"'), "utf-8")
    with pytest.raises(BundleError, match=r"speed\.json' was edited"):
        best_backend(bundle)
    assert command("inspect", tiny_copy).status == 0
    write_sealed(path, {"schema_version": 1})
    with pytest.raises(BundleError, match=r"build the bundle with --fastest again, or remove the file"):
        latentrt.open(tiny_copy)
