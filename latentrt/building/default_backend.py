"""The backend to build for where nobody names one."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from latentrt.engines.bundle.bundle import folder_and_seal
from latentrt.engines.bundle.records.components_manifest import BUNDLE_FILE
from latentrt.engines.errors import BundleError
from latentrt.engines.precision import Backend, Precision, usual_backend


def backend_for(precision: Precision | None, bundles: Sequence[str | Path | None]) -> Backend:
    """ONNX Runtime's CPU provider, which is exact; for bf16 and fp8, which it has not, what has.

    Args:
        precision: what was asked for; None leaves it to the first of the bundles.
        bundles: what may be bundles.
    """
    if precision is None:
        folders = [Path(bundle) for bundle in bundles if bundle is not None and (Path(bundle) / BUNDLE_FILE).is_file()]
        with suppress(BundleError):  # whoever opens it says what is wrong with it
            precision = folder_and_seal(folders[0])[0].manifest.precision if folders else None
    return usual_backend(precision or Precision.FP32)
