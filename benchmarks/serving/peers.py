"""The peers beside the server, with the reasons of those that cannot draw the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latentrt.benchmarks.bench.workers.environments import environment_python
from latentrt.benchmarks.bench.workers.process import Worker, WorkerError
from latentrt.benchmarks.peers.registry import PEERS
from latentrt.benchmarks.serving.contenders import Looped
from latentrt.benchmarks.serving.mix import COMMON
from latentrt.engines.files import staged_directory

_PREPARE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class LoopedPeer:
    """A peer: its adapter, and its environment."""

    title: str
    adapter: str
    home: str
    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()


LOOPED = (
    LoopedPeer(
        title="OpenVINO GenAI in a loop",
        adapter="openvino_genai",
        home="openvino-genai",
        requirements=(*(PEERS["openvino"].requirements or ()), "openvino-genai==2026.4.1.0"),
        alone=PEERS["openvino"].alone,
    ),
    LoopedPeer(
        title="stable-diffusion.cpp in a loop",
        adapter="stable_diffusion_cpp",
        home="sd-cpp",
        requirements=PEERS["sd-cpp"].requirements or (),
    ),
)


@contextmanager
def opened_peers(checkpoint: Path, folder: Path) -> Iterator[tuple[list[Looped], dict[str, str]]]:
    """Those that can draw a checkpoint, open, and the reasons of the others by their names.

    Args:
        checkpoint: a folder in diffusers layout.
        folder: keeps environments and converted models.
    """
    opened, absent = list[Looped](), dict[str, str]()
    try:
        for peer in LOOPED:
            try:
                opened.append(_opened(peer, checkpoint, folder))
            except WorkerError as error:
                absent[peer.title] = str(error)
        yield opened, absent
    finally:
        for one in opened:
            one.close()


def _opened(peer: LoopedPeer, checkpoint: Path, folder: Path) -> Looped:
    python = environment_python(peer.home, folder, peer.requirements, peer.alone)
    model = folder / "models" / f"{checkpoint.name}-{peer.home}"
    if not model.is_dir():
        with staged_directory(model) as staging, Worker(python, peer.adapter, timeout=_PREPARE_SECONDS) as worker:
            worker.ask({"do": "prepare", "checkpoint": str(checkpoint), "folder": str(staging)})
    return Looped(peer.title, python, peer.adapter, model, COMMON.sizes)
