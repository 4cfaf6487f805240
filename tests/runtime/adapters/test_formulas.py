"""Formulas against float64, where the libraries are wrong or differ; memory order; what does not fit is refused."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import pytest

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.leaves import LEAVES, LeafOptions, formulas_from_leaves

Leaves = dict[str, Array]


def numbers(*shape: int, seed: int = 0) -> Array:
    """Random numbers, float32."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape, dtype=np.float32)


def lora(outputs: int = 16, inputs: int = 24, rank: int = 4, **others: Array) -> Leaves:
    return {"lora_up.weight": numbers(outputs, rank), "lora_down.weight": numbers(rank, inputs), **others}


def one(value: float) -> Array:
    return np.array(value, np.float32)


def changed(leaves: Mapping[str, Array], weight: Array, **options: Any) -> Array:
    """F(W) − W of the weight."""
    formula = formulas_from_leaves(leaves, LeafOptions(**options))["weight"]
    formula.check(weight.shape)
    return formula.change(weight)


def product(leaves: Mapping[str, Array]) -> Array:
    """up · down in float64."""
    up, down = (leaves[f"lora_{name}.weight"].astype(np.float64) for name in ("up", "down"))
    return up.reshape(len(up), -1) @ down.reshape(len(down), -1)


def close(got: Array, expected: Array) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("others", "options", "scale"),
    [
        pytest.param({}, {}, 1.0, id="no alpha"),
        pytest.param({"alpha": one(0)}, {}, 1.0, id="alpha 0 means the rank"),
        pytest.param({"alpha": one(1)}, {}, 0.25, id="alpha other than the rank"),
        pytest.param({"alpha": one(-8).reshape(1)}, {}, -2.0, id="negative alpha"),
        pytest.param({"alpha": one(2)}, {"alpha": 8.0}, 0.5, id="the tensor before the config"),
        pytest.param({}, {"alpha": 8.0}, 2.0, id="alpha of the config"),
        pytest.param({}, {"alpha": 0.0}, 0.0, id="alpha 0 of the config is PEFT's 0"),
        pytest.param({}, {"alpha": 8.0, "rslora": True}, 8 / sqrt(4), id="rslora"),
        pytest.param({"scalar": one(3), "alpha": one(2)}, {}, 1.5, id="lycoris' scalar"),
    ],
)
def test_the_scale_of_a_lora(others: Leaves, options: dict[str, Any], scale: float) -> None:
    leaves = lora(**others)
    close(changed(leaves, numbers(16, 24), **options), scale * product(leaves))


@pytest.mark.parametrize("own", [(24, 8), (24, 8, 1, 1)], ids=str)
@pytest.mark.parametrize("shape", [(16, 8), (16, 8, 1, 1)], ids=str)
def test_a_matrix_and_a_1x1_convolution_are_one(own: tuple[int, ...], shape: tuple[int, ...]) -> None:
    leaves = {"lora_up.weight": numbers(16, 24).reshape(16, 24, *own[2:]), "lora_down.weight": numbers(*own)}
    close(changed(leaves, numbers(*shape)), product(leaves).reshape(shape))


def test_a_flattened_kernel_fits_its_convolution() -> None:
    leaves = lora(12, 8 * 9)
    close(changed(leaves, numbers(12, 8, 3, 3)), product(leaves).reshape(12, 8, 3, 3))


def test_dora_normalises_per_output_or_per_input_as_its_shape_says() -> None:
    weight = numbers(16, 16, seed=1)
    leaves = lora(16, 16, alpha=one(2))
    direction = weight.astype(np.float64) + product(leaves) / 2
    outputs, inputs = (np.abs(numbers(16, seed=seed)) + 0.5 for seed in (2, 3))
    per_output = outputs[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    per_input = inputs * direction / np.linalg.norm(direction, axis=0)
    close(weight + changed({**leaves, "dora_scale": outputs[:, None]}, weight), per_output)
    close(weight + changed({**leaves, "dora_scale": inputs[None]}, weight), per_input)
    close(weight + changed({**leaves, "dora_scale": outputs}, weight), per_output)
    close(weight + changed({**leaves, "lora_magnitude_vector": outputs}, weight), per_output)


def test_dora_of_a_square_convolution_tells_peft_from_lycoris_by_the_name() -> None:
    weight = numbers(8, 8, 3, 3, seed=1)
    leaves = {"lora_up.weight": numbers(8, 4, 1, 1), "lora_down.weight": numbers(4, 8, 3, 3)}
    magnitude = (np.abs(numbers(8)) + 0.5).reshape(1, 8, 1, 1)
    direction = weight.astype(np.float64) + product(leaves).reshape(weight.shape)
    per_output = magnitude.reshape(8, 1, 1, 1) * direction / np.sqrt((direction**2).sum((1, 2, 3), keepdims=True))
    per_input = magnitude * direction / np.sqrt((direction**2).sum((0, 2, 3), keepdims=True))
    close(weight + changed({**leaves, "lora_magnitude_vector": magnitude}, weight), per_output)
    close(weight + changed({**leaves, "dora_scale": magnitude}, weight), per_input)


def test_dora_leaves_an_output_of_zeros_at_zero() -> None:
    leaves = {**lora(), "dora_scale": np.full((16, 1), 1e30, np.float32)}
    leaves["lora_up.weight"][3] = 0
    weight = numbers(16, 24)
    weight[3] = 0
    assert not changed(leaves, weight)[3].any()


@pytest.mark.parametrize("alpha", [0, 2, 7])
def test_two_whole_matrices_of_lokr_are_not_scaled(alpha: float) -> None:
    leaves = {"lokr_w1": numbers(4, 4), "lokr_w2": numbers(4, 6), "alpha": one(alpha)}
    close(changed(leaves, numbers(16, 24)), np.kron(leaves["lokr_w1"], leaves["lokr_w2"]))


def test_lokr_takes_the_rank_of_its_first_matrix_first() -> None:
    leaves = {
        "lokr_w1_a": numbers(4, 2),
        "lokr_w1_b": numbers(2, 4),
        "lokr_w2_a": numbers(4, 3),
        "lokr_w2_b": numbers(3, 6),
        "alpha": one(4),
    }
    first, second = leaves["lokr_w1_a"] @ leaves["lokr_w1_b"], leaves["lokr_w2_a"] @ leaves["lokr_w2_b"]
    close(changed(leaves, numbers(16, 24)), 2 * np.kron(first, second))


def test_loha_is_scaled_once() -> None:
    leaves = {
        "hada_w1_a": numbers(16, 4),
        "hada_w1_b": numbers(4, 24),
        "hada_w2_a": numbers(16, 4, seed=1),
        "hada_w2_b": numbers(4, 24, seed=1),
        "alpha": one(2),
    }
    first, second = (leaves[f"hada_w{index}_a"] @ leaves[f"hada_w{index}_b"] for index in (1, 2))
    close(changed(leaves, numbers(16, 24)), first * second / 2)


@pytest.mark.parametrize("kernel", [(), (3, 3)], ids=str)
def test_glora_multiplies_the_inputs_of_the_weight(kernel: tuple[int, ...]) -> None:
    weight = numbers(16, 24, *kernel)
    leaves = {
        "a1.weight": numbers(24, 4),
        "a2.weight": numbers(4, 24),
        "alpha": one(2),
        "b1.weight": numbers(16, 4),
        "b2.weight": numbers(4, 24, *kernel),
    }
    right = leaves["a1.weight"].astype(np.float64) @ leaves["a2.weight"]
    beside = leaves["b1.weight"].astype(np.float64) @ leaves["b2.weight"].reshape(4, -1)
    expected = (np.einsum("oi...,ij->oj...", weight, right) + beside.reshape(weight.shape)) / 2
    close(changed(leaves, weight), expected)
    old = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    if not kernel:  # as older LyCORIS has them
        renamed = {f"{old[name]}.weight": leaves[f"{name}.weight"] for name in old}
        close(changed({**renamed, "alpha": one(2)}, weight), expected)


def test_glora_with_a_core_is_a_tucker_decomposition() -> None:
    leaves = {
        "a1.weight": numbers(24, 4, 1, 1),
        "a2.weight": numbers(4, 24, 1, 1),
        "bm.weight": numbers(4, 4, 3, 3),
        "b1.weight": numbers(16, 4, 1, 1),
        "b2.weight": numbers(4, 24, 1, 1),
    }
    weight = np.zeros((16, 24, 3, 3), np.float32)
    tucker = np.einsum("mn...,om,ni->oi...", *(leaves[f"{name}.weight"].squeeze() for name in ("bm", "b1", "b2")))
    close(changed(leaves, weight), tucker)


def test_a_sparse_rest_is_added_to_a_low_rank() -> None:
    indices = np.array([[0, 3, 15], [23, 2, 0]], np.int16)
    sparse = {"bias_indices": indices, "bias_values": numbers(3), "bias_size": np.array([16, 24], np.int16)}
    leaves = lora(**sparse)
    expected = product(leaves)
    expected[tuple(indices)] += leaves["bias_values"]
    close(changed(leaves, numbers(16, 24)), expected)


def test_transposed_factors_and_new_values() -> None:
    weight = numbers(16, 24, seed=1)
    leaves = lora(24, 16)
    close(changed(leaves, weight, fan_in_fan_out=True), product(leaves).T)
    new = numbers(16, 24, seed=2)
    close(weight + changed({"set_weight": new}, weight), new)


def test_biases_come_with_their_weights_or_alone() -> None:
    formulas = formulas_from_leaves(lora(diff_b=numbers(16)), LeafOptions())
    assert set(formulas) == {"weight", "bias"}
    close(formulas["bias"].change(numbers(16)), numbers(16))
    assert set(formulas_from_leaves({"b_norm": numbers(16)}, LeafOptions())) == {"bias"}
    assert set(formulas_from_leaves({"set_bias": numbers(16), "set_weight": numbers(16)}, LeafOptions())) == set(
        formulas
    )


KINDS: dict[str, Leaves] = {
    "lora": lora(),
    "transposed embedding": {"lora_embedding_A": numbers(4, 16), "lora_embedding_B": numbers(24, 4)},
    "dora of outputs": lora(dora_scale=np.abs(numbers(16, 1)) + 0.5),
    "dora of inputs": lora(dora_scale=np.abs(numbers(1, 24)) + 0.5),
    "loha": {f"hada_w{i}_{x}": numbers(*((16, 4) if x == "a" else (4, 24)), seed=i) for i in (1, 2) for x in "ab"},
    "lokr": {"lokr_w1": numbers(4, 4), "lokr_w2_a": numbers(4, 2), "lokr_w2_b": numbers(2, 6)},
    "glora": {
        "a1.weight": numbers(24, 4), "a2.weight": numbers(4, 24),
        "b1.weight": numbers(16, 4), "b2.weight": numbers(4, 24),
    },
    "full": {"diff": numbers(16, 24)},
    "new": {"set_weight": numbers(16, 24)},
    "sparse": lora(
        bias_indices=np.array([[0], [1]]), bias_values=numbers(1), bias_size=np.array([16, 24])
    ),
    "ia3": {"weight": numbers(16), "on_input": one(0)},
    "ia3 of inputs": {"weight": numbers(24), "on_input": one(1)},
    "oft": {"oft_blocks": numbers(4, 4, 4), "rescale": numbers(16, 1)},
    "boft": {"oft_blocks": numbers(3, 4, 4, 4), "rescale": numbers(16, 1)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_order_of_the_weight_is_kept_and_the_weight_is_not_written_to(kind: str) -> None:
    formula = formulas_from_leaves(KINDS[kind], LeafOptions())["weight"]
    rows = numbers(16, 24)
    columns = np.asfortranarray(rows)
    pointwise = np.asfortranarray(rows).reshape(16, 24, 1, 1, order="A")
    for weight in (rows, columns, pointwise):
        weight.flags.writeable = False
    expected = formula.change(rows)
    assert expected.flags.c_contiguous
    assert expected.dtype == np.float32
    got = formula.change(columns)
    assert got.flags.f_contiguous
    assert got.dtype == np.float32
    close(got, expected)
    got = formula.change(pointwise)
    assert got.strides[:2] == pointwise.strides[:2]
    assert got.shape == (16, 24, 1, 1)
    close(got[..., 0, 0], expected)


def test_an_order_that_no_matrix_has_is_served_too() -> None:
    leaves = {"lora_up.weight": numbers(12, 4, 1, 1), "lora_down.weight": numbers(4, 8, 3, 3)}
    weight = np.asfortranarray(numbers(12, 8, 3, 3))
    close(changed(leaves, weight), product(leaves).reshape(12, 8, 3, 3))


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        pytest.param({"lora_up.weight": numbers(16, 4)}, "lora_down.weight", id="one factor"),
        pytest.param({"hada_w1_a": numbers(16, 4)}, "hada_w1_b", id="one of four"),
        pytest.param({"lokr_w2": numbers(4, 6)}, "lokr_w1_a", id="one matrix"),
        pytest.param({"alpha": one(1)}, "got alpha, expected also", id="alpha alone"),
        pytest.param({"dora_scale": numbers(16, 1), "diff_b": numbers(16)}, "expected also", id="a magnitude alone"),
        pytest.param(lora(diff=numbers(16, 24)), "LoRA and a difference", id="two kinds"),
        pytest.param({"diff_b": numbers(16), "b_norm": numbers(16)}, "for one module", id="two biases"),
        pytest.param({"lora_up.weight": numbers(16, 0), "lora_down.weight": numbers(0, 24)}, "rank 0", id="rank 0"),
        pytest.param(
            {"lora_up.weight": numbers(16, 4), "lora_down.weight": numbers(5, 24)},
            r"\(16, 4\).*\(5, 24\).*same rank",
            id="two ranks",
        ),
        pytest.param(lora(alpha=numbers(2)), "'alpha' of .2,.*expected one number", id="two alphas"),
        pytest.param(lora(alpha=one(np.nan)), "NaN or infinity in 'alpha'", id="alpha of NaN"),
        pytest.param(lora(dora_scale=np.full((16, 1), np.inf, np.float32)), "infinity in 'dora_scale'", id="infinity"),
        pytest.param({"lora_up.weight": numbers(16), "lora_down.weight": numbers(4, 24)}, "a matrix", id="a vector"),
        pytest.param(
            {"lora_up.weight": numbers(16, 4, 3, 3), "lora_down.weight": numbers(4, 24)}, "a matrix", id="a kernel"
        ),
        pytest.param(
            {
                "hada_w1_a": numbers(16, 4), "hada_w1_b": numbers(4, 24),
                "hada_w2_a": numbers(16, 4), "hada_w2_b": numbers(4, 25),
            },
            r"\(16, 24\).*\(16, 25\)",
            id="two shapes",
        ),
        pytest.param({"oft_blocks": numbers(4, 4, 5)}, "square blocks", id="blocks that are not square"),
        pytest.param({"oft_blocks": numbers(3, 2, 4, 4)}, "multiple of 4", id="too few blocks for the stages"),
        pytest.param(
            {"weight": numbers(16), "on_input": one(0), "dora_scale": numbers(16, 1)}, "dora_scale", id="no dora"
        ),
        pytest.param(
            lora(bias_indices=np.array([[16], [0]]), bias_values=numbers(1), bias_size=np.array([16, 24])),
            "beyond",
            id="an index beyond the matrix",
        ),
        pytest.param(
            lora(bias_indices=np.array([[1]]), bias_values=numbers(1), bias_size=np.array([16, 24])),
            "a row and a column",
            id="an index without a column",
        ),
    ],
)  # fmt: skip
def test_tensors_that_make_no_adapter_are_refused(leaves: Leaves, message: str) -> None:
    assert set(leaves) <= LEAVES
    with pytest.raises(RequestError, match=f"(?s){message}.*; "):
        formulas_from_leaves(leaves, LeafOptions())


@pytest.mark.parametrize("kind", [*KINDS, "norm"])
@pytest.mark.parametrize("shape", [(16, 32), (20, 24), (16, 24, 3, 3), (16,)], ids=str)
def test_a_weight_of_another_shape_is_refused_with_both(kind: str, shape: tuple[int, ...]) -> None:
    formula = formulas_from_leaves(KINDS.get(kind, {"w_norm": numbers(24)}), LeafOptions())["weight"]
    fits_any_columns = kind in ("oft", "boft", "ia3") and shape[0] == 16
    if fits_any_columns or (kind == "ia3 of inputs" and shape[1:2] == (24,)):
        formula.check(shape)
        return
    with pytest.raises(RequestError, match=r"got .*, expected .*\d.*; choose a file"):
        formula.check(shape)
