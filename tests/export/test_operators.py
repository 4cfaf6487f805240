"""A program is decomposed where an operator needs it, and not where none does; the graph computes the same."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from shared import no_preview_fitted
from torch._subclasses.fake_impls import get_fast_op_impls

import latentrt
from latentrt.export.quiet import quiet
from latentrt.export.tracing.operators import translated_operators_kept
from latentrt.export.tracing.reruns import programs_run_once
from latentrt.export.tracing.shapes import shapes_told
from latentrt.export.tracing.versions import OPSET


class Layers(torch.nn.Module):
    """A norm, a convolution that halves, attention between pixels, a cast and a mask; then ``last``."""

    def __init__(self, last: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.norm, self.conv, self.last = torch.nn.GroupNorm(2, 4), torch.nn.Conv2d(4, 4, 3, 2, 1), last
        self.rows, self.keys, self.values = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 6)
        self.back = torch.nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        there = x.to(torch.float16).ne(0.0) & x.ne(1.0)
        half = self.conv(torch.nn.functional.silu(self.norm(x)))
        rows = self.rows(half.flatten(2).transpose(1, 2))[:, None]
        attended = torch.nn.functional.scaled_dot_product_attention(rows, self.keys(rows), self.values(rows))
        half = half + self.back(attended)[:, 0].transpose(1, 2).reshape(half.shape)
        double = torch.nn.functional.interpolate(half, scale_factor=2.0)
        return (self.last(double) + there.to(torch.float32),)


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The programs that torch decomposes."""
    programs = []
    decompose = torch.export.ExportedProgram.run_decompositions

    def counted(program: Any, *arguments: Any, **keywords: Any) -> Any:
        programs.append(program)
        return decompose(program, *arguments, **keywords)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", counted)
    return programs


@pytest.mark.parametrize(
    ("last", "times"),
    [
        (lambda x: 1.0 - torch.sigmoid(x), 0),
        (lambda x: torch.special.expit(x).clone().add_(1.0), 1),
        pytest.param(lambda x: torch.logit(x, 0.1), 1, marks=pytest.mark.slow),
    ],
    ids=["translated", "changes its input", "has no translation"],
)
def test_only_what_needs_it(
    last: Callable[[torch.Tensor], torch.Tensor], times: int, decomposed: list[Any], tmp_path: Path
) -> None:
    """Both graphs are as their module, also at sizes that were not traced."""
    torch.manual_seed(0)
    module = Layers(last).eval()
    dynamic = {0: torch.export.Dim("batch"), **{axis: 2 * torch.export.Dim(f"half_{axis}") for axis in (2, 3)}}
    with quiet(), torch.inference_mode(), translated_operators_kept(), programs_run_once(), shapes_told():
        program = torch.onnx.export(
            module,
            (torch.randn(2, 4, 8, 6),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
    assert len(decomposed) == times
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 4, 2, 2), (3, 4, 4, 10)):
        x = torch.randn(shape)
        with torch.inference_mode():
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], module(x)[0], atol=1e-5)


def rows_of(path: Path) -> list[Any]:
    """The nodes of a graph, with what each takes by the place where it was given: names of results have numbers."""
    import onnx_ir

    graph = onnx_ir.load(path).graph
    given = {value: place for place, value in enumerate(graph.inputs)}
    rows = []
    for node in graph:
        taken: list[Any] = []
        for value in node.inputs:
            tensor = None if value is None else value.const_value
            taken.append(given.get(value) if tensor is None else (tensor.dtype, tensor.shape, tensor.tobytes()))
        attributes = sorted((name, str(one.value)) for name, one in node.attributes.items())
        rows.append((node.op_type, taken, attributes, dict(node.metadata_props)))
        given |= {value: len(given) + place for place, value in enumerate(node.outputs)}
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl", "svd"])
def test_told_shapes_are_those_that_are_computed(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part's graph is the same either way; nothing of it is left in torch."""
    from checkpoints import save_tiny_checkpoint
    from picture_checkpoints import SAVED

    from latentrt.export.tracing import onnx_export

    table = dict(get_fast_op_impls())
    saved = SAVED.get(family, partial(save_tiny_checkpoint, family=family))
    model = saved(tmp_path / "model")
    folders: dict[str, Path] = {}
    for name, context in (("told", shapes_told), ("computed", nullcontext)):
        monkeypatch.setattr(onnx_export, "shapes_told", context)
        with no_preview_fitted():
            folders[name] = latentrt.build(model, tmp_path / name).bundle.root / "onnx"
        assert get_fast_op_impls() == table
    assert torch.ops.aten.linear.default not in table
    parts = [path.relative_to(folders["told"]) for path in folders["told"].rglob("*.onnx")]
    assert len(parts) > 2
    for part in parts:
        assert rows_of(folders["told"] / part) == rows_of(folders["computed"] / part), part


class Mixed(torch.nn.Module):
    """Operands of two types, twice; the rest is of one."""

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.sigmoid(x) * index + 2 * torch.exp(x) - torch.cos(x),)


@pytest.mark.slow
def test_a_program_runs_again_only_where_a_type_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is that of torch's own way, byte for byte, and torch has that way again."""
    ran: list[Any] = []
    run_node = torch.fx.Interpreter.run_node
    monkeypatch.setattr(torch.fx.Interpreter, "run_node", lambda self, node: ran.append(node) or run_node(self, node))
    example = torch.randn(2, 3), torch.arange(3)
    written, counts = [], []
    for context in (nullcontext, programs_run_once, nullcontext):
        ran.clear()
        with quiet(), torch.inference_mode(), context():
            program = torch.onnx.export(Mixed(), example, dynamo=True, opset_version=OPSET, verbose=False)
        program.save(tmp_path / "model.onnx")
        written.append((tmp_path / "model.onnx").read_bytes())
        counts.append(len(ran))
    assert written[0] == written[1] == written[2]
    assert b"Cast" in written[0]
    assert 0 < counts[1] < counts[0]
    assert counts[2] == counts[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "seamless"), [("sd1", "xy"), ("sdxl", "none"), ("svd", "none"), ("zero123", "none")]
)
def test_no_model_needs_it(family: str, seamless: str, decomposed: list[Any], tmp_path: Path) -> None:
    """Not one part of a model, so that builds are as fast as they can be."""
    from checkpoints import save_tiny_checkpoint
    from picture_checkpoints import SAVED

    saved = SAVED.get(family, partial(save_tiny_checkpoint, family=family))
    latentrt.build(saved(tmp_path / "model"), tmp_path / "bundle", seamless=seamless)
    assert decomposed == []
