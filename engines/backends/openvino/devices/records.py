"""What lies beside a component's graphs for a device: the size and digest of each file."""

from pathlib import Path

from pydantic import ValidationError

from latentrt.engines.backends.openvino.records import GRAPHS_FILE
from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.errors import EngineError


class DeviceGraphs(Record):
    """The files of a component's static shapes, in their order, by name."""

    files: dict[str, FileRecord]


def graph_file(index: int) -> str:
    """The file of a static shape."""
    return f"graph-{index}.blob"


def read_device_graphs(folder: Path, shapes: int) -> DeviceGraphs:
    """Reads what was written as the component was compiled.

    Args:
        folder: the engine's.
        shapes: how many static shapes the component has.

    Raises:
        EngineError: it is missing or damaged, or has other shapes.
    """
    path = folder / GRAPHS_FILE
    try:
        record = DeviceGraphs.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise EngineError(f"cannot read {str(path)!r} ({reason}); build the bundle again") from error
    if [*record.files] != [graph_file(index) for index in range(shapes)]:
        raise EngineError(
            f"{str(path)!r} has graphs {', '.join(record.files) or 'of none'}, expected one for each of {shapes} "
            "shapes; build the bundle again"
        )
    return record
