"""The stages of a run, in their order."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product

from latentrt.benchmarks.gpu import environment
from latentrt.benchmarks.gpu.model_stages import cleaning, model_stages
from latentrt.benchmarks.gpu.models import families, models
from latentrt.benchmarks.gpu.places import Places
from latentrt.benchmarks.gpu.stage import Settings, Stage
from latentrt.benchmarks.gpu.work import gpu_tests, parity
from latentrt.benchmarks.report.gpu.schema import BackendRow, GpuResult
from latentrt.engines.precision import Backend
from latentrt.models import EMBEDDED

BACKENDS = (Backend.ORT_CUDA, Backend.TENSORRT_RTX, Backend.TENSORRT)
"""Those of an NVIDIA GPU."""
_OF_NO_BACKEND = "not ort-cuda and not tensorrt"
_TESTS: Mapping[Backend, str] = {
    Backend.ORT_CUDA: "ort-cuda",
    Backend.TENSORRT_RTX: "tensorrt-rtx",
    Backend.TENSORRT: "tensorrt and not tensorrt-rtx",
}


def first_stages(settings: Settings) -> list[Stage]:
    """What the others depend on: the backends that work here, and the device's peak."""
    return [
        Stage(name="backends", work=environment.find_backends),
        Stage(name="peak", work=environment.measure_peaks),
    ]


def working_backends(result: GpuResult) -> tuple[Backend, ...]:
    """The backends that the first stage found to work."""
    return tuple(Backend(row.backend) for row in result.rows if isinstance(row, BackendRow) and row.works)


def all_stages(settings: Settings, backends: Sequence[Backend], *, keep: bool = False) -> list[Stage]:
    """Every stage for the backends that work here; with ``keep`` the models' files stay."""
    stages = [*first_stages(settings), *_embedded(backends), *_tests(backends)]
    for model in models(settings.scale):
        places = Places(work=settings.work, model=model.name)
        stages += [*model_stages(model, places, backends), cleaning(f"clean.{model.name}", places.folder)]
    stages += _families(backends)
    return [stage for stage in stages if not (keep and stage.removes)]


def _tests(backends: Sequence[Backend]) -> Iterator[Stage]:
    chosen = {"tests.others": _OF_NO_BACKEND}
    chosen |= {f"tests.{backend}": _TESTS[backend] for backend in backends if backend in _TESTS}
    for name, expression in chosen.items():
        yield Stage(name=name, work=partial(gpu_tests.run_tests, stage=name, chosen=expression))


def _embedded(backends: Sequence[Backend]) -> Iterator[Stage]:
    for backend, precision in product(backends, ("fp32", "fp16")):
        name = f"parity.{EMBEDDED}.{precision}.{backend}"
        work = partial(parity.embedded_parity, stage=name, backend=backend.value, precision=precision)
        yield Stage(name=name, work=work)


def _families(backends: Sequence[Backend]) -> Iterator[Stage]:
    for family, backend in product(families(), backends):
        name = f"parity.{family}.{backend}"
        yield Stage(name=name, work=partial(parity.family_parity, stage=name, family=family, backend=backend.value))
