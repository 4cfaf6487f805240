"""A process is more than one call: forks, pickles, and another working directory."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.precision import Backend
from latentrt.engines.store.components import OpenComponents
from latentrt.runtime.pipeline import Pipeline

COMMON: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")

# Two threads, which the parent's engines have and the child's do not; each part ends with the picture or hangs
FORKING = """
import gc, multiprocessing, os, sys
import latentrt

def draw(pipe, **more):
    return pipe("a cat", num_inference_steps=2, seed=1, output_type="latent", **more).latents.tobytes()

def forked(work):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, work())
        sys.exit(3)  # an exit that lets go of everything
    os.close(write)
    with open(read, "rb") as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    return said

pipe = latentrt.open(sys.argv[1], threads=2)
if sys.argv[2:]:
    pipe.load_lora(sys.argv[2], "style")
expected = draw(pipe)
"""
CASES = {
    "draws": "assert forked(lambda: draw(pipe)) == expected",
    "draws with a LoRA": """
with_lora = draw(pipe, loras={"style": 1})
assert with_lora != expected
assert forked(lambda: draw(pipe, loras={"style": 1})) == with_lora
assert forked(lambda: (pipe.unload_lora("style"), draw(pipe))[1]) == expected
assert len(pipe.loras) == 1
""",
    "draws in a grandchild": "assert forked(lambda: forked(lambda: draw(pipe))) == expected",
    "leaves a pipeline alone": "assert forked(lambda: b'done') == b'done'",
    "lets go of a pipeline": """
def let_go():
    global pipe
    del pipe
    gc.collect()
    return b'done'
assert forked(let_go) == b'done'
""",
    "closes a pipeline": "assert forked(lambda: (pipe.close(), b'done')[1]) == b'done'",
    "opens another one": "assert forked(lambda: draw(latentrt.open(sys.argv[1], threads=2))) == expected",
    "forks a pool": """
with multiprocessing.get_context('fork').Pool(2) as pool:
    assert pool.map(draw_globally, range(4)) == [expected] * 4
""",
    "forks in a callback": """
def in_child():
    try:
        draw(pipe, callback_on_step_end=fork)
    except latentrt.EngineError as error:
        return str(error).encode()
def fork(pipe, step, timestep, tensors):
    global said
    if step == 0 and not os.environ.get('IN_CHILD'):
        read, write = os.pipe()
        if os.fork() == 0:
            os.environ['IN_CHILD'] = '1'
            pipes.append(write)
        else:
            os.close(write)
            said = open(read, 'rb').read()
pipes = []
told = in_child()
if pipes:
    os.write(pipes[0], told)
    os._exit(0)
assert b'engine is closed' in said
""",
}


@forks
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=() if case in ("draws", "draws with a LoRA", "lets go of a pipeline") else pytest.mark.slow
        )
        for case in CASES
    ],
)
def test_a_forked_process_does_not_hang(case: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """It draws the same picture, and so does its parent afterwards."""
    loras = [save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle)] if "LoRA" in case else []
    script = f"{FORKING}\ndef draw_globally(_):\n    return draw(pipe)\n{CASES[case]}\nassert draw(pipe) == expected\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tiny_bundle), *map(str, loras)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@forks
def test_a_gpu_does_not_follow_a_fork(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is told what to do; the parent goes on."""

    class OnGpu(OrtCpu):
        opens_after_fork = False

    monkeypatch.setitem(COMPILERS, Backend.ORT_CPU, OnGpu())
    assert not any(COMPILERS[gpu].opens_after_fork for gpu in set(COMPILERS) - {Backend.ORT_CPU, Backend.OPENVINO})
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        components = pipe._components
        assert isinstance(components, OpenComponents)
        components.after_fork()  # as the system calls it in a child
        with pytest.raises(latentrt.EngineError, match="multiprocessing's 'spawn'"):
            pipe("a cat", **COMMON)


def test_a_pickled_pipeline_opens_the_bundle_there(tiny_bundle: Path, tmp_path: Path) -> None:
    """With the options that it was opened with, and with what was loaded into it."""
    save_file({"emb_params": torch.ones(2, 64)}, tmp_path / "zorp.safetensors")
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        plain = pickle.loads(pickle.dumps(pipe))
        pipe.load_textual_inversion(tmp_path / "zorp.safetensors")
        (tmp_path / "zorp.safetensors").unlink()
        for protocol in (2, pickle.HIGHEST_PROTOCOL):
            with pickle.loads(pickle.dumps(pipe, protocol)) as other:
                assert isinstance(other, Pipeline)
                assert other is not pipe
                assert (other.backend, other._components._threads) == (pipe.backend, 1)  # type: ignore[attr-defined]
                drawn, again = (one("a zorp", **COMMON) for one in (pipe, other))
                np.testing.assert_array_equal(drawn.latents, again.latents)
                assert drawn.metadata == again.metadata
        with plain:
            assert np.abs(plain("a zorp", **COMMON).latents - drawn.latents).max() > 1e-4


def test_a_pickle_that_meets_another_bundle(
    tiny_copy: Path, masked_bundle: Path, family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """It is refused, or what opening says of it."""
    import shutil

    with latentrt.open(tiny_copy, threads=1) as pipe:
        pickled = pickle.dumps(pipe)
        pipe.load_lora(save_tiny_lora(tmp_path / "style.safetensors", tiny_copy))
        with_lora = pickle.dumps(pipe)
        with pytest.raises(latentrt.EngineError, match=r"latentrt\.open made"):
            pickle.dumps(Pipeline(pipe._bundle, pipe._components))
    shutil.rmtree(tiny_copy)
    with pytest.raises(latentrt.BundleError, match="expected the folder of a bundle"):
        pickle.loads(pickled)
    tiny_copy.symlink_to(family_bundle("sdxl"))
    with pytest.raises(latentrt.RequestError, match="bring the same bundle here"):
        pickle.loads(pickled)
    tiny_copy.unlink()
    tiny_copy.symlink_to(masked_bundle)
    pickle.loads(pickled).close()
    with pytest.raises(latentrt.RequestError, match=r"LoRAs for another model .* bring the same bundle here"):
        pickle.loads(with_lora)


def drawn_there(pipe: Pipeline) -> bytes:
    return pipe("a cat", **COMMON).latents.tobytes()


@pytest.mark.slow
def test_a_spawned_pool_draws(tiny_bundle: Path) -> None:
    """As with Ray: the pipeline is an argument of the work."""
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        expected = drawn_there(pipe)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(drawn_there, [pipe, pipe]) == [expected, expected]


def test_a_relative_path_stays_good(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoencoder's encoder is opened by the first call that needs it, wherever the process is then."""
    monkeypatch.chdir(tiny_bundle.parent)
    with latentrt.open(tiny_bundle.name, threads=1) as pipe:
        expected = pipe("a cat", **COMMON)
        monkeypatch.chdir(tmp_path)
        image = np.zeros((32, 32, 3), np.uint8)
        assert pipe.img2img("a cat", image=image, **COMMON).latents.shape == expected.latents.shape
        with pickle.loads(pickle.dumps(pipe)) as other:
            np.testing.assert_array_equal(other("a cat", **COMMON).latents, expected.latents)
