"""Chaos on a small scale, against the real command: what was promised is delivered, the rest is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentrt.benchmarks.serving.alone import draw_alone
from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.chaos.parts import clients_that_go, ended_under_load, hostile_bodies, killed_render
from latentrt.benchmarks.serving.mix import Mix, asked_pictures
from latentrt.benchmarks.serving.server import Server

pytestmark = pytest.mark.slow
_MIX = Mix(sizes=((32, 32),), steps=(4, 16), ways=("text",))


@pytest.fixture(scope="module")
def pictures() -> list[Asked]:
    """Some of text alone."""
    return asked_pictures(_MIX, ("a cat", "a boat"), 24, 0)


@pytest.fixture(scope="module")
def alone(tiny_bundle: Path, pictures: list[Asked], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, drawn alone."""
    folder = tmp_path_factory.mktemp("alone")
    draw_alone(tiny_bundle, pictures, folder, None)
    return folder


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Server]:
    """One for the requests that it must survive."""
    with Server(tiny_bundle) as running:
        yield running


def test_clients_may_go_at_any_moment(server: Server, pictures: list[Asked], alone: Path) -> None:
    """No job is left behind, no thread or file; what was promised by a 202 is there, and right."""
    part = clients_that_go(server, pictures, alone, 42, 0)
    assert part.faults == ()
    assert part.counts["were promised a picture"] > 0


def test_hostile_requests_are_refused(server: Server, pictures: list[Asked], alone: Path) -> None:
    """Each by a 4xx or a closed connection; the server goes on as before."""
    assert hostile_bodies(server, pictures, alone).faults == ()


def test_a_server_that_ends_finishes_what_it_draws(tiny_bundle: Path, pictures: list[Asked], alone: Path) -> None:
    """The others are told, and its exit status is 0."""
    with Server(tiny_bundle, "--concurrency", "2") as running:
        part = ended_under_load(running, pictures, alone)
    assert part.faults == ()
    assert part.counts["answered 200"] > 0
    assert sum(part.counts.values()) == len(pictures)


def test_a_render_that_is_killed_goes_on(tiny_bundle: Path, pictures: list[Asked], alone: Path, tmp_path: Path) -> None:
    """Twice; afterwards every file is there once, whole, and right."""
    part = killed_render(tiny_bundle, pictures, alone, tmp_path, 2)
    assert part.faults == ()
    assert 0 < part.counts["files after the first"] < len(pictures)
