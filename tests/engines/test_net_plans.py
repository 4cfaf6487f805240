"""Plans of control nets and T2I-Adapters: run one after the other on a stand-in device, and really built."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from net_steps import ControlledUnet
from stand_ins import StandInRTX
from tiny_nets import save_t2i_adapter

import latentrt
from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import open_addon
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import CONTROL, FEATURES, HINT
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend


def test_nets_and_unet_on_one_device(
    tiny_copy: Path, tiny_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the CPU; of what the nets give nothing passes the host."""
    rtx = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, rtx)
    net = Path(shutil.copytree(tiny_net, tmp_path / "net.bundle"))
    assert not latentrt.build(tiny_copy, backend="tensorrt-rtx", added="control").up_to_date
    assert not latentrt.build(net, backend="tensorrt-rtx").up_to_date
    gpu, cpu = (ControlledUnet(tiny_copy, net, backend) for backend in (Backend.TENSORRT_RTX, Backend.ORT_CPU))
    pinned = rtx.driver.live["pinned"]  # of embedding pictures
    for seed in range(3):
        expected = cpu.step(seed)
        np.testing.assert_allclose(gpu.step(seed), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # Inputs of the nets, which share a plan: the U-Net's own, picture and scales; inputs of the U-Net, and its result
    assert rtx.driver.live["pinned"] - pinned == 5 + 3 + 1
    begin = len(rtx.driver.log)
    gpu.step(4)
    calls = rtx.driver.log[begin:]
    assert not {"copy_to_host", "host_alloc", "malloc"} & set(calls)
    assert calls.count("copy_to_device") == 2  # the nets' pictures, which take turns in their plan
    assert calls.count("launch") == calls.count("stream_synchronize") == 3
    gpu.close()
    cpu.close()
    assert not rtx.driver.live


class TestReallyBuilt:
    """By TensorRT-RTX, for a GPU that is not here."""

    def built(self, root: Path, names: tuple[str, ...], folder: Path) -> None:
        """Plans with inputs and outputs as the bundle has them, in full size."""
        pytest.importorskip("tensorrt_rtx")
        for name in names:
            component = Component(root=root, manifest=open_addon(root).manifest, name=name)
            (folder / name).mkdir()
            contents = TensorRTRTX().compile(component, Target(machine=gpu_machine("sm89")), folder / name, None)
            assert contents is not None
            for got, static in zip(contents.shapes, component.static_shapes, strict=True):
                for side in ("inputs", "outputs"):
                    shapes = {key: record.shape for key, record in getattr(got, side).items()}
                    tensors = getattr(static.spec, side)
                    assert shapes == {key: tensor.sized(static.spec.batches[0]) for key, tensor in tensors.items()}

    @pytest.mark.parametrize(
        "family", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd2", "sdxl"))]
    )
    def test_control_nets(self, net_bundle: Callable[[str], Path], family: str, tmp_path: Path) -> None:
        """What they may add up is an input as any other."""
        self.built(net_bundle(family), (HINT, CONTROL), tmp_path)

    @pytest.mark.slow
    def test_halved(self, net_checkpoint: Callable[[str], Path], half_bundle: Path, tmp_path: Path) -> None:
        """In fp16, as the model."""
        net = tmp_path / "net.bundle"
        latentrt.build(net_checkpoint("sd1"), net, for_bundle=half_bundle, backend="tensorrt-rtx", gpus=["sm89"])
        assert {engine["precision"] for engine in latentrt_engines(net)} == {"fp16"}

    @pytest.mark.slow
    def test_t2i_adapters(self, tiny_bundle: Path, tmp_path: Path) -> None:
        """One component."""
        net = tmp_path / "adapter.bundle"
        latentrt.build(save_t2i_adapter(tmp_path / "adapter"), net, for_bundle=tiny_bundle)
        (tmp_path / "plans").mkdir()
        self.built(net, (FEATURES,), tmp_path / "plans")


def latentrt_engines(root: Path) -> list[dict[str, Any]]:
    """The TensorRT-RTX engines of a bundle."""
    from latentrt.engines.store.store import engines_in

    return [engine.model_dump() for engine in engines_in(root)]
