"""Clients that share one pipeline, and a set of LoRAs that comes and goes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter

import latentrt
from latentrt.benchmarks.gpu.models import Case, Model
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.gpu.work.speed import draw, drawn
from latentrt.benchmarks.report.figures import Figure
from latentrt.benchmarks.report.gpu.schema import Contender, LanesRow, LoraRow, Row
from latentrt.benchmarks.studies.loras import save_random_lora
from latentrt.runtime.call.result import Timings

_EACH = 2  # pictures of a client in a round
_RANK = 16
_STEPS = 4  # of a call with LoRAs


def lanes(settings: Settings, stage: str, model: Model, precision: str, backend: str, bundle: Path) -> Iterator[Row]:
    """Pictures a second by the number of clients; each asks for the next as soon as it has its own."""
    asked = drawn(model, model.cases[0])
    with latentrt.open(bundle, backend=backend) as pipe:
        for clients in model.lanes:
            with ThreadPoolExecutor(clients) as pool:

                def round_of(number: int, clients: int = clients, pool: ThreadPoolExecutor = pool) -> float:
                    def draw_each(client: int) -> None:
                        for picture in range(_EACH):
                            draw(pipe, asked, 1000 * number + 10 * client + picture)

                    begin = perf_counter()
                    list(pool.map(draw_each, range(clients)))
                    return clients * _EACH / (perf_counter() - begin)

                round_of(0)
                rates = [round_of(number) for number in range(1, settings.runs + 1)]
            yield LanesRow(
                stage=stage,
                model=model.name,
                contender=Contender(name="latentrt", precision=precision, backend=backend),
                drawn=asked,
                clients=clients,
                per_second=Figure.of(rates),
            )


def loras(settings: Settings, stage: str, model: Model, backend: str, bundle: Path) -> Iterator[Row]:
    """Calls without a set of LoRAs and with it in turn, behind the one that sees it first."""
    asked = drawn(model, Case(steps=_STEPS))
    file = settings.work / f"{stage}.safetensors"
    save_random_lora(bundle, _RANK, file)
    with latentrt.open(bundle, backend=backend) as pipe:

        def plain(seed: int) -> Timings:
            return draw(pipe, asked, seed).timings

        def adapted(seed: int) -> Timings:
            return draw(pipe, asked, seed, loras={"one": 0.8}).timings

        plain(0)
        without = [plain(seed) for seed in range(settings.runs)]
        begin = perf_counter()
        pipe.load_lora(file, name="one")
        adapted(0)
        first = perf_counter() - begin
        with_it: list[Timings] = []
        for seed in range(settings.runs):
            with_it.append(adapted(seed))
            without.append(plain(seed))
        usual = median(one.total for one in without)
        yield LoraRow(
            stage=stage,
            model=model.name,
            contender=Contender(name="latentrt", precision="fp16", backend=backend),
            first=first - usual,
            again=median(one.total for one in with_it) - usual,
            plain=Figure.of([one.denoise / len(one.calls) for one in without]),
            adapted=Figure.of([one.denoise / len(one.calls) for one in with_it]),
        )
