"""What two sides took and made, as files that ``polygraphy run`` reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentrt.debugging.library import quiet
from latentrt.debugging.parts import Feed
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import OutputError
from latentrt.engines.graphs.editor import load_graph, save_with_weights
from latentrt.engines.spec import Array

INPUTS_FILE, GRAPH_FILE = "inputs.json", "model.onnx"


def make_folder(folder: Path) -> None:
    """Makes the folder to save in, before minutes are spent on what goes there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(folder, error) from error


def _refusal(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {str(folder)!r} ({error}); name another folder in --save")


class Saved:
    """Gathers what sides made, and writes it."""

    def __init__(self) -> None:
        self._made: dict[str, dict[int, dict[str, Array]]] = {}

    def keep(self, index: int, side: str, arrays: Mapping[str, Array]) -> None:
        """Takes what a side made in a run; a run's tensors may come in turns."""
        self._made.setdefault(side, {}).setdefault(index, {}).update(arrays)

    def write(self, folder: Path, component: Component, feeds: Sequence[Feed]) -> None:
        """Writes inputs, what the suspect and the reference made, and the component's graph with its weights.

        Raises:
            OutputError: the folder cannot be written.
        """
        from polygraphy.comparator import IterationResult, RunResults
        from polygraphy.json import save_json

        try:
            with quiet():
                save_json([dict(feed) for feed in feeds], str(folder / INPUTS_FILE))
                for side, runs in self._made.items():
                    results = [IterationResult(outputs=arrays, runner_name=side) for _, arrays in sorted(runs.items())]
                    RunResults([(side, results)]).save(str(folder / f"{side}.json"))
            save_with_weights(load_graph(component.onnx), folder / GRAPH_FILE)
        except OSError as error:
            raise _refusal(folder, error) from error
