"""Classifier-free guidance around a U-Net engine, for any number of pictures."""

from time import perf_counter

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.batches import pieces_of


class GuidedUnet:
    """The U-Net's prediction under guidance: u + s · (c − u) (Ho and Salimans 2022, eq. 6).

    Guidance runs where s > 1 (equal to 1 would reproduce c); without it the unconditional half is never
    computed. All buffers that do not change between steps are made once. Belongs to one call of a pipeline.
    """

    def __init__(self, engine: Engine, positive: Array, negative: Array | None, guidance_scale: float) -> None:
        """Plans the engine calls of a step.

        Args:
            engine: the U-Net.
            positive: (N, length, width) embeddings of the prompts.
            negative: the same of the negative prompts, or None for no guidance.
            guidance_scale: s; used only with ``negative``.
        """
        self._engine = engine
        self._scale = guidance_scale
        self.seconds = 0.0
        self.calls = 0
        rows = 1 if negative is None else 2
        spec = engine.spec.inputs["sample"]
        capacity = tuple(batch // rows for batch in engine.spec.batches if batch >= rows)
        self._pieces = []
        for start, stop, pictures in pieces_of(len(positive), tuple(dict.fromkeys(capacity))):
            count, batch = stop - start, engine.spec.fit(pictures * rows)
            context = np.zeros((batch, *positive.shape[1:]), positive.dtype)
            if negative is None:
                context[:count] = positive[start:stop]
            else:
                context[:count] = negative[start:stop]
                context[count : 2 * count] = positive[start:stop]
            inputs = {
                "sample": np.zeros(spec.sized(batch), spec.dtype),
                "timestep": np.zeros(1, engine.spec.inputs["timestep"].dtype),
                "encoder_hidden_states": context,
            }
            self._pieces.append((start, stop, inputs))
        self._guided = negative is not None

    def __call__(self, x: Array, timestep: float) -> Array:
        """The guided prediction at ``x`` (N, C, H/f, W/f), already scaled to unit variance; a new array."""
        predictions = np.empty_like(x)
        for start, stop, inputs in self._pieces:
            count = stop - start
            inputs["timestep"][0] = timestep
            inputs["sample"][:count] = x[start:stop]
            if self._guided:
                inputs["sample"][count : 2 * count] = x[start:stop]
            begin = perf_counter()
            output = self._engine.run(inputs)["out_sample"]
            self.seconds += perf_counter() - begin
            self.calls += 1
            if self._guided:
                unconditional, conditional = output[:count], output[count : 2 * count]
                predictions[start:stop] = unconditional + self._scale * (conditional - unconditional)
            else:
                predictions[start:stop] = output[:count]
        return predictions
