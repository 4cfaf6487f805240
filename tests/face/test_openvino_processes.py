"""A pipeline on openvino in more than one process, and in more than one thread."""

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face.test_processes import CASES, COMMON, FORKING, forks
from shared import filled_once
from tiny_loras import save_tiny_lora

import latentrt

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, shared: Path) -> Path:
    """The tiny bundle with engines for openvino. Do not write to it."""

    def build(folder: Path) -> None:
        shutil.copytree(tiny_bundle, folder)
        latentrt.build(folder, backend="openvino")

    return filled_once(shared / "openvino-tiny.bundle", build)


@forks
@pytest.mark.parametrize("case", CASES)
def test_a_forked_process_does_not_hang(case: str, bundle: Path, tmp_path: Path) -> None:
    """It draws the same picture, and so does its parent afterwards."""
    loras = [save_tiny_lora(tmp_path / "style.safetensors", bundle)] if "LoRA" in case else []
    script = f"{FORKING}\ndef draw_globally(_):\n    return draw(pipe)\n{CASES[case]}\nassert draw(pipe) == expected\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script.replace("threads=2", "threads=2, backend='openvino'"),
         str(bundle), *map(str, loras)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_pickled_and_in_threads_it_draws_the_same(bundle: Path) -> None:
    """Eight callers of one pipeline; one that was pickled."""
    with latentrt.open(bundle, backend="openvino", threads=2) as pipe:

        def draw(seed: int) -> Any:
            return pipe(["a cat", "b"][: 1 + seed % 2], **{**COMMON, "seed": seed}).latents

        alone = [draw(seed) for seed in range(8)]
        with ThreadPoolExecutor(8) as pool:
            for found, expected in zip(pool.map(draw, range(8)), alone, strict=True):
                np.testing.assert_array_equal(found, expected)
        with pickle.loads(pickle.dumps(pipe)) as other:
            assert other.backend == "openvino"
            np.testing.assert_array_equal(other("a cat", **COMMON).latents, pipe("a cat", **COMMON).latents)


def test_plain_drawing_needs_neither_onnx_nor_onnx_ir(bundle: Path) -> None:
    """Nor ONNX Runtime."""
    script = f"""
import sys, latentrt
for name in ("onnx", "onnx_ir", "onnxruntime", "torch"):
    sys.modules[name] = None
with latentrt.open({str(bundle)!r}, backend="openvino", threads=1) as pipe:
    pipe("a cat", num_inference_steps=1, seed=1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
