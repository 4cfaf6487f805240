"""What lies beside a component's graphs: where each of them is, and for which shapes."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.errors import EngineError

BLOB_FILE = "model.blob"
GRAPHS_FILE = "graphs.json"
JOINS_FILE = "joins.json"


class GraphRecord(Record):
    """A graph: its place in the file, and the shapes of its inputs; none where it takes every size.

    ``added``: whether it takes the ``AddedInputs`` beside the component's own.
    """

    start: int
    size: int
    sha256: str
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    added: bool = False


class GraphsRecord(Record):
    """All graphs of a component, and where what they share begins in the file (see ``blob.py``).

    ``sha256`` is of all that is before the constants, and of where the header is. Large files are not hashed as a
    bundle is opened: this part of them is.
    """

    header: int
    constants: int
    sha256: str
    graphs: tuple[GraphRecord, ...]

    def of(self, shapes: dict[str, tuple[int, ...]]) -> GraphRecord:
        """The graph for inputs of these shapes: one that was made for them, or one that takes every size.

        Where the call gives some of a graph's inputs alone, these count.

        Raises:
            EngineError: there is none.
        """
        for graph in self.graphs:
            if graph.shapes and shapes.items() <= graph.shapes.items():
                return graph
        return self.for_any_size(added=False)

    def for_any_size(self, *, added: bool) -> GraphRecord:
        """The graph that takes every size.

        Raises:
            EngineError: there is none.
        """
        for graph in self.graphs:
            if not graph.shapes and graph.added == added:
                return graph
        wanted = "with added inputs " if added else ""
        raise EngineError(
            f"got an engine without a graph {wanted}for every size, expected one with it; install latentrt[export] and "
            "run latentrt build on the bundle"
        )


def read_graphs(folder: Path) -> GraphsRecord:
    """Reads what was written as the component was compiled.

    Raises:
        EngineError: it is missing or damaged.
    """
    path = folder / GRAPHS_FILE
    try:
        return GraphsRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise EngineError(f"cannot read {str(path)!r} ({reason}); build the bundle again") from error


def read_xml(blob: Path, graphs: Iterable[GraphRecord]) -> Iterator[bytes]:
    """Of each graph in a file the XML."""
    with blob.open("rb") as file:
        for graph in graphs:
            file.seek(graph.start)
            yield file.read(graph.size)
