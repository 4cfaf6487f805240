"""The bundle that another one is made of: other builds read it, too, and add engines to it."""

from latentrt.building.compiling import compile_missing, engines_to_make
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.errors import BundleError
from latentrt.engines.files import locked
from latentrt.engines.precision import Backend
from latentrt.engines.progress import StageTimer

# Two builds of one source may want its engines in the same moment
_PATIENCE = 60.0  # seconds


def compile_for_cpu(source: Bundle, timer: StageTimer) -> None:
    """Gives the source the engines for this CPU that it lacks, with which its own pictures are drawn.

    Raises:
        BusyError: another build goes on writing it.
    """
    with locked(source.root, patience=_PATIENCE):
        compile_missing(source, engines_to_make(Backend.ORT_CPU, (), None), timer)


def check_unchanged(source: Bundle) -> None:
    """Refuses what was made of two: a source that was replaced while it was read.

    Raises:
        BundleError: it was, or is gone.
    """
    if open_bundle(source.root).manifest != source.manifest:
        raise BundleError(
            f"{str(source.root)!r} was built anew while another bundle was made of it, expected it to stay as it was; "
            "build the other one again"
        )
