"""Text encoders whose weights alone are in eight bits: held to what prompts become."""

from collections.abc import Mapping
from contextlib import closing

import numpy as np

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.bundle.records.component import QuantizationRecord, QuantizedNodeRecord
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, Tensor
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.engine_overrides import EngineOverrides
from latentrt.quantization.quantization import QuantizableComponent, Quantization
from latentrt.quantization.settings import quantization_tool
from latentrt.runtime.pipeline import Pipeline

STATES = 40.0  # dB that the states of the worst prompt must have: rounding eight bits leaves some 50


class Compared(ClosesItself):
    """An engine that asks another the same each time, and keeps how far apart they are: PSNR in dB of every sample."""

    def __init__(self, exact: Engine, other: Engine) -> None:
        """Takes both; closes neither."""
        self.spec = exact.spec
        self.psnrs: list[float] = []
        self._exact, self._other = exact, other

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs both, and returns what the first one says."""
        exact, other = self._exact.run(inputs), self._other.run(inputs)
        for name, arrays in exact.items():
            self.psnrs += [parity_of(mine, array).psnr for mine, array in zip(other[name], arrays, strict=True)]
        return exact

    def close(self) -> None:
        """Leaves both open."""


def text_encoder_record(
    quantization: Quantization,
    part: QuantizableComponent,
    engines: OpenComponents[Bundle],
    rounded: Engine,
) -> QuantizationRecord:
    """Compares what every calibration prompt becomes.

    Args:
        quantization: whose prompts they are.
        part: the text encoder.
        engines: the fp32 ones.
        rounded: with its weights in eight bits.
    """
    prompts = quantization.settings.calibration.prompts
    exact = engines.engine(part.name, Shapes(profile=quantization.base.manifest.profiles[0]))
    compared = Compared(exact, rounded)
    psnrs = []
    with closing(EngineOverrides(engines, {part.name: compared})) as overridden:
        pipe = Pipeline(quantization.base, overridden)
        for prompt in prompts:
            compared.psnrs.clear()
            pipe.encode(prompt)
            psnrs.append(min(compared.psnrs))
    worst = int(np.argmin(psnrs))
    return QuantizationRecord(
        recipe=Recipe.W8,
        tool=quantization_tool(),
        quality=STATES,
        source_sha256=part.component.onnx_sha256,
        prompts_sha256=quantization.settings.calibration.sha256,
        prompts=len(prompts),
        steps=0,
        pictures=0,
        psnr_mean=float(np.mean(psnrs)),
        psnr_worst=psnrs[worst],
        worst_prompt=prompts[worst],
        nodes={node.path: QuantizedNodeRecord(rounded=True, score=0.0, error=0.0, alpha=None) for node in part.nodes},
        backend=quantization.settings.judged_on,
    )
