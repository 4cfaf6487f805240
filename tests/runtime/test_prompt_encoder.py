"""What the prompt encoder promises beyond equality with its references."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prompt_encoders import Encode, assert_equal, prompt_encoder

import latentrt
from latentrt.engines.backends.ort_cpu.model import OrtCpuEngine
from latentrt.engines.bundle.records.manifests.manifest import TokenEmbeddingsRecord
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.prompts.token_embeddings import TokenEmbeddings

LONG = "a red apple, " * 30


@pytest.fixture(scope="module")
def encode(tiny_bundle: Path) -> Iterator[Encode]:
    """The tiny bundle's."""
    with prompt_encoder(tiny_bundle) as encode:
        yield encode


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of every engine call."""
    seen: list[int] = []
    run = OrtCpuEngine.run

    def spy(self: OrtCpuEngine, inputs: Any) -> dict[str, Array]:
        seen.append(len(inputs["inputs_embeds"]))
        return run(self, inputs)

    monkeypatch.setattr(OrtCpuEngine, "run", spy)
    return seen


def test_only_what_is_needed_is_encoded_and_once(encode: Encode, rows: list[int]) -> None:
    """Plain prompts need nothing but themselves; weights need the empty prompt, and a mask for each below 1."""
    encode(["a", "b", "a"], ["b", "b", "a"])
    assert sum(rows) == 2
    rows.clear()
    encode(["a"] * 3, ["c"] * 3, syntax="compel")
    assert sum(rows) == 2
    rows.clear()
    encode("a+ b- (c d)0.3", "", syntax="compel")
    assert sum(rows) == 4
    rows.clear()
    encode(LONG, "", syntax="a1111")
    assert sum(rows) == len(encode(LONG, syntax="a1111")[0][0]) // 77 + 1


def test_shapes(encode: Encode) -> None:
    """Both sides have the length of the longest; without negatives there is one side."""
    positive, negative = encode(["a", LONG], ["b", "c"], long_prompt="chunk")
    assert negative is not None
    assert positive.shape == negative.shape == (2, 154, 64)
    assert positive.dtype == negative.dtype == np.float32
    assert encode("a")[1] is None
    assert_equal(positive[:1, :77], encode("a")[0])
    assert_equal(positive[:1, 77:], encode("")[0])


@pytest.mark.parametrize(
    ("syntax", "prompt", "lost"),
    [
        ("plain", "cat " * 75 + "in the rain", "in the rain"),
        ("compel", "cat " * 75 + "in the+ rain", "in the rain"),
        ("a1111", "cat " * 75 + "(in:1.3) the rain", "in  the rain"),
    ],
)
def test_truncation_warns_in_every_syntax(encode: Encode, syntax: str, prompt: str, lost: str) -> None:
    """And quotes the rest; chunks lose nothing."""
    with pytest.warns(latentrt.PromptTruncatedWarning, match=f"left out: '{lost}'"):
        truncated, _ = encode(prompt, syntax=syntax, long_prompt="truncate")
    assert truncated.shape[1] == 77
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(prompt, syntax=syntax, long_prompt="chunk")[0].shape[1] == 154


def test_weights_that_leave_the_numbers(encode: Encode) -> None:
    """Refused, instead of a black picture."""
    for syntax, prompt in (("compel", "(a)" + "9" * 39), ("a1111", f"(a:{'9' * 39})")):
        with pytest.raises(RequestError, match="no finite conditioning"):
            encode(prompt, syntax=syntax)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"syntax": "Compel"}, r"got prompt_syntax 'Compel', expected one of plain, compel, a1111"),
        ({"syntax": None}, "got prompt_syntax None"),
        ({"long_prompt": "cut"}, r"got long_prompt 'cut', expected one of truncate, chunk"),
        ({"clip_skip": 2}, r"got clip_skip 2, expected 0 to 1 for a text encoder of 2 layers"),
        ({"clip_skip": -1}, "got clip_skip -1"),
    ],
)
def test_options_are_checked(encode: Encode, wishes: dict[str, Any], message: str) -> None:
    """By name and range."""
    with pytest.raises(RequestError, match=message):
        encode("a", **wishes)


def test_a_call_of_the_pipeline(tiny_pipe: latentrt.Pipeline) -> None:
    """Keywords and enums; long prompts on a profile for two; what a picture says of its clip skip."""
    common = {"num_inference_steps": 2, "seed": 3, "output_type": "latent"}
    plain = tiny_pipe("a red apple", **common)
    named = tiny_pipe("a red apple", prompt_syntax="compel", **common)
    np.testing.assert_array_equal(plain.latents, named.latents)
    skipped = tiny_pipe("a red apple", clip_skip=np.int64(1), **common)
    assert np.abs(skipped.latents - plain.latents).max() > 1e-4
    assert "Clip skip: 2" in skipped.metadata[0].parameters()
    assert "Clip skip" not in plain.metadata[0].parameters()
    with pytest.raises(RequestError, match=r"got clip_skip 'x', expected a whole number"):
        tiny_pipe("a", clip_skip="x")  # type: ignore[arg-type]
    syntax = latentrt.PromptSyntax.A1111
    together = tiny_pipe(
        [LONG, "(b)", LONG], negative_prompt="[c]", prompt_syntax=syntax, **{**common, "seed": [1, 2, 3]}
    )
    alone = tiny_pipe(LONG, negative_prompt="[c]", prompt_syntax=syntax, **{**common, "seed": 3})
    np.testing.assert_allclose(together.latents[2], alone.latents[0], atol=1e-4)


def test_a_table_that_is_another_is_refused(tmp_path: Path) -> None:
    """Cut, of another shape, or no table at all."""
    from safetensors.numpy import save_file

    path = tmp_path / "table.safetensors"
    record = TokenEmbeddingsRecord(file="table.safetensors", tensor="weight", rows=4, width=3)
    good = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_file({"other": good, "weight": good}, path)
    np.testing.assert_array_equal(TokenEmbeddings(path, record).vectors(np.array([[2, 0]])), good[[[2, 0]]])
    whole = path.read_bytes()
    save_file({"weight": good.T.copy()}, tmp_path / "turned")
    cases = [whole[:-8], whole[:20], b"", b"\xff" * 64, (tmp_path / "turned").read_bytes()]
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"expected 4 × 3 float32; build the bundle again"):
            TokenEmbeddings(path, record)
