"""From the tensors of one module in an adapter's file to what they do to its weight and bias."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.difference import Difference, Replacement, SparseDifference, Sum
from latentrt.runtime.adapters.formulas.dora import Decomposed
from latentrt.runtime.adapters.formulas.formula import Formula
from latentrt.runtime.adapters.formulas.glora import generalized_from_tensors
from latentrt.runtime.adapters.formulas.hadamard import hadamard_from_tensors
from latentrt.runtime.adapters.formulas.ia3 import peft_rescaling_from_tensors, rescaling_from_tensors
from latentrt.runtime.adapters.formulas.kronecker import kronecker_from_tensors
from latentrt.runtime.adapters.formulas.low_rank import embedding_from_tensors, low_rank_from_tensors
from latentrt.runtime.adapters.formulas.module_tensors import LeafOptions, ModuleTensors
from latentrt.runtime.adapters.formulas.orthogonal import rotation_from_tensors
from latentrt.runtime.adapters.formulas.transposed import Transposed

__all__ = ["LEAVES", "LeafOptions", "formulas_from_leaves"]


@dataclass(frozen=True)
class Kind:
    """A kind of adapter: its name, the tensors that only it has, and what they make."""

    name: str
    leaves: frozenset[str]
    formula: Callable[[ModuleTensors], Formula]
    decomposes: bool = False
    """DoRA's magnitude may come with it."""


WEIGHT_KINDS = (
    Kind("LoRA", frozenset({"lora_up.weight", "lora_down.weight", "lora_mid.weight"}), low_rank_from_tensors, True),
    Kind(
        "PEFT's LoRA of an embedding", frozenset({"lora_embedding_A", "lora_embedding_B"}), embedding_from_tensors, True
    ),
    Kind(
        "LoHa",
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
        hadamard_from_tensors,
        True,
    ),
    Kind(
        "LoKr",
        frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
        kronecker_from_tensors,
        True,
    ),
    Kind(
        "GLoRA",
        frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"}),
        generalized_from_tensors,
        True,
    ),
    Kind("OFT", frozenset({"oft_blocks", "rescale"}), rotation_from_tensors, True),
    Kind("(IA)³", frozenset({"weight", "on_input"}), rescaling_from_tensors),
    Kind("PEFT's (IA)³", frozenset({"ia3_l"}), peft_rescaling_from_tensors),
    Kind("a difference", frozenset({"diff"}), lambda tensors: Difference(content=tensors.tensor("diff")), True),
    Kind("a norm's difference", frozenset({"w_norm"}), lambda tensors: Difference(content=tensors.tensor("w_norm"))),
    Kind("a new weight", frozenset({"set_weight"}), lambda tensors: Replacement(content=tensors.tensor("set_weight"))),
)

BIAS_KINDS = (
    Kind(
        "the bias of PEFT's lora_B",
        frozenset({"lora_up.bias"}),
        lambda tensors: Difference(
            content=tensors.tensor("lora_up.bias"), scale=tensors.scale(len(tensors.factor("lora_down.weight")))
        ),
    ),
    Kind("a difference", frozenset({"diff_b"}), lambda tensors: Difference(content=tensors.tensor("diff_b"))),
    Kind("a norm's difference", frozenset({"b_norm"}), lambda tensors: Difference(content=tensors.tensor("b_norm"))),
    Kind("a new bias", frozenset({"set_bias"}), lambda tensors: Replacement(content=tensors.tensor("set_bias"))),
)

MAGNITUDES = ("dora_scale", "lora_magnitude_vector")
SPARSE = ("bias_indices", "bias_values", "bias_size")

LEAVES = frozenset(("alpha", "scalar", *MAGNITUDES, *SPARSE)).union(
    *(kind.leaves for kind in (*WEIGHT_KINDS, *BIAS_KINDS))
)
"""Names that end a key: those of kohya and LyCORIS. diffusers' and PEFT's ``lora_A`` is ``lora_down.weight``,
``lora_B`` is ``lora_up.weight``, ``lora_B.bias`` is ``lora_up.bias``. PEFT's ``lora_magnitude_vector`` keeps its name:
of a convolution it has another shape than ``dora_scale``. ``set_weight`` and ``set_bias`` hold new values, as PEFT's
``modules_to_save`` does."""


def formulas_from_leaves(leaves: Mapping[str, Array], options: LeafOptions) -> dict[str, Formula]:
    """What the tensors of one module do to its ``weight`` and, with some kinds, to its ``bias``.

    Args:
        leaves: tensors by their names among ``LEAVES``; float32.
        options: what else the file says about them.

    Returns:
        Formulas by "weight" and "bias"; their ``check`` compares them with the model's shapes. PEFT's (IA)³ scales a
        bias with its weight: leave that out where the module has none.

    Raises:
        RequestError: tensors that are missing or do not fit each other, of several kinds, of rank 0, or not finite.
    """
    tensors = ModuleTensors(leaves, options)
    formulas: dict[str, Formula] = {}
    weight_kind, bias_kind = _only_kind(WEIGHT_KINDS, leaves), _only_kind(BIAS_KINDS, leaves)
    if weight_kind is not None:
        formulas["weight"] = _weight_formula(weight_kind, tensors)
    elif bias_kind is None or any(name in leaves for name in (*MAGNITUDES, *SPARSE)):
        raise RequestError(
            f"got {', '.join(sorted(leaves))}, expected also the tensors that they go with; get the file again"
        )
    if bias_kind is not None:
        formulas["bias"] = bias_kind.formula(tensors)
    elif "ia3_l" in leaves and not options.feedforward:
        formulas["bias"] = formulas["weight"]
    return formulas


def _only_kind(kinds: tuple[Kind, ...], leaves: Mapping[str, Array]) -> Kind | None:
    """The kind that some of the tensors are of."""
    present = [kind for kind in kinds if not kind.leaves.isdisjoint(leaves)]
    if len(present) > 1:
        raise RequestError(
            f"got {' and '.join(kind.name for kind in present)} for one module, expected one of them; "
            "get the file again"
        )
    return present[0] if present else None


def _weight_formula(kind: Kind, tensors: ModuleTensors) -> Formula:
    """What a kind's tensors make, with the sparse rest and the magnitude that go with it."""
    formula = kind.formula(tensors)
    if any(name in tensors for name in SPARSE):
        formula = Sum(parts=(formula, _sparse(tensors)))
    magnitude = [name for name in MAGNITUDES if name in tensors]
    if magnitude and (not kind.decomposes or len(magnitude) > 1):
        raise RequestError(
            f"got {kind.name} with {' and '.join(magnitude)}, expected none or one with an adapter of low rank; "
            "get the file again"
        )
    for name in magnitude:
        formula = Decomposed(direction=formula, magnitude=tensors.tensor(name), peft=name == "lora_magnitude_vector")
    embedding = "lora_embedding_A" in tensors
    return Transposed(formula=formula) if embedding or tensors.options.fan_in_fan_out else formula


def _sparse(tensors: ModuleTensors) -> SparseDifference:
    """What LyCORIS' extraction leaves beside a low rank: (2, count) indices into a matrix of the given size."""
    indices, values = (tensors.tensor(name) for name in ("bias_indices", "bias_values"))
    shape = tuple(int(length) for length in tensors.tensor("bias_size").reshape(-1))
    if indices.shape != (len(shape), values.size) or len(shape) != 2:
        raise RequestError(
            f"got 'bias_indices' of {indices.shape} and {values.size} values for a matrix of {shape}, expected "
            "a row and a column for each; get the file again"
        )
    places = indices.astype(np.int64)
    if (places < 0).any() or (places >= np.array(shape)[:, None]).any():
        raise RequestError(f"got 'bias_indices' beyond a matrix of {shape}, expected them within; get the file again")
    rows, columns = places
    scale = tensors.scale(len(tensors.factor("lora_down.weight"))) if "lora_down.weight" in tensors else 1.0
    return SparseDifference(rows=rows, columns=columns, values=values.reshape(-1), scale=scale, shape=shape)
