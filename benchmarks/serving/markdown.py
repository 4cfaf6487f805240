"""The result as tables: for the documentation, and for the terminal."""

import re
from collections.abc import Iterator, Sequence
from statistics import median

from latentrt.benchmarks.report.units import DASH, bytes_text, psnr_text, seconds_text
from latentrt.benchmarks.serving.compared import CLOSE
from latentrt.benchmarks.serving.schema import Comparison, Round, Server, ServingResult, percentile
from latentrt.engines.errors import RequestError

_PLACE = re.compile(r"(<!-- figures: serving -->\n).*?(<!-- end of figures -->)", re.S)
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COLUMNS = ("clients", "server", "pictures/s", *_SHARES, "processor", "the first is")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row for each number of clients and each server, in the order of ``COLUMNS``."""
    found: list[tuple[str, ...]] = []
    for clients in comparison.clients:
        for server in comparison.measured:
            drawn = server.at(clients)
            latencies = [latency for one in drawn for latency in one.latencies]
            percentiles = [seconds_text(percentile(latencies, share)) for share in _SHARES.values()]
            worked = sum(one.processor_seconds for one in drawn) / len(latencies)
            ratio = ratio_text(comparison, server, clients)
            found.append((str(clients), server.name, f"{rate(drawn):.2f}", *percentiles, seconds_text(worked), ratio))
    return found


def rate(rounds: Sequence[Round]) -> float:
    """Pictures a second over some rounds."""
    return sum(len(one.latencies) for one in rounds) / sum(one.seconds for one in rounds)


def ratio_text(comparison: Comparison, server: Server, clients: int) -> str:
    """How many times as many pictures a second the first server draws: the median round, and the range of rounds."""
    if server is comparison.servers[0]:
        return DASH
    ratios = comparison.ratios(server, clients)
    return f"{median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f})"


def sentences(result: ServingResult) -> Iterator[str]:
    """What the tables do not say."""
    pictures = result.pictures
    right = pictures.equal + pictures.close
    yield (
        f"{pictures.asked} pictures were asked for over HTTP; {right} came as they are drawn alone: {pictures.equal} "
        f"equal to the last bit"
        + (
            f", {pictures.close} within rounding (at least {psnr_text(pictures.worst_psnr)}; {CLOSE:g} dB is allowed)."
            if pictures.close
            else "."
        )
    )
    yield f"{len(pictures.wrong)} were lost or were others."
    refusals = sum(one.refusals for part in result.comparisons for server in part.servers for one in server.rounds)
    if refusals:
        yield f"A full queue was answered 429 {refusals} times and asked again."
    before, after = (bytes_text(round(half)) for half in result.memory.halves)
    yield f"The server's memory: {before} in the third quarter of the time, {after} in the last."
    if result.overhead is not None:
        for name, seconds in result.overhead.over_the_call.items():
            yield f"Over a call in Python, a picture through {name} takes {seconds_text(seconds)} more."
    for part in result.comparisons:
        for server in part.servers:
            if server.absent:
                yield f"{server.name} was not measured: {server.absent}."


def serving_markdown(result: ServingResult) -> str:
    """Tables and sentences."""
    machine = result.machine
    lines = [f"{result.model}, {machine.cores} cores of {machine.processor}.", ""]
    for part in result.comparisons:
        lines += [f"**{part.title}**: {part.mix}.", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(row) + " |" for row in rows(part)]
        lines.append("")
    return "\n".join([*lines, *(f"- {one}" for one in sentences(result))]) + "\n"


def with_figures(text: str, result: ServingResult) -> str:
    """A page's text whose place ``<!-- figures: serving -->`` … ``<!-- end of figures -->`` is filled.

    Raises:
        RequestError: it has no such place.
    """
    if not _PLACE.search(text):
        raise RequestError("the text has no place for figures, expected <!-- figures: serving -->; put one in")
    return _PLACE.sub(lambda found: f"{found[1]}{serving_markdown(result)}{found[2]}", text)
