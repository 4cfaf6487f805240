"""Finds how many of a component's nodes must stay in floating point for its pictures to be good enough."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.graphs.quantization.attention import RoundedAttention
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import QuantizableNode
from latentrt.engines.spec import Array
from latentrt.quantization.frontier import FrontierPoint, best_point
from latentrt.quantization.judge import TOLERANCE, PictureQuality, compiled_graph, quality_from_psnrs
from latentrt.quantization.quantization import QuantizableComponent, Quantization
from latentrt.quantization.rounding import Rounding
from latentrt.quantization.timing import step_time_from_ratios

# How many nodes stay in floating point: none at first, then ever more
FLOATING_COUNTS = (0, 4, 8, 16, 32, 64, 128, 256, 512)
# How many of these may follow the first that is good enough: each is timed, and drawn with if it is not slower
_BEYOND = 2
# The share of the weights that may stay in floating point before large nodes have to wait: the file stays below 0.3 of
# fp32's
_SMALL_SHARE = 0.04
# The largest share: beyond it the component would have eight bits by name alone
_LARGEST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The nodes that stay in floating point and the quality reached; no nodes and the best quality if none suffices.

    ``points`` are all that was tried, ``attention`` is the quality with attention rounded, too, where that was tried.
    """

    floating: Sequence[QuantizableNode] | None
    quality: PictureQuality
    required: float
    points: Sequence[FrontierPoint]
    attention: PictureQuality | None = None

    @property
    def rounds_attention(self) -> bool:
        """Whether pictures are good enough with attention rounded, too, so that it is."""
        return self.attention is not None and self.attention.reaches(self.required)

    @property
    def reached(self) -> PictureQuality:
        """The quality with all that is rounded in the end."""
        return self.attention if self.attention is not None and self.rounds_attention else self.quality

    def __str__(self) -> str:
        return (
            f"reached a mean of {self.quality.mean:.1f} dB (worst {self.quality.worst:.1f} dB) against the fp32 "
            f"engine, expected {self.required:g} dB and no picture {TOLERANCE:g} dB below"
        )


@dataclass(frozen=True, kw_only=True)
class Search:
    """One component's search.

    ``psnrs`` gives the PSNR in dB of every picture that is drawn with an engine, ``ratios`` the times of an engine's
    calls over those of the fp32 engine. ``finish`` is done to every graph
    before it is judged; ``required`` is the mean PSNR in dB that ends the search. Figures are saved as ``saved_as``.
    """

    quantization: Quantization
    part: QuantizableComponent
    rounding: Rounding
    psnrs: Callable[[Engine], Iterator[float]]
    ratios: Callable[[Engine], Array]
    finish: Callable[[Path], None]
    required: float
    saved_as: str

    def run(self, folder: Path) -> SearchResult:
        """Leaves ever more of the worst nodes in floating point until the pictures are good enough, and a little on.

        What comes behind the first that is good enough may be nearer to fp32 and no slower, so it is timed, and drawn
        with if it is not slower.

        Args:
            folder: where the graph that is chosen lies in the end.
        """
        tried = _Tried(search=self, folder=folder)
        points: list[FrontierPoint] = []
        first: FrontierPoint | None = None
        for count in FLOATING_COUNTS:
            if count > len(tried.order) or self.part.weight_share(tried.order[:count]) > _LARGEST_SHARE:
                break
            point = tried.point(count, unless_slower_than=first)
            points.append(point)
            if first is None and point.reaches(self.required):
                first = point
            beyond = 0 if first is None else len(points) - 1 - points.index(first)
            if first is not None and (beyond == _BEYOND or point.time is None or point.slower(first)):
                break
        chosen = best_point(points, self.required)
        if chosen is None or chosen.quality is None:
            quality = max((point.quality for point in points if point.quality), key=lambda one: one.mean)
            return SearchResult(floating=None, quality=quality, required=self.required, points=points)
        result = SearchResult(
            floating=tried.order[: chosen.floating],
            quality=chosen.quality,
            required=self.required,
            points=points,
            attention=tried.with_attention(chosen.floating),
        )
        tried.write(chosen.floating, self.rounding.attentions if result.rounds_attention else ())
        return result


class _Tried:
    """What a search has tried: figures as they are saved, and the graph that is in the folder."""

    def __init__(self, *, search: Search, folder: Path) -> None:
        self._search, self._folder = search, folder
        self._checkpoints = search.quantization.checkpoints
        self._written: tuple[int, int] | None = None
        self.order = worst_first(search.part.nodes, search.rounding.scores)
        self._saved = self._checkpoints.load(search.saved_as) or {}

    def point(self, count: int, *, unless_slower_than: FrontierPoint | None) -> FrontierPoint:
        """The figures with so many nodes in floating point; they are measured if they are not known."""
        point = self._known(count)
        pairs = self._search.quantization.settings.effort.pairs
        # A graph that is known to miss, or to be slow, need not be written again
        if (point.time is not None or not pairs) and (
            point.quality is not None or (unless_slower_than is not None and point.slower(unless_slower_than))
        ):
            return point
        search, progress = self._search, self._search.quantization.progress
        settings = search.quantization.settings
        stage = f"{search.part.name}: {settings.precision} with {count} of {len(self.order)} nodes left out"
        with progress.stage(stage):
            self.write(count)
            with compiled_graph(search.part, self._folder, settings) as engine:
                if point.time is None and pairs:
                    self._save(_times(count), search.ratios(engine))
                    point = self._known(count)
                slower = unless_slower_than is not None and point.slower(unless_slower_than)
                if point.quality is None and not slower:
                    self._save(str(count), self._judge(engine))
        return self._known(count)

    def with_attention(self, count: int) -> PictureQuality | None:
        """The quality with attention rounded, too; None where it cannot be."""
        attentions = self._search.rounding.attentions
        if not attentions:
            return None
        name, search = f"{count}.attention", self._search
        if name not in self._saved:
            with search.quantization.progress.stage(f"{search.part.name}: attention, too"):
                self.write(count, attentions)
                with compiled_graph(search.part, self._folder, search.quantization.settings) as engine:
                    self._save(name, self._judge(engine))
        return quality_from_psnrs(search.quantization, self._saved[name])

    def write(self, count: int, attentions: Sequence[RoundedAttention] = ()) -> None:
        """Leaves the graph in the folder, unless it is there."""
        if self._written == (count, len(attentions)):
            return
        search = self._search
        names = {node.name for node in self.order[:count]}
        quantized = [node for node in search.part.nodes if node.name not in names]
        recipe, rounding = search.quantization.settings.recipe, search.rounding
        write_quantized(
            search.part.weights, quantized, rounding.inputs, rounding.outputs, recipe, self._folder, attentions
        )
        search.finish(self._folder)
        self._written = (count, len(attentions))

    def _known(self, count: int) -> FrontierPoint:
        ratios, psnrs = self._saved.get(_times(count)), self._saved.get(str(count))
        return FrontierPoint(
            floating=count,
            time=None if ratios is None else step_time_from_ratios(ratios),
            quality=None if psnrs is None else quality_from_psnrs(self._search.quantization, psnrs),
        )

    def _save(self, name: str, figures: Array) -> None:
        self._saved[name] = figures
        self._checkpoints.save(self._search.saved_as, self._saved)

    def _judge(self, engine: Engine) -> Array:
        """The PSNR in dB of every picture that is drawn with an engine."""
        psnrs: list[float] = []
        quantization = self._search.quantization
        for psnr in self._search.psnrs(engine):
            psnrs.append(psnr)
            quantization.progress.phase(f"picture {len(psnrs)}", len(psnrs), quantization.settings.pictures)
        return np.array(psnrs)


def _times(count: int) -> str:
    """What the times with so many nodes in floating point are saved as."""
    return f"{count}.times"


def worst_first(nodes: Sequence[QuantizableNode], scores: Mapping[str, float]) -> list[QuantizableNode]:
    """Nodes by how much their rounding costs the picture, the most first; those too large for the file come last."""
    room = _SMALL_SHARE * sum(node.parameters for node in nodes)
    small, large = [], []
    for node in sorted(nodes, key=lambda node: -scores[node.path]):
        if node.parameters <= room:
            small.append(node)
            room -= node.parameters
        else:
            large.append(node)
    return [*small, *large]
