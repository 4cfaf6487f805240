"""The sorts of chaos, each against a server or a render of its own."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import perf_counter, sleep
from typing import Any

import httpx

from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.chaos.bodies import hostile_requests
from latentrt.benchmarks.serving.chaos.ending import end_under_load
from latentrt.benchmarks.serving.chaos.leaving import Left, Moment, leave
from latentrt.benchmarks.serving.chaos.raw import answer_to
from latentrt.benchmarks.serving.chaos.schema import Part
from latentrt.benchmarks.serving.chaos.settled import settled
from latentrt.benchmarks.serving.clients import Delivered, ask_by_clients
from latentrt.benchmarks.serving.compared import Compared
from latentrt.benchmarks.serving.server import Server, Vitals

_AT_ONCE = 24  # clients that go, at a time
_HOSTILE_SECONDS = 90.0
_LOOK_SECONDS = 0.02  # between two looks at a render's files
_MOST_GROWN = 400 << 20  # bytes by which a hostile body may make a server grow while it is looked at


def clients_that_go(server: Server, pictures: Sequence[Asked], alone: Path, count: int, seed: int) -> Part:
    """So many clients ask and go at random moments; then the server must be as before.

    What they were promised by an answer 202 must be there all the same, and be the picture drawn alone.
    """
    before, begin = _before(server, pictures), perf_counter()
    left = asyncio.run(_all_leave(server.port, pictures, count, seed))
    after = settled(server, before)
    faults = list(after.faults)
    promised = [one for one in left if one.job is not None]
    faults += _not_delivered(server, promised, alone)
    faults += _still_draws(server, pictures, alone)
    moments = Counter(one.moment for one in left)
    return Part(
        title="clients that go",
        counts={**{f"went {moment}": moments[moment] for moment in Moment}, "were promised a picture": len(promised)},
        seconds=perf_counter() - begin,
        faults=tuple(faults),
    )


async def _all_leave(port: int, pictures: Sequence[Asked], count: int, seed: int) -> list[Left]:
    random, left = Random(seed), list[Left]()
    moments = [list(Moment)[place % len(Moment)] for place in range(count)]
    random.shuffle(moments)

    async def work() -> None:
        while moments:
            left.append(await leave(port, random.choice(pictures), moments.pop(), random))

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return left


def hostile_bodies(server: Server, pictures: Sequence[Asked], alone: Path) -> Part:
    """Every hostile request, one after the other; each deserves a 4xx or a closed connection, and the server lives."""
    before, begin = _before(server, pictures), perf_counter()
    answers, faults = Counter[str](), list[str]()
    for hostile in hostile_requests():
        try:
            answer = asyncio.run(answer_to(server.port, hostile.pieces(), _HOSTILE_SECONDS))
        except TimeoutError:
            faults.append(f"{hostile.name}: no answer in {_HOSTILE_SECONDS:.0f} s")
            continue
        answers["closed" if answer.status is None else f"answered {answer.status}"] += 1
        if answer.status is not None and not 400 <= answer.status < 500:
            faults.append(f"{hostile.name}: {answer.status} {answer.text[:200]}")
        if "Traceback" in answer.text:
            faults.append(f"{hostile.name}: a traceback in the answer")
        grown = server.vitals().bytes - before.bytes
        if grown > _MOST_GROWN:
            faults.append(f"{hostile.name}: the server has grown by {grown >> 20} MB")
    faults += settled(server, before).faults
    faults += _still_draws(server, pictures, alone)
    return Part(
        title="hostile requests",
        counts=dict(sorted(answers.items())),
        seconds=perf_counter() - begin,
        faults=tuple(faults),
    )


def ended_under_load(server: Server, pictures: Sequence[Asked], alone: Path) -> Part:
    """SIGTERM while some are drawn and the others wait."""
    begin = perf_counter()
    ended = end_under_load(server, pictures, alone)
    return Part(
        title="SIGTERM under load",
        counts={f"answered {status}": count for status, count in sorted(ended.answers.items())},
        seconds=perf_counter() - begin,
        faults=ended.faults,
    )


def killed_render(bundle: Path, pictures: Sequence[Asked], alone: Path, folder: Path, kills: int) -> Part:
    """``latentrt render`` is killed again and again after some files, and goes on; then all files are there, whole."""
    begin, faults, kept = perf_counter(), list[str](), list[int]()
    orders, output = folder / "orders.jsonl", folder / "rendered"
    folder.mkdir(parents=True, exist_ok=True)
    orders.write_text("".join(json.dumps({"id": one.digest, **one.body()}) + "\n" for one in pictures), "utf-8")
    command = [sys.executable, "-m", "latentrt", "render", str(bundle), str(orders), "-o", str(output)]
    for kill in range(1, kills + 1):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as render:
            while render.poll() is None and len(_files(output)) < kill * len(pictures) // (kills + 1):
                sleep(_LOOK_SECONDS)
            render.kill()
        kept.append(len(_files(output)))
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        faults.append(f"the last run ended with status {done.returncode}: {done.stderr[-300:]}")
    else:
        faults += _not_rendered(json.loads(done.stdout)["orders"], pictures, alone, output)
    return Part(
        title="kill -9 of a render",
        counts={"kills": kills, "files after the first": kept[0], "files at the end": len(_files(output))},
        seconds=perf_counter() - begin,
        faults=tuple(faults),
    )


def _files(output: Path) -> list[Path]:
    """The pictures, without what is being written."""
    return [path for path in output.glob("*.png") if not path.name.startswith(".")]


def _not_rendered(told: Sequence[Any], pictures: Sequence[Asked], alone: Path, output: Path) -> list[str]:
    """What is missing, or another picture than the one drawn alone; and files that belong to nothing."""
    compared, files = Compared(alone), {order["id"]: order["files"] for order in told}
    for one in pictures:
        (name,) = files.get(one.digest) or [None]
        png = None if name is None else (output / name).read_bytes()
        compared.take([Delivered(asked=one, seconds=0.0, png=png, reason="no file")])
    unknown = {path.name for path in _files(output)}.difference(*files.values())
    return [*compared.result().wrong, *(f"{name} belongs to no order" for name in sorted(unknown))]


def _before(server: Server, pictures: Sequence[Asked]) -> Vitals:
    """What it holds after an ordinary load: threads and buffers that it keeps are there then."""
    ask_by_clients(server.url, (list(pictures) * 3)[: 2 * _AT_ONCE], _AT_ONCE)
    return settled(server).vitals


def _not_delivered(server: Server, promised: Sequence[Left], alone: Path) -> list[str]:
    compared = Compared(alone)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for one in promised:
            answer = client.get(f"/v1/jobs/{one.job}/pictures/0")
            ok = answer.status_code == 200
            reason = None if ok else f"{answer.status_code}: {answer.text[:200]}"
            png = answer.content if ok else None
            compared.take([Delivered(asked=one.asked, seconds=0.0, png=png, reason=reason)])
    return [f"promised: {wrong}" for wrong in compared.result().wrong]


def _still_draws(server: Server, pictures: Sequence[Asked], alone: Path) -> list[str]:
    compared = Compared(alone)
    compared.take(ask_by_clients(server.url, pictures[:4], 2)[1])
    return [f"afterwards: {wrong}" for wrong in compared.result().wrong]
