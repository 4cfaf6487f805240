"""The load: clients at two servers and beside peers, in turn, and every picture compared with the one drawn alone."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, sleep

from latentrt.benchmarks.bench.aggregate import machine
from latentrt.benchmarks.serving import schema
from latentrt.benchmarks.serving.alone import draw_alone
from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.clients import ask_by_clients
from latentrt.benchmarks.serving.compared import Compared
from latentrt.benchmarks.serving.contenders import Contender, Served
from latentrt.benchmarks.serving.mix import COMMON, EVERYTHING, STYLE, asked_pictures, prompts_of_the_model, shuffled
from latentrt.benchmarks.serving.overhead import overhead
from latentrt.benchmarks.serving.peers import opened_peers
from latentrt.benchmarks.serving.server import MemoryWatch, Server
from latentrt.benchmarks.studies.loras import save_random_lora
from latentrt.engines.bundle.bundle import open_bundle

SHARED, ALONE = "latentrt serve", "latentrt serve, one at a time"
_QUIET = 0.25  # seconds before each round: threads of whoever drew before spin on
_RANK = 4  # of the LoRA


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What is measured.

    Attributes:
        bundle: what is served.
        checkpoint: that it was built from, for the peers; None: they are left out.
        folder: keeps the pictures drawn alone, the LoRA, and the peers' environments and models.
        clients: how many, one number after the other.
        requests: of each server, over all numbers of clients.
        different: so many different pictures; each is asked for several times.
        rounds: of each number of clients.
        peer_clients: how many there are beside the peers.
        peer_requests: in a round beside the peers.
        peer_rounds: so many.
        overhead_rounds: so many pictures by each way over HTTP; 0: that is left out.
        seed: of the settings and their order.
    """

    bundle: Path
    checkpoint: Path | None
    folder: Path
    clients: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    requests: int = 1000
    different: int = 200
    rounds: int = 3
    peer_clients: int = 8
    peer_requests: int = 24
    peer_rounds: int = 5
    overhead_rounds: int = 20
    seed: int = 0


def load(plan: LoadPlan, *, command: str, told: Callable[[str], None]) -> schema.ServingResult:
    """Measures everything.

    Args:
        plan: what.
        command: as it was typed, for the report.
        told: is given a line as each part begins.

    Raises:
        ServerFailedError: a server that does not start.
        LatentrtError: a bundle that cannot be read.
    """
    begin = perf_counter()
    prompts, manifest = prompts_of_the_model(), open_bundle(plan.bundle).manifest
    everything = asked_pictures(EVERYTHING, prompts, plan.different, plan.seed)
    common = asked_pictures(COMMON, prompts, plan.peer_requests * plan.peer_rounds, plan.seed + 1)
    loras = plan.folder / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    save_random_lora(plan.bundle, _RANK, loras / f"{STYLE}.safetensors")
    told(f"drawing {len(everything) + len(common)} pictures alone")
    alone = plan.folder / "alone"
    draw_alone(plan.bundle, [*everything, *common], alone, loras / f"{STYLE}.safetensors")
    compared = Compared(alone)
    options = ("--loras", str(loras))
    with Server(plan.bundle, *options) as shared, Server(plan.bundle, *options, "--concurrency", "1") as single:
        ours = [Served(SHARED, shared, compared), Served(ALONE, single, compared)]
        told("warming up")
        for server in (shared, single):
            ask_by_clients(server.url, everything[: min(60, plan.different)], 8)
        with closing(MemoryWatch(shared)) as memory:
            mixed = _compared_in_turn("Everything", _MIXED, ours, _slices(plan, everything), told)
            others = [] if plan.checkpoint is None else [_beside_peers(plan, plan.checkpoint, ours, common, told)]
        added = None
        if plan.overhead_rounds:
            told("what HTTP adds")
            added = overhead(plan.bundle, shared.url, plan.overhead_rounds, prompts[0])
    return schema.ServingResult(
        schema_version=schema.SCHEMA,
        latentrt=version("latentrt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        model=Path(manifest.source.name).name,
        seconds=perf_counter() - begin,
        machine=machine(background=None, idle_workers=None),
        comparisons=(mixed, *others),
        pictures=compared.result(),
        memory=schema.Memory(seconds=tuple(memory.seconds), bytes=tuple(memory.bytes)),
        overhead=added,
    )


_MIXED = (
    "64×64, 32×32 and 96×96 pixels; ten samplers; 4 to 12 steps; guidance 1, 3 and 7.5; half of them text alone, "
    "the others with a negative prompt, from a picture, in a mask, with a hires fix or a LoRA"
)
_PLAIN = "64×64, 32×32 and 96×96 pixels in equal parts; Euler; 4 to 12 steps; guidance 7.5; text alone"

Slices = Sequence[tuple[int, Sequence[Asked]]]
"""Numbers of clients, and what they ask for, round by round."""


def _slices(plan: LoadPlan, pictures: Sequence[Asked]) -> Slices:
    size = -(-plan.requests // (len(plan.clients) * plan.rounds))
    asked = shuffled(pictures, plan.requests, plan.seed)
    counts = [clients for clients in plan.clients for _ in range(plan.rounds)]
    return [(clients, asked[size * place : size * (place + 1)]) for place, clients in enumerate(counts)]


def _beside_peers(
    plan: LoadPlan, checkpoint: Path, ours: Sequence[Served], pictures: Sequence[Asked], told: Callable[[str], None]
) -> schema.Comparison:
    told("opening peers")
    with opened_peers(checkpoint, plan.folder / "peers") as (peers, absent):
        size = plan.peer_requests
        slices = [(plan.peer_clients, pictures[size * place : size * (place + 1)]) for place in range(plan.peer_rounds)]
        for peer in peers:
            peer.draw(pictures[:6], 1)
        found = _compared_in_turn("Beside peers", _PLAIN, [*ours, *peers], slices, told)
        versions = {peer.name: peer.versions for peer in peers}
    named = [server.model_copy(update={"versions": versions.get(server.name, {})}) for server in found.servers]
    missing = [schema.Server(name=name, absent=reason) for name, reason in absent.items()]
    return found.model_copy(update={"servers": (*named, *missing)})


def _compared_in_turn(
    title: str, mix: str, contenders: Sequence[Contender], slices: Slices, told: Callable[[str], None]
) -> schema.Comparison:
    """Every contender draws every slice, the order turned round from slice to slice."""
    rounds: dict[str, list[schema.Round]] = {contender.name: [] for contender in contenders}
    for number, (clients, pictures) in enumerate(slices):
        told(f"{title}: round {number + 1} of {len(slices)}, {clients} client{'s' if clients > 1 else ''}")
        for contender in contenders[:: -1 if number % 2 else 1]:
            sleep(_QUIET)
            rounds[contender.name].append(contender.draw(pictures, clients))
    servers = tuple(schema.Server(name=name, rounds=tuple(drawn)) for name, drawn in rounds.items())
    return schema.Comparison(title=title, mix=mix, servers=servers)
