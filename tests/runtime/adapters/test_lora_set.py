"""Sets of adapters: their sum, the order that counts for nothing, weights per part and block, and the key."""

from itertools import permutations

import numpy as np
import pytest

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.adapter import Adapter
from latentrt.runtime.adapters.formulas.formula import Formula
from latentrt.runtime.adapters.formulas.leaves import LeafOptions, formulas_from_leaves
from latentrt.runtime.adapters.lora_set import LoraSet, Strength

DOWN, MIDDLE = "down_blocks.1.attentions.0.to_q.weight", "mid_block.attentions.0.to_q.weight"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj.weight"


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).standard_normal(shape, dtype=np.float32)


def low_rank(seed: int, rank: int = 4, dora: bool = False) -> Formula:
    leaves = {"lora_up.weight": numbers(16, rank, seed=seed), "lora_down.weight": numbers(rank, 24, seed=seed)}
    if dora:
        leaves["dora_scale"] = np.abs(numbers(16, 1, seed=seed)) + 0.5
    return formulas_from_leaves({**leaves, "alpha": np.array(2, np.float32)}, LeafOptions())["weight"]


def adapter(name: str, **parts: dict[str, Formula]) -> Adapter:
    return Adapter(name=name, file=f"{name}.safetensors", sha256=name * 64, short_hash=name * 12, parts=parts)


A = adapter("a", unet={DOWN: low_rank(1), MIDDLE: low_rank(2)}, text_encoder={TEXT: low_rank(3)})
B = adapter("b", unet={DOWN: low_rank(4, rank=2)}, text_encoder_2={TEXT: low_rank(5)})
C = adapter("c", unet={DOWN: low_rank(6, dora=True)})


def new(lora_set: LoraSet, weight: Array, name: str = DOWN, component: str = "unet") -> Array:
    changes = lora_set.changes(component)
    assert changes is not None
    return changes.weights[name](weight)


@pytest.mark.parametrize("order", ["C", "F"])
def test_every_formula_sees_the_base_weight_and_the_order_counts_for_nothing(order: str) -> None:
    weight = np.require(numbers(16, 24), requirements=[order])
    weight.flags.writeable = False
    members = ((A, Strength(unet=0.7)), (B, Strength(unet=-1.5)), (C, Strength(unet=2.0)))
    expected = weight.astype(np.float64)
    for member, strength in members:
        expected += strength.unet * member.parts["unet"][DOWN].change(weight).astype(np.float64)
    results = [new(LoraSet(order_of_members), weight) for order_of_members in permutations(members)]
    np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=1e-5)
    assert results[0].dtype == np.float32
    assert results[0].strides == weight.strides
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("products", [1, 700, 5000])
def test_products_in_tiles_are_their_sum(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentrt.runtime.adapters.formulas.low_rank._TILE_PRODUCTS", products)
    for weight in (numbers(16, 24), np.asfortranarray(numbers(16, 24))):
        parts = [member.parts["unet"][DOWN] for member in (A, B)]
        expected = weight + 0.5 * parts[0].change(weight) + 3 * parts[1].change(weight)
        got = new(LoraSet(((A, Strength(unet=0.5)), (B, Strength(unet=3)))), weight)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_convolution_is_changed_in_its_shape() -> None:
    leaves = {"lora_up.weight": numbers(12, 4, 1, 1), "lora_down.weight": numbers(4, 4, 3, 3)}
    formula = formulas_from_leaves(leaves, LeafOptions())["weight"]
    conv = adapter("d", unet={"conv_in.weight": formula})
    weight = numbers(12, 4, 3, 3)
    got = new(LoraSet(((conv, Strength()),)), weight, "conv_in.weight")
    np.testing.assert_allclose(got, weight + formula.change(weight), rtol=1e-5, atol=1e-5)


def test_weights_of_unet_text_encoders_and_blocks() -> None:
    blocks = (("down_blocks.", 0.0), ("down_blocks.1.", 0.25))
    strength = Strength(unet=0.5, text=2.0, blocks=blocks)
    weight = numbers(16, 24)
    for component, name, value in (
        ("unet", DOWN, 0.25),  # the longest beginning counts
        ("unet", MIDDLE, 0.5),
        ("text_encoder", TEXT, 2.0),
    ):
        expected = weight + value * A.parts[component][name].change(weight)
        got = new(LoraSet(((A, strength),)), weight, name, component)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    without = LoraSet(((A, Strength(unet=0.5, blocks=(("down_blocks.", 0.0),))),)).changes("unet")
    assert without is not None
    assert list(without.weights) == [MIDDLE]


@pytest.mark.parametrize(
    "members",
    [(), ((A, Strength(unet=0, text=0)),), ((A, Strength(unet=-0.0)), (B, Strength(unet=0))), ((B, Strength(unet=0)),)],
)
def test_nothing_changes_without_adapters_or_at_weight_0(members: tuple[tuple[Adapter, Strength], ...]) -> None:
    assert LoraSet(members).changes("unet") is None
    assert LoraSet(members).changes("vae_decoder") is None


def test_a_text_encoder_alone_is_changed() -> None:
    lora_set = LoraSet(((A, Strength(unet=0, text=1)),))
    assert lora_set.changes("unet") is None
    assert lora_set.changes("text_encoder_2") is None
    assert lora_set.changes("text_encoder") is not None


def test_the_key_tells_content_and_strengths_and_nothing_else() -> None:
    def key(*members: tuple[Adapter, Strength], component: str = "unet") -> str:
        changes = LoraSet(members).changes(component)
        assert changes is not None
        return changes.key

    half = Strength(unet=0.5)
    renamed = Adapter(name="z", file="z.pt", sha256=A.sha256, short_hash="", parts=A.parts)
    same = key((A, half), (B, half))
    assert same == key((B, half), (A, half)) == key((renamed, half), (B, half))
    assert same == key((A, Strength(unet=0.5, text=3)), (B, half), (C, Strength(unet=0)))
    assert same == key((A, Strength(unet=9, blocks=(("down_blocks.", 0.5), ("mid_block.", 0.5)))), (B, half))
    others = [
        key((A, half)),
        key((A, half), (C, half)),
        key((A, half), (B, Strength(unet=0.25))),
        key((A, Strength(unet=0.5, blocks=(("mid_block.", 0.1),))), (B, half)),
        key((A, Strength(unet=0.5, blocks=(("mid_block.", 0.0),))), (B, half)),
    ]
    assert len({same, *others}) == 6
    text = adapter("t", text_encoder={TEXT: low_rank(3)}, text_encoder_2={TEXT: low_rank(5)})
    assert key((text, half), component="text_encoder") != key((text, half), component="text_encoder_2")
