"""Components on the CPU: opened at once, closed by what one of them lacks, and out of each other's way."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentrt
from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import compiled_folder


class Watched(OrtCpu):
    """Tells what was opened and closed; where ``meets`` is given, each opening waits for the others there."""

    def __init__(self, meets: threading.Barrier | None = None, fails: str = "") -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.threads: set[str] = set()
        self._meets, self._fails = meets, fails

    def open(self, component: Component, folder: Path, *, threads: int | None) -> Any:
        self.threads.add(threading.current_thread().name)
        if self._meets is not None:
            self._meets.wait()  # raises where the others do not come
        if component.name == self._fails:
            raise latentrt.EngineError(f"no memory for {component.name}")
        model = super().open(component, folder, threads=threads)
        self.opened.append(component.name)
        close = model.close

        def told() -> None:
            self.closed.append(component.name)
            close()

        model.close = told  # type: ignore[method-assign]
        return model


def opened(bundle: Path) -> OpenComponents:
    return OpenComponents(open_bundle(bundle), Backend.ORT_CPU, threads=1)


def test_all_are_under_way_at_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the encoder, which only some calls need."""
    compiler = Watched(threading.Barrier(3, timeout=60))
    monkeypatch.setitem(COMPILERS, Backend.ORT_CPU, compiler)
    opened(tiny_bundle).close()
    assert sorted(compiler.opened) == sorted(compiler.closed) == ["text_encoder", "unet", "vae_decoder"]


def test_one_after_the_other_where_the_backend_says_so(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's memory is one, and whether the next component fits shows behind the last."""
    compiler = Watched()
    monkeypatch.setattr(compiler, "opens_at_once", False)
    monkeypatch.setitem(COMPILERS, Backend.ORT_CPU, compiler)
    opened(tiny_bundle).close()
    assert compiler.opened == ["text_encoder", "unet", "vae_decoder"]
    assert len(compiler.threads) == 1
    assert not any(COMPILERS[gpu].opens_at_once for gpu in set(COMPILERS) - {Backend.ORT_CPU, Backend.OPENVINO})


@pytest.mark.parametrize("failing", ["text_encoder", "unet", "vae_decoder"])
def test_one_that_fails_closes_the_others(failing: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is; its own sentence is told."""
    compiler = Watched(threading.Barrier(3, timeout=60), failing)
    monkeypatch.setitem(COMPILERS, Backend.ORT_CPU, compiler)
    with pytest.raises(latentrt.EngineError, match=f"^no memory for {failing}$"):
        opened(tiny_bundle)
    assert len(compiler.opened) == 2
    assert sorted(compiler.closed) == sorted(compiler.opened)


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals for a thread")
def test_interrupted_it_leaves_nothing_open(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while one component is being opened, and others are, were or will not be.

    Helpers are not joined here: Python 3.11 takes a thread for ended whose ``join`` was interrupted.
    """

    class Interrupted(Watched):
        def open(self, component: Component, folder: Path, *, threads: int | None) -> Any:
            begun.add(component.name)
            if component.name == "unet":
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                left.wait(60)  # until the caller has seen the interruption
            return super().open(component, folder, threads=threads)

    begun: set[str] = set()
    compiler, left = Interrupted(), threading.Event()
    monkeypatch.setitem(COMPILERS, Backend.ORT_CPU, compiler)

    def interrupt(*_: object) -> None:
        left.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)  # a worker of a parallel run ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            opened(tiny_bundle)
    finally:
        signal.signal(signal.SIGINT, before)
    late = time.monotonic() + 60
    while not ("unet" in begun and begun == set(compiler.closed)) and time.monotonic() < late:
        time.sleep(0.01)
    assert "unet" in compiler.opened
    assert begun == set(compiler.opened) == set(compiler.closed)


def test_a_thread_that_outlives_the_main_one_opens_a_bundle(tiny_bundle: Path) -> None:
    """The interpreter takes no new work for helpers then."""
    script = f"""
import threading, time, latentrt
latentrt.open
def serve():
    threading.main_thread().join()
    time.sleep(0.2)
    with latentrt.open({str(tiny_bundle)!r}, threads=1) as pipe:
        print(pipe("a cat", num_inference_steps=1, seed=1, output_type="np").images[0].shape)
threading.Thread(target=serve).start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(", 3)"), done.stderr


def test_behind_a_call_no_core_is_kept_busy(tiny_bundle: Path) -> None:
    """ONNX Runtime's threads would spin for some 50 ms: the next component's would not get the cores."""
    found = open_bundle(tiny_bundle)
    part = Component(root=found.root, manifest=found.manifest, name="vae_decoder")
    spec = found.manifest.spec("vae_decoder", Shapes(profile=found.manifest.profiles[0]), (1,))
    model = OrtCpu().open(part, compiled_folder(part, Backend.ORT_CPU), threads=2)
    try:
        engine = model.engine(Shapes(profile=found.manifest.profiles[0]))
        inputs = {name: np.zeros(one.sized(1), one.dtype) for name, one in spec.inputs.items()}
        for _ in range(3):
            engine.run(inputs)
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.02
    finally:
        model.close()
