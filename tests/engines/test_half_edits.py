"""Graphs of sixteen bits, edited afterwards: every result rounded, nodes in fp32 again, attention as its products."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from latentrt.engines.graphs.attention_products import expand_attention
from latentrt.engines.graphs.editor import SCOPES
from latentrt.engines.graphs.islands import Island
from latentrt.engines.graphs.rounded_results import round_results
from latentrt.engines.graphs.widened import widen
from latentrt.engines.precision import Precision

# A float16 is written by its bits: 23728 are those of 300
GROWS = """<ir_version: 10, opset_import: ["" : 23]>
grows (float[n] x) => (float[n] y) <float16[1] factor = {23728}> {
    half = Cast <to = 10> (x)
    large = Mul (half, factor)
    moved = Unsqueeze (large, axes)
    back = Squeeze (moved, axes)
    small = Div (back, factor)
    y = Cast <to = 1> (small)
}"""
SCOPE_OF = {"large": "net.grow", "moved": "net.grow", "back": "net.shrink", "small": "net.shrink"}


def graph(text: str = GROWS) -> ir.Model:
    """A graph whose values have types, and whose nodes come from modules."""
    proto = onnx.parser.parse_model(text.replace("<float16", "<int64[1] axes = {0}, float16"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in model.graph:
        scope = SCOPE_OF.get(str(node.outputs[0].name))
        if scope is not None:
            node.metadata_props[SCOPES] = repr(["", scope, "operator"])
    return model


def answer(model: ir.Model, **inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What ONNX Runtime makes of it, not optimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return np.asarray(session.run(None, inputs)[0])


X = np.array([1, 2, 500], np.float32)


def test_results_beyond_fp16_are_infinite() -> None:
    """Each result is rounded where a node has made it; what is computed in fp32 alone would be exact."""
    model = graph()
    assert round_results(model, Precision.FP16) == 3
    assert answer(model, x=X).tolist() == [1, 2, np.inf]
    assert round_results(graph(), Precision.BF16) == 0


@pytest.mark.parametrize(("scopes", "mended"), [(["net.grow"], False), (["net.grow", "net.shrink"], True)])
def test_islands_made_afterwards(scopes: list[str], mended: bool) -> None:
    """Both that make and that take large numbers must be in fp32: between two islands nothing is rounded."""
    model = graph()
    islands = [Island(component="net", scope=scope, reason="large") for scope in scopes]
    assert widen(model, islands, Precision.FP16) == 2 * len(scopes)
    round_results(model, Precision.FP16)
    assert np.isfinite(answer(model, x=X)).all() == mended


@pytest.mark.parametrize("scale", ["", "scale = 0.3,"])
@pytest.mark.parametrize("mask", ["", ", mask"])
def test_attention_as_products(scale: str, mask: str) -> None:
    """What the operator computes, with any mask and scale; one that is causal stays."""
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
    attends (float[2, 3, 5, 4] q, float[2, 3, 6, 4] k, float[2, 3, 6, 4] v, float[2, 1, 5, 6] mask)
        => (float[2, 3, 5, 4] y) {{ y = Attention <{scale} is_causal = 0> (q, k, v{mask}) }}"""
    random = np.random.default_rng(0)
    shapes = {"q": (2, 3, 5, 4), "k": (2, 3, 6, 4), "v": (2, 3, 6, 4), "mask": (2, 1, 5, 6)}
    inputs = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model, expanded = (ir.from_proto(onnx.parser.parse_model(text)) for _ in range(2))
    assert expand_attention(expanded) == 1
    np.testing.assert_allclose(answer(expanded, **inputs), answer(model, **inputs), rtol=1e-5, atol=1e-6)
    causal = ir.from_proto(onnx.parser.parse_model(text.replace("is_causal = 0", "is_causal = 1")))
    assert expand_attention(causal) == 0
