"""One graph of a compiled component, opened from its mapped file."""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import numpy as np

from latentrt.engines.backends.openvino.blob import BlobPlaces, GraphPlace, mapped_graph
from latentrt.engines.backends.openvino.library import DEVICE, core, first_line, openvino_module
from latentrt.engines.backends.openvino.records import GraphRecord, GraphsRecord
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array

_BETWEEN_RELEASES = 0.02  # seconds


class OpenGraph:
    """A graph, ready to run as many parts of a call at once as it has streams; one call at a time."""

    def __init__(
        self,
        blob: Path,
        record: GraphsRecord,
        graph: GraphRecord,
        *,
        changes: Mapping[int, Array],
        settings: Mapping[str, Any],
        streams: int,
    ) -> None:
        """Opens it; its weights are packed then.

        Args:
            blob: the file that holds it.
            record: where what all graphs of the file share is.
            graph: where it is.
            changes: other numbers for some constants, by their offsets.
            settings: OpenVINO's.
            streams: how many runs go on at once; they share the cores, and the packed weights.

        Raises:
            EngineError: the file is not what this version of OpenVINO writes on this machine.
        """
        self._lock = Lock()
        places = BlobPlaces(header=record.header, constants=record.constants)
        try:
            self._mapped = mapped_graph(blob, places, GraphPlace(start=graph.start, size=graph.size), changes)
            tensor = openvino_module().Tensor(np.frombuffer(self._mapped, np.uint8), shared_memory=True)
            with nullcontext() if changes else _released(self._mapped):
                compiled = core().import_model(tensor, DEVICE, {**settings, "NUM_STREAMS": streams})
            self._requests = [compiled.create_infer_request() for _ in range(streams)]
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"OpenVINO cannot open {str(blob)!r}: {first_line(error)}; build the bundle again"
            ) from error
        self._outputs = {port.any_name: index for index, port in enumerate(compiled.outputs)}
        self.inputs = frozenset(port.any_name for port in compiled.inputs)

    @property
    def compiled(self) -> Any:
        """OpenVINO's own model of it."""
        return self._requests[0].get_compiled_model()

    def run(self, parts: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """All outputs of some parts, which run at once: no more of them than there are streams.

        Raises:
            RuntimeError: OpenVINO fails.
        """
        with self._lock:
            running = list(zip(self._requests, parts, strict=False))
            for request, part in running:
                request.start_async(part, share_inputs=True)
            for request, _ in running:
                request.wait()
            return [
                {name: request.get_output_tensor(index).data.copy() for name, index in self._outputs.items()}
                for request, _ in running
            ]


@contextmanager
def _released(mapped: mmap.mmap) -> Iterator[None]:
    """Gives back the memory of a file's pages again and again, as what was read of them is packed elsewhere.

    Who reads a page later gets it from the file. Without this a model would be in memory twice for a while.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        yield
        return
    done = Event()

    def release() -> None:
        while not done.wait(_BETWEEN_RELEASES):
            mapped.madvise(mmap.MADV_DONTNEED)

    thread = Thread(target=release, name="latentrt-release")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        mapped.madvise(mmap.MADV_DONTNEED)
