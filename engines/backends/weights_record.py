"""The record that lies beside a compiled component: where it holds the weights of its bundle's graph."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.errors import EngineError

WEIGHTS_FILE = "weights.json"

_Weights = TypeVar("_Weights", bound=Record)


def read_weights_record(folder: Path, component: str, kind: type[_Weights]) -> _Weights:
    """Reads what was recorded as a component was compiled.

    Args:
        folder: of the engine.
        component: its name, for messages.
        kind: what the backend records.

    Raises:
        EngineError: nothing was recorded, or it is damaged.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise EngineError(
            f"the engine of {component} was compiled without a record of its weights, expected one where LoRAs are "
            "used; install latentrt[export] and run latentrt build on the bundle"
        )
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise EngineError(f"cannot read {str(path)!r} ({reason}); build the bundle again") from error
