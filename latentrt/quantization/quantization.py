"""A quantization in progress: the components that get eight bits, the settings, and what an earlier attempt left."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.islands import islands_of
from latentrt.engines.graphs.quantization.attention import QuantizableAttention, quantizable_attentions
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import EngineSpec
from latentrt.quantization.calibration import check_prompts
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.settings import QuantizationSettings, quantization_tool

_ALGORITHM = 4  # counted up when other code would come to other results


@dataclass(frozen=True, kw_only=True)
class QuantizableComponent:
    """A component whose fp32 graph can get eight bits; ``attentions`` may, too, by the recipe."""

    component: Component
    weights: OnnxWeights
    nodes: tuple[QuantizableNode, ...]
    spec: EngineSpec
    attentions: tuple[QuantizableAttention, ...] = ()

    @property
    def name(self) -> str:
        """The component's name."""
        return self.component.name

    @property
    def has_timesteps(self) -> bool:
        """Whether it runs once per sampler step, as a U-Net does, and not once per picture."""
        return "timestep" in self.spec.inputs

    def quantized(self, folder: Path, precision: Precision) -> Component:
        """The component with the graph of a folder in the place of its own; the rest is still its bundle's."""
        return self.component.of_graph(folder / "model.onnx", precision)

    def weight_share(self, nodes: Sequence[QuantizableNode]) -> float:
        """The share of the quantizable weights that belongs to some of the nodes."""
        return sum(node.parameters for node in nodes) / sum(node.parameters for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """One bundle's U-Net, and its decoder unless that stays as it is, on their way to eight bits.

    Of ``text_encoders`` the weights alone are rounded. ``reference`` draws what pictures are compared with.
    """

    base: Bundle
    reference: Bundle
    settings: QuantizationSettings
    unet: QuantizableComponent
    decoder: QuantizableComponent | None
    text_encoders: tuple[QuantizableComponent, ...]
    checkpoints: Checkpoints
    progress: Progress

    @property
    def components(self) -> tuple[QuantizableComponent, ...]:
        """What computes in eight bits."""
        return (self.unet,) if self.decoder is None else (self.unet, self.decoder)


def quantization_of_bundle(
    base: Bundle,
    settings: QuantizationSettings,
    kept_fp32: Collection[str],
    work: Path,
    progress: Progress,
    *,
    judged_against: Bundle | None = None,
) -> Quantization:
    """Reads the graphs of a bundle that shall get eight bits.

    Args:
        base: a bundle with its U-Net in fp32 and engines for the CPU.
        settings: what the result must reach.
        kept_fp32: components that stay as they are.
        work: a folder for results that outlive the process.
        progress: receives the stages.
        judged_against: the bundle that draws what pictures are compared with; None for ``base``.

    Raises:
        RequestError: the U-Net is not fp32, or a prompt has no tokens.
    """
    records = base.manifest.components
    if records[UNET].precision is not Precision.FP32:
        raise RequestError(
            f"got a bundle whose U-Net is {records[UNET].precision}, expected fp32 to make "
            f"{settings.precision} of; build from the model"
        )
    check_prompts(base, settings.calibration.prompts)
    decodes = (
        records[VAE_DECODER].kind in settings.recipe.components
        and VAE_DECODER not in kept_fp32
        and records[VAE_DECODER].precision is Precision.FP32
    )
    unet, decoder = _unet(base, settings.recipe), _quantizable(base, VAE_DECODER) if decodes else None
    encoders = () if settings.recipe.symmetric else _text_encoders(base, kept_fp32)
    fingerprint = {
        "base": base.manifest.model_dump(mode="json", include={"files", "schedule", "defaults", "conditioning"}),
        "profile": str(base.manifest.profiles[0]),
        "calibration": settings.calibration.sha256,
        "effort": str(settings.effort),
        "attentions": len(unet.attentions),
        "components": [*(part.name for part in encoders), UNET, *([VAE_DECODER] if decodes else [])],
        "made by": [_ALGORITHM, np.__version__, quantization_tool()],
    }
    if judged_against is not None:
        fingerprint["reference"] = judged_against.manifest.model_dump(mode="json", include={"files"})
    return Quantization(
        base=base,
        reference=judged_against or base,
        settings=settings,
        unet=unet,
        decoder=decoder,
        text_encoders=encoders,
        checkpoints=Checkpoints(work / "calibration", fingerprint),
        progress=progress,
    )


def _text_encoders(base: Bundle, kept_fp32: Collection[str]) -> tuple[QuantizableComponent, ...]:
    """Those whose weights are rounded."""
    names = [
        name
        for name, record in base.manifest.components.items()
        if record.kind.row.weights_rounded_on_cpu and record.precision is Precision.FP32 and name not in kept_fp32
    ]
    return tuple(_quantizable(base, name) for name in names)


def _unet(base: Bundle, recipe: Recipe) -> QuantizableComponent:
    """The U-Net, with its attentions where the recipe rounds them and float16 holds their scores."""
    unet = _quantizable(base, UNET)
    if not recipe.rounds_attention:
        return unet
    attentions = quantizable_attentions(unet.weights, islands_of(base.manifest.family, UNET))
    return replace(unet, attentions=attentions)


def _quantizable(base: Bundle, name: str) -> QuantizableComponent:
    component = Component(root=base.root, manifest=base.manifest, name=name)
    weights = OnnxWeights(component.onnx)
    return QuantizableComponent(
        component=component,
        weights=weights,
        nodes=weights.quantizable(),
        spec=component.spec_of_any_batch(Shapes(profile=base.manifest.profiles[0])),
    )
