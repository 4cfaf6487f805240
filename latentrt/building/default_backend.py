"""The backend to build for where nobody names one."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from latentrt.engines.bundle.bundle import folder_and_seal
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.usual_backend import usual_backend_of
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.precision import COMPUTING, Backend, Precision, usual_backend


def backend_for(precision: Precision | None, bundles: Sequence[str | Path | None]) -> Backend:
    """ONNX Runtime's CPU provider, which is exact; for bf16 and fp8, which it has not, what has.

    Args:
        precision: what was asked for; with None it is what the first of the bundles was made for.
        bundles: what may be bundles.
    """
    if precision is None:
        folders = [Path(bundle) for bundle in bundles if bundle is not None and (Path(bundle) / BUNDLE_FILE).is_file()]
        with suppress(BundleError):  # whoever opens it says what is wrong with it
            return usual_backend_of(folder_and_seal(folders[0])[0].manifest) if folders else Backend.ORT_CPU
    return usual_backend(precision or Precision.FP32)


def no_backend_for(precision: Precision) -> EngineError:
    """The refusal of a precision where nobody named a backend, and its usual one builds nothing for this machine."""
    *others, last = COMPUTING[precision].backends
    return EngineError(
        f"got precision {precision} without a backend, and nothing here builds it for this machine, expected backend "
        f"{', '.join(others)} or {last} and a GPU that computes it; {COMPUTING[precision].remedy}"
    )
