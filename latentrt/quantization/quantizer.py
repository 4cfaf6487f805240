"""Conducts a quantization: observe, choose roundings, draw references, search, record."""

import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.bundle.records.component import AttentionRecord, QuantizationRecord, QuantizedNodeRecord
from latentrt.engines.engine import Engine
from latentrt.engines.errors import ParityError
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.weights_only import write_with_rounded_weights
from latentrt.engines.precision import Backend
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.judge import Judge, References, compiled_graph, reference_pictures
from latentrt.quantization.observe import observe
from latentrt.quantization.quantization import QuantizableComponent, Quantization
from latentrt.quantization.rounding import Rounding, rounding_from_observations
from latentrt.quantization.search import Search, SearchResult
from latentrt.quantization.settings import quantization_tool
from latentrt.quantization.text_encoders import text_encoder_record

# dB above the quality asked for: of the error that pictures may have, the decoder may make a tenth
_DECODER_MARGIN = 10.0


@dataclass(frozen=True, kw_only=True)
class QuantizedComponent:
    """A component in eight bits: how good it is, and how the tensors of its fp32 graph were rounded, by name."""

    record: QuantizationRecord
    inputs: Mapping[str, InputChoice]


def quantized_components(
    quantization: Quantization, folder: Path, finish: Callable[[Path], None]
) -> dict[str, QuantizedComponent]:
    """Writes graphs in eight bits and says, by component, how they were made and how good they are.

    A decoder that is not good enough stays as it is, with a warning. The U-Net's pictures are drawn with that
    decoder where there is one.

    Args:
        quantization: what gets eight bits.
        folder: every component gets a folder in it, for ``model.onnx`` and its weights.
        finish: what is done to every graph before it is judged.

    Raises:
        ParityError: the quality asked for is not reached with half of the U-Net's weights in floating point.
    """
    settings = quantization.settings
    with ExitStack() as opened:
        engines = opened.enter_context(closing(OpenComponents(quantization.base, Backend.ORT_CPU, threads=None)))
        observations = observe(quantization, engines)
        roundings = {
            part.name: rounding_from_observations(quantization, part, observations[part.name])
            for part in quantization.components
        }
        judge = Judge(quantization=quantization, engines=engines, references=_references(quantization, engines))
        records: dict[str, QuantizationRecord] = {}
        overrides: dict[str, Engine] = {}
        for part in quantization.text_encoders:
            record = _round_text_encoder(quantization, part, engines, folder / part.name)
            if record is not None:
                records[part.name] = record
                overrides[part.name] = opened.enter_context(compiled_graph(part, folder / part.name, settings))
        if quantization.decoder is not None:
            record = _quantize_decoder(quantization.decoder, roundings[VAE_DECODER], judge, folder, finish)
            if record is not None:
                records[VAE_DECODER] = record
                overrides[VAE_DECODER] = opened.enter_context(
                    compiled_graph(quantization.decoder, folder / VAE_DECODER, settings)
                )
        records[UNET] = _quantize_unet(
            roundings[UNET], judge, overrides, folder, finish, decoder=records.get(VAE_DECODER)
        )
    inputs: dict[str, Mapping[str, InputChoice]] = {name: rounding.inputs for name, rounding in roundings.items()}
    return {name: QuantizedComponent(record=record, inputs=inputs.get(name, {})) for name, record in records.items()}


def _references(quantization: Quantization, engines: OpenComponents[Bundle]) -> References:
    """What pictures are compared with; ``engines`` are the base's, which draw it unless another bundle does."""
    if quantization.reference is quantization.base:
        return reference_pictures(quantization, engines)
    with closing(OpenComponents(quantization.reference, Backend.ORT_CPU, threads=None)) as exact:
        return reference_pictures(quantization, exact)


def _round_text_encoder(
    quantization: Quantization, part: QuantizableComponent, engines: OpenComponents[Bundle], folder: Path
) -> QuantizationRecord | None:
    """A text encoder's record, its graph in a folder; None and a warning if it stays as it is."""
    with quantization.progress.stage(f"{part.name}: int8 weights"):
        write_with_rounded_weights(part.weights, part.nodes, folder)
        with compiled_graph(part, folder, quantization.settings) as engine:
            record = text_encoder_record(quantization, part, engines, engine)
    if record.psnr_worst >= record.quality:
        return record
    warnings.warn(
        f"{part.name} stays in fp32, since with weights in int8 it makes of {record.worst_prompt!r} what is "
        f"{record.psnr_worst:.1f} dB from fp32, expected {record.quality:g} dB",
        stacklevel=3,
    )
    shutil.rmtree(folder)
    return None


def _quantize_decoder(
    part: QuantizableComponent, rounding: Rounding, judge: Judge, folder: Path, finish: Callable[[Path], None]
) -> QuantizationRecord | None:
    """The decoder's record; None and a warning if it stays as it is."""
    settings = judge.quantization.settings
    result = Search(
        quantization=judge.quantization,
        part=part,
        rounding=rounding,
        psnrs=judge.decoder_psnrs,
        ratios=partial(judge.ratios, part),
        finish=finish,
        required=settings.quality + _DECODER_MARGIN,
        saved_as=f"judged-{VAE_DECODER}-{settings.recipe}-{settings.judged_on}",
    ).run(folder / VAE_DECODER)
    if result.floating is None:
        warnings.warn(f"{VAE_DECODER} stays in fp32, since its {settings.precision} pictures {result}", stacklevel=3)
        shutil.rmtree(folder / VAE_DECODER)
        return None
    return _record(judge.quantization, part, rounding, result)


def _quantize_unet(
    rounding: Rounding,
    judge: Judge,
    overrides: Mapping[str, Engine],
    folder: Path,
    finish: Callable[[Path], None],
    *,
    decoder: QuantizationRecord | None,
) -> QuantizationRecord:
    """The U-Net's record; its figures depend on the decoder that the overrides hold.

    Raises:
        ParityError: the quality asked for is not reached.
    """
    quantization = judge.quantization
    saved_as = f"judged-{UNET}-{quantization.settings.recipe}-{quantization.settings.judged_on}"
    if decoder is not None:
        saved_as += f"-{sum(not node.rounded for node in decoder.nodes.values())}"
    result = Search(
        quantization=quantization,
        part=quantization.unet,
        rounding=rounding,
        psnrs=partial(judge.unet_psnrs, overrides=overrides),
        ratios=partial(judge.ratios, quantization.unet),
        finish=finish,
        required=quantization.settings.quality,
        saved_as=saved_as,
    ).run(folder / UNET)
    if result.floating is None:
        raise ParityError(
            f"{quantization.settings.precision} pictures {result}; ask for less with --quality, or build in fp16 or "
            "fp32"
        )
    return _record(quantization, quantization.unet, rounding, result)


def _record(
    quantization: Quantization, part: QuantizableComponent, rounding: Rounding, result: SearchResult
) -> QuantizationRecord:
    floating = {node.name for node in result.floating or ()}
    settings = quantization.settings
    return QuantizationRecord(
        recipe=settings.recipe,
        tool=quantization_tool(),
        quality=result.required,
        source_sha256=part.component.onnx_sha256,
        prompts_sha256=settings.calibration.sha256,
        prompts=len(settings.calibration.prompts),
        steps=settings.calibration.steps,
        pictures=settings.pictures,
        psnr_mean=result.reached.mean,
        psnr_worst=result.reached.worst,
        worst_prompt=result.reached.worst_prompt,
        nodes={
            node.path: QuantizedNodeRecord(
                rounded=node.name not in floating,
                score=rounding.scores[node.path],
                error=rounding.inputs[node.input].error,
                alpha=rounding.inputs[node.input].alpha,
            )
            for node in part.nodes
        },
        backend=settings.judged_on,
        # For GPUs no time is known, and the figures of pictures are worth keeping
        frontier=tuple(one.record() for one in result.points if one.time is not None or settings.recipe.symmetric),
        attention=_attention_record(part, result),
    )


def _attention_record(part: QuantizableComponent, result: SearchResult) -> AttentionRecord | None:
    if result.attention is None:
        return None
    return AttentionRecord(
        attentions=len(part.attentions),
        rounded=result.rounds_attention,
        psnr_mean=result.attention.mean,
        psnr_worst=result.attention.worst,
    )
