"""A component's recorded runs: in torch, or as its ONNX is stored (``Reference``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.checks.parity import EXACT, Parity, parity_of
from latentrt.engines.errors import BundleError
from latentrt.engines.shapes import Profile, profile_from_text
from latentrt.engines.spec import Array
from latentrt.engines.tensors.tensor_file import TensorFileError, open_tensor_file


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One recorded run of a component: the inputs, the outputs, and the profile they belong to."""

    profile: Profile
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def parity(self, outputs: Mapping[str, Array]) -> Parity:
        """The worst figures over the outputs."""
        worst = EXACT
        for name, reference in self.outputs.items():
            worst = worst.worse(parity_of(outputs[name], reference))
        return worst


def write_probes(path: Path, probes: Iterable[Probe]) -> None:
    """Writes runs as safetensors, keyed ``<case>/<profile>/<inputs|outputs>/<tensor>``."""
    from safetensors.numpy import save

    tensors = {}
    for case, probe in enumerate(probes):
        for side, arrays in (("inputs", probe.inputs), ("outputs", probe.outputs)):
            for name, array in arrays.items():
                tensors[f"{case}/{probe.profile}/{side}/{name}"] = np.ascontiguousarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors))


def read_probes(path: Path) -> list[Probe]:
    """Reads what ``write_probes`` wrote, in order.

    Raises:
        BundleError: the file does not hold it.
    """
    cases: dict[int, tuple[Profile, dict[str, Array], dict[str, Array]]] = {}
    try:
        for key, tensor in open_tensor_file(path).tensors.items():
            case, profile, side, name = key.split("/", 3)
            _, inputs, outputs = cases.setdefault(int(case), (profile_from_text(profile), {}, {}))
            (inputs if side == "inputs" else outputs)[name] = tensor.array()
    except TensorFileError as error:
        raise BundleError(str(error)) from error
    except ValueError as error:  # RequestError among them
        raise BundleError(f"{str(path)!r} names no probes ({str(error)[:200]}); build the bundle again") from error
    return [
        Probe(profile=profile, inputs=inputs, outputs=outputs)
        for _, (profile, inputs, outputs) in sorted(cases.items())
    ]
