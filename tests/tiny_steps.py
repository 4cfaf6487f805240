"""A U-Net of a few operators, alone and in whole steps, on ONNX Runtime: runs cost next to nothing."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from latentrt.engines.bundle.unet.denoise_step import step_spec
from latentrt.engines.engine import ClosesItself
from latentrt.engines.graphs.variants.denoise_step import add_denoise_step
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor, TensorSpec, host_arrays

LATENTS = (4, 3, 5)
TOLD = "told"
_GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
unet (float[batch, {seen}, height, width] sample, float[batch] timestep, float[batch, 1] told)
    => (float[batch, 4, height, width] out_sample)
<int64[4] one_each = {{-1, 1, 1, 1}}, int64[1] planes = {{1}}, int64[2] parts = {{4, {more}}},
 float share = {{0.1}}, float thousandth = {{0.001}}>
{{
    {latents}
    times = Mul (timestep, thousandth)
    time = Reshape (times, one_each)
    text = Reshape (told, one_each)
    drawn = Mul (text, pattern)
    shared = Mul (latents, share)
    timed = Add (shared, time)
    all = Add (timed, drawn)
    out_sample = Tanh (all)
}}
"""

_WITH_CHANNELS = """
    own, others = Split <axis = 1> (sample, parts)
    other = ReduceMean <keepdims = 1> (others, planes)
    latents = Add (own, other)
"""


def unet_graph(more: int = 0) -> onnx.ModelProto:
    """tanh(0.1 · sample + timestep / 1000 + told · pattern); channels behind the latents are added to these.

    It depends on the sample so weakly that guidance enlarges no rounding.
    """
    model = parser.parse_model(
        _GRAPH.format(seen=4 + more, more=more, latents=_WITH_CHANNELS if more else "latents = Identity (sample)")
    )
    pattern = np.random.default_rng(0).standard_normal((1, *LATENTS)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(pattern, "pattern"))
    return model


def unet_spec(batches: tuple[int, ...], more: int = 0) -> EngineSpec:
    """Its tensors."""
    channels, *sides = LATENTS
    return EngineSpec(
        inputs={"sample": _tensor(channels + more, *sides), "timestep": _tensor(), TOLD: _tensor(1)},
        outputs={"out_sample": _tensor(*LATENTS)},
        batches=batches,
    )


class OrtEngine(ClosesItself):
    """An engine over a graph; what is left out is neutral. ``calls`` counts its runs."""

    def __init__(self, graph: onnx.ModelProto, spec: EngineSpec) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self.spec, self.calls = spec, 0
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs it."""
        self.spec.check(inputs)
        self.calls += 1
        batch = inputs["timestep"].shape[0]
        left_out = {
            name: np.full(tensor.sized(batch), tensor.neutral, tensor.dtype)
            for name, tensor in self.spec.inputs.items()
            if name not in inputs
        }
        names = list(self.spec.outputs)
        return dict(zip(names, self._session.run(names, host_arrays({**left_out, **inputs})), strict=True))

    def close(self) -> None:
        """Nothing."""


def unet_engine(batches: tuple[int, ...], more: int = 0) -> OrtEngine:
    """The U-Net alone."""
    return OrtEngine(unet_graph(more), unet_spec(batches, more))


def step_engine(batches: tuple[int, ...], more: int = 0) -> OrtEngine:
    """Whole steps of it."""
    graph = unet_graph(more)
    add_denoise_step(graph.graph)
    return OrtEngine(graph, step_spec(unet_spec(batches, more)))


def _tensor(*rest: int) -> TensorSpec:
    return TensorSpec(shape=(BATCH, *rest), dtype=np.dtype(np.float32))
