"""Two bundles are made of one source at the same time, in two processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from face.test_interrupted import CODE, hidden

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.precision import Backend
from latentrt.engines.store.store import engines_in
from latentrt.verifying import verify

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


def test_int8_and_bf16_at_once(emoji_bundle: Path, int8_prompts: Path, tmp_path: Path) -> None:
    """Both want the source's engines for this CPU, which it lacks: it gets them once, and both results are whole."""
    source = shutil.copytree(emoji_bundle, tmp_path / "source.bundle")
    shutil.rmtree(source / "engines")
    (source / "engines").mkdir()
    before = open_bundle(source).manifest
    begun = {
        precision: subprocess.Popen(
            [sys.executable, "-c", CODE, "build", str(source), "-o", str(tmp_path / f"{precision}.bundle"),
             f"--precision={precision}", "--prompts", str(int8_prompts), "--quality=20"],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for precision in ("int8", "bf16")
    }  # fmt: skip
    for process in begun.values():
        _, told = process.communicate()
        assert process.returncode == 0, told
    assert hidden(tmp_path) == set()
    assert open_bundle(source).manifest == before
    open_bundle(source).check_all()
    parts = sorted(one.component for one in engines_in(source) if one.backend is Backend.ORT_CPU)
    assert parts == sorted(before.components)
    for precision in begun:
        made = tmp_path / f"{precision}.bundle"
        assert open_bundle(made).manifest.precision == precision
        verify(made)
        with latentrt.open(made, threads=1) as pipe:
            assert pipe("a cat", seed=1, num_inference_steps=2).images
