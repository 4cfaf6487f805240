"""One graph of a compiled component, opened from its mapped file."""

import mmap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.backends.openvino.blob import BlobPlaces, GraphPlace, mapped_graph
from latentrt.engines.backends.openvino.library import DEVICE, core, first_line, openvino_module
from latentrt.engines.backends.openvino.records import GraphRecord, GraphsRecord
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    from latentrt.engines.backends.openvino.cached import Cut

_BETWEEN_RELEASES = 0.02  # seconds


class OpenGraph:
    """A graph, ready to run as many parts of a call at once as it has streams; one call at a time."""

    def __init__(self, compiled: Any, streams: int, mapped: mmap.mmap | None = None) -> None:
        """Takes OpenVINO's compiled model.

        Args:
            compiled: it.
            streams: how many runs go on at once.
            mapped: the file that it reads its weights from.
        """
        self._lock = Lock()
        self._mapped = mapped
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        self._outputs = {name: index for index, port in enumerate(compiled.outputs) for name in port.get_names()}

    @property
    def compiled(self) -> Any:
        """OpenVINO's own model of it."""
        return self._requests[0].get_compiled_model()

    def run(self, parts: Sequence[Mapping[str, Array]], wanted: Collection[str]) -> list[dict[str, Array]]:
        """Some outputs of some parts, which run at once: no more of them than there are streams.

        Raises:
            RuntimeError: OpenVINO fails.
        """
        with self._lock:
            running: list[Any] = []
            try:
                for request, part in zip(self._requests, parts, strict=False):
                    request.start_async(part, share_inputs=True)
                    running.append(request)
                for request in running:
                    request.wait()
                return [
                    {name: request.get_output_tensor(self._outputs[name]).data.copy() for name in wanted}
                    for request in running
                ]
            except BaseException:  # interrupted, for one: the next call finds none of them busy
                for request in running:
                    with suppress(RuntimeError):
                        request.wait()
                raise


def open_graph(
    blob: Path,
    record: GraphsRecord,
    graph: GraphRecord,
    *,
    changes: Mapping[int, Array],
    settings: Mapping[str, Any],
    streams: int,
    cut: "Cut | None" = None,
) -> OpenGraph:
    """Opens a graph from the file that holds it; its weights are packed then.

    Args:
        blob: the file.
        record: where what all graphs of the file share is.
        graph: where it is.
        changes: other numbers for some constants, by their offsets.
        settings: OpenVINO's.
        streams: how many runs go on at once; they share the cores, and the packed weights.
        cut: what DeepCache makes of it; None: it stays whole.

    Raises:
        EngineError: the file is not what this version of OpenVINO writes on this machine.
    """
    places = BlobPlaces(header=record.header, constants=record.constants, sha256=record.sha256)
    place = GraphPlace(start=graph.start, size=graph.size, sha256=graph.sha256)
    try:
        mapped = mapped_graph(blob, places, place, changes, cut.made_of if cut else None)
        tensor = openvino_module().Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
        with nullcontext() if changes else _released(mapped, places.constants, place.start):
            compiled = core().import_model(tensor, DEVICE, {**settings, "NUM_STREAMS": streams})
        return OpenGraph(compiled, streams, mapped)
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(f"OpenVINO cannot open {str(blob)!r}: {first_line(error)}; build the bundle again") from error


@contextmanager
def _released(mapped: mmap.mmap, constants: int, graph: int) -> Iterator[None]:
    """Gives back the memory of a file's constants again and again, as what was read of them is packed elsewhere.

    Who reads a page later gets it from the file. Without this a model would be in memory twice for a while. The pages
    of header and graph, which may differ from the file's, stay: nobody knows when they are read.
    """
    first, last = -(-constants // mmap.PAGESIZE) * mmap.PAGESIZE, graph // mmap.PAGESIZE * mmap.PAGESIZE
    if not hasattr(mmap, "MADV_DONTNEED") or first >= last:
        yield
        return
    done = Event()

    def release() -> None:
        while not done.wait(_BETWEEN_RELEASES):
            mapped.madvise(mmap.MADV_DONTNEED, first, last - first)

    thread = Thread(target=release, name="latentrt-release")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)
