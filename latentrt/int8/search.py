"""Finds how many of a component's nodes must stay in floating point for its pictures to be good enough."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import QuantizableNode
from latentrt.engines.spec import Array
from latentrt.int8.judge import TOLERANCE, PictureQuality, compiled_graph, quality_from_psnrs
from latentrt.int8.quantization import QuantizableComponent, Quantization
from latentrt.int8.rounding import Rounding

# How many nodes stay in floating point: none at first, then ever more
FLOATING_COUNTS = (0, 4, 8, 16, 32, 64, 128, 256, 512)
# The share of the weights that may stay in floating point before large nodes have to wait: the file stays below 0.3 of
# fp32's
_SMALL_SHARE = 0.04
# The largest share: beyond it the component would be int8 by name alone
_LARGEST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The nodes that stay in floating point and the quality reached; no nodes and the best quality if none suffices."""

    floating: Sequence[QuantizableNode] | None
    quality: PictureQuality
    required: float

    def __str__(self) -> str:
        return (
            f"reached a mean of {self.quality.mean:.1f} dB (worst {self.quality.worst:.1f} dB) against the fp32 "
            f"engine, expected {self.required:g} dB and no picture {TOLERANCE:g} dB below"
        )


@dataclass(frozen=True, kw_only=True)
class Search:
    """One component's search.

    ``psnrs`` gives the PSNR in dB of every picture that is drawn with an engine; ``finish`` is done to every graph
    before it is judged; ``required`` is the mean PSNR in dB that ends the search. Figures are saved as ``saved_as``.
    """

    quantization: Quantization
    part: QuantizableComponent
    rounding: Rounding
    psnrs: Callable[[Engine], Iterator[float]]
    finish: Callable[[Path], None]
    required: float
    saved_as: str

    def run(self, folder: Path) -> SearchResult:
        """Leaves ever more of the worst nodes in floating point until the pictures are good enough.

        Args:
            folder: where the graph that suffices lies in the end.
        """
        checkpoints = self.quantization.checkpoints
        order = worst_first(self.part.nodes, self.rounding.scores)
        judged = checkpoints.load(self.saved_as) or {}
        missed: list[PictureQuality] = []
        for count in FLOATING_COUNTS:
            floating = order[:count]
            if count > len(order) or self.part.weight_share(floating) > _LARGEST_SHARE:
                break
            psnrs = judged.get(str(count))
            # A graph that is known to miss need not be written again
            if psnrs is None or quality_from_psnrs(self.quantization, psnrs).reaches(self.required):
                stage = f"{self.part.name}: int8 with {count} of {len(order)} nodes in floating point"
                with self.quantization.progress.stage(stage):
                    self._write(floating, folder)
                    if psnrs is None:
                        psnrs = judged[str(count)] = self._judge(folder)
                        checkpoints.save(self.saved_as, judged)
            quality = quality_from_psnrs(self.quantization, psnrs)
            if quality.reaches(self.required):
                return SearchResult(floating=floating, quality=quality, required=self.required)
            missed.append(quality)
        return SearchResult(floating=None, quality=max(missed, key=lambda one: one.mean), required=self.required)

    def _write(self, floating: Sequence[QuantizableNode], folder: Path) -> None:
        names = {node.name for node in floating}
        quantized = [node for node in self.part.nodes if node.name not in names]
        recipe = self.quantization.settings.recipe
        write_quantized(self.part.weights, quantized, self.rounding.inputs, self.rounding.outputs, recipe, folder)
        self.finish(folder)

    def _judge(self, folder: Path) -> Array:
        """The PSNR in dB of every picture that is drawn with a graph."""
        psnrs: list[float] = []
        with compiled_graph(self.part, folder) as engine:
            for psnr in self.psnrs(engine):
                psnrs.append(psnr)
                self.quantization.progress.phase(
                    f"picture {len(psnrs)}", len(psnrs), self.quantization.settings.pictures
                )
        return np.array(psnrs)


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
