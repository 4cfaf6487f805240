"""Conducts a pruning: observe, weigh, score, draw references, search, record."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.sparsity import PrunedLayerRecord, SparsityRecord
from latentrt.engines.changes import Changes
from latentrt.engines.errors import ParityError
from latentrt.engines.graphs.multiplications import multiplications
from latentrt.engines.graphs.quantization.observe import Observations
from latentrt.engines.precision import Backend
from latentrt.engines.pruning.layers import PrunableLayer
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.engine_overrides import EngineOverrides
from latentrt.quantization.judge import TOLERANCE, PictureQuality, quality_from_psnrs, reference_pictures
from latentrt.quantization.observe import observe
from latentrt.quantization.psnr import picture_psnr
from latentrt.runtime.pipeline import Pipeline
from latentrt.sparsity.pruning import Pruning
from latentrt.sparsity.scores import layer_scores, pruned_layers
from latentrt.sparsity.search import SparsityPoint, SparsitySearch


@dataclass(frozen=True, kw_only=True)
class PrunedUnet:
    """What becomes of the weights, and how good pictures are then."""

    changes: Changes
    record: SparsityRecord


def pruned_unet(pruning: Pruning) -> PrunedUnet:
    """Chooses what is pruned, and judges it.

    Raises:
        ParityError: the quality asked for is not reached with the least that is tried.
    """
    with closing(OpenComponents(pruning.base, Backend.ORT_CPU, threads=None)) as engines:
        observations = observe(pruning, engines)[UNET]
        pruned = pruned_layers(pruning, observations)
        scores = layer_scores(pruning, engines, pruned, observations)
        references = reference_pictures(pruning, engines).pictures

        def judge(layers: Sequence[PrunableLayer]) -> PictureQuality:
            changes = pruning.changes(layers, pruned)
            known = pruning.checkpoints.load(f"judged-{changes.key[:16]}")
            if known is not None:
                return quality_from_psnrs(pruning, known["psnrs"])
            with pruning.progress.stage(f"unet: {len(layers)} of {len(pruning.layers)} layers pruned"):
                psnrs = np.array(list(_psnrs(pruning, engines, changes, references)))
            pruning.checkpoints.save(f"judged-{changes.key[:16]}", {"psnrs": psnrs})
            return quality_from_psnrs(pruning, psnrs)

        shares = _shares(pruning, observations)
        search = SparsitySearch(
            layers=pruning.layers, scores=scores, shares=shares, judge=judge, required=pruning.settings.quality
        )
        chosen, points = search.run()
    if chosen is None:
        raise ParityError(_refusal(pruning, points))
    of_chosen = {layer.path for layer in chosen.layers}
    layers = {
        layer.path: PrunedLayerRecord(
            pruned=layer.path in of_chosen,
            criterion=pruned[layer.path].criterion,
            error=pruned[layer.path].error,
            score=scores[layer.path],
            share=shares[layer.path],
        )
        for layer in pruning.layers
    }
    return PrunedUnet(
        changes=pruning.changes(chosen.layers, pruned), record=_record(pruning, chosen.quality, layers, points)
    )


def _shares(pruning: Pruning, observations: Observations) -> dict[str, float]:
    """How much of all multiplications with weights are each layer's, by its path."""
    nodes = [layer.node for layer in pruning.layers]
    counts = multiplications(pruning.unet.weights, pruning.unet.nodes, observations.calls[0])
    total = sum(counts.values())
    return {node.path: counts[node.path] / total for node in nodes}


def _psnrs(pruning: Pruning, engines: OpenComponents[Bundle], changes: Changes, references: Array) -> Iterator[float]:
    """The PSNR in dB of every picture that is drawn with changed weights."""
    pipe = Pipeline(pruning.base, EngineOverrides(engines, {UNET: pruning.engine(engines, changes)}))
    done = 0
    for result in pruning.settings.calibration.judging(pipe, 0, len(references)):
        for picture in result.images:
            yield picture_psnr(np.asarray(picture), references[done])
            done += 1
        pruning.progress.phase(f"picture {done} of {len(references)}", done, len(references))


def _record(
    pruning: Pruning,
    quality: PictureQuality,
    layers: dict[str, PrunedLayerRecord],
    points: Sequence[SparsityPoint],
) -> SparsityRecord:
    settings = pruning.settings
    return SparsityRecord(
        pattern=settings.pattern,
        quality=settings.quality,
        source_sha256=pruning.unet.component.onnx_sha256,
        prompts_sha256=settings.calibration.sha256,
        prompts=len(settings.calibration.prompts),
        steps=settings.calibration.steps,
        pictures=settings.pictures,
        psnr_mean=quality.mean,
        psnr_worst=quality.worst,
        worst_prompt=quality.worst_prompt,
        layers=layers,
        frontier=tuple(point.record() for point in points),
    )


def _refusal(pruning: Pruning, points: Sequence[SparsityPoint]) -> str:
    best = max(points, key=lambda point: point.quality.mean)
    return (
        f"pictures with {len(best.layers)} of {len(pruning.layers)} layers pruned reached a mean of "
        f"{best.quality.mean:.1f} dB (worst {best.quality.worst:.1f} dB), expected {pruning.settings.quality:g} dB and "
        f"no picture {TOLERANCE:g} dB below; ask for less with --quality, or leave --sparsity out"
    )
