"""Components that are too large to be optimised are saved as they are, and run the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import latentrt
from latentrt.cli import terminal
from latentrt.engines.backends.ort_cpu import compile as ort_compile
from latentrt.engines.backends.ort_cpu import model as ort_model
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.machine import available_memory, memory_within_cgroup
from latentrt.engines.store.store import engines_in


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.slow
def test_too_large_to_optimise(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The engine has the ONNX's weights and not a packed copy, passes its gate and draws."""
    folder = tmp_path / "new.bundle"
    latentrt.build(tiny_checkpoint, folder, precision=precision)
    sizes = []
    for memory in (available_memory(), 2**20):
        shutil.rmtree(folder / "engines")
        for module in (ort_compile, ort_model):
            monkeypatch.setattr(module, "available_memory", lambda memory=memory: memory)
        latentrt.build(folder)
        unet = next(engine for engine in engines_in(folder) if engine.component == "unet")
        assert unet.parity is not None
        # A shallow graph has small weights in itself, which are most of what a tiny model has
        sizes.append(sum(file.size for name, file in unet.files.items() if not name.startswith("shallow")))
    manifest = open_bundle(folder).manifest
    weights = manifest.components["unet"].weights
    assert weights is not None
    assert manifest.files[weights].size <= sizes[1] < 1.3 * manifest.files[weights].size
    assert sizes[1] < sizes[0]
    with latentrt.open(folder) as pipe:
        assert pipe("a cat", num_inference_steps=1, seed=1).images


def test_what_was_not_optimised_is_told_and_made_again(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """At the build and by inspect; the next build optimises it once there is memory, and not before."""
    memory = [2**20]
    for module in (ort_compile, ort_model):
        monkeypatch.setattr(module, "available_memory", lambda: memory[0])
    monkeypatch.setattr(terminal, "stdout", Console(width=200, highlight=False, markup=False))
    shutil.rmtree(tiny_copy / "engines")
    with pytest.warns(UserWarning, match=r"too little memory is free to optimise unet for ort-cpu.*build again"):
        latentrt.build(tiny_copy)
    shown = command("inspect", tiny_copy)
    assert shown.status == 0
    assert shown.stdout.count(" not optimised ") == 4
    assert "not optimised: too little memory was free" in shown.stdout
    assert "compiled shapes" not in shown.stdout
    assert latentrt.build(tiny_copy).up_to_date
    latentrt.open(tiny_copy).close()
    memory[0] = 2**40
    assert not latentrt.build(tiny_copy).up_to_date
    assert {engine.contents for engine in engines_in(tiny_copy)} == {None}
    assert "not optimised" not in command("inspect", tiny_copy).stdout


@pytest.mark.parametrize(
    ("limits", "free"),
    [
        ({}, 2**63),
        ({"outer/inner": ("max", 5, 1)}, 2**63),
        ({"outer/inner": ("1000", 700, 50)}, 350),
        ({"outer/inner": ("1000", 700, 50), "outer": ("2000", 1900, 20)}, 120),
        ({"outer/inner": ("1000", 1200, 0)}, 0),
        ({".": ("900", 100, 0)}, 800),
    ],
)
def test_limits_of_containers_count(tmp_path: Path, limits: dict[str, tuple[str, int, int]], free: int) -> None:
    """The narrowest of the group's own and of those around it; cached files are given up first."""
    root = tmp_path / "cgroup"
    (root / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "membership").write_text("4:memory:/elsewhere\n0::/outer/inner\n")
    for group, (limit, used, cached) in limits.items():
        (root / group / "memory.max").write_text(f"{limit}\n")
        (root / group / "memory.current").write_text(f"{used}\n")
        (root / group / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\nactive_file 3\n")
    assert memory_within_cgroup(root, tmp_path / "membership") == free
    assert memory_within_cgroup(root, tmp_path / "missing") == 2**63


def test_memory_is_told() -> None:
    """A number of bytes that a machine can have."""
    assert 2**26 < available_memory() <= 2**63
