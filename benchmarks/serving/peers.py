"""The peers beside the server, with the reasons of those that cannot draw the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentrt.benchmarks.bench.workers.environments import environment_python
from latentrt.benchmarks.bench.workers.process import Worker, WorkerError
from latentrt.benchmarks.peers.registry import PEERS, Peer
from latentrt.benchmarks.serving.contenders import Looped
from latentrt.benchmarks.serving.mix import COMMON
from latentrt.engines.files import staged_directory

_PREPARE_SECONDS = 600.0


LOOPED = ("openvino-genai", "sd-cpp")


@contextmanager
def opened_peers(checkpoint: Path, folder: Path) -> Iterator[tuple[list[Looped], dict[str, str]]]:
    """Those that can draw a checkpoint, open, and the reasons of the others by their names.

    Args:
        checkpoint: a folder in diffusers layout.
        folder: keeps environments and converted models.
    """
    opened, absent = list[Looped](), dict[str, str]()
    try:
        for name in LOOPED:
            title = f"{PEERS[name].title} in a loop"
            try:
                opened.append(_opened(title, PEERS[name], checkpoint, folder))
            except WorkerError as error:
                absent[title] = str(error)
        yield opened, absent
    finally:
        for one in opened:
            one.close()


def _opened(title: str, peer: Peer, checkpoint: Path, folder: Path) -> Looped:
    python = environment_python(peer.home or peer.adapter, folder, peer.requirements or (), peer.alone)
    model = folder / "models" / f"{checkpoint.name}-{peer.adapter}-in-a-loop"
    if not model.is_dir():
        with staged_directory(model) as staging, Worker(python, peer.adapter, timeout=_PREPARE_SECONDS) as worker:
            worker.ask({"do": "prepare", "checkpoint": str(checkpoint), "folder": str(staging)})
    return Looped(title, python, peer.adapter, model, COMMON.sizes)
