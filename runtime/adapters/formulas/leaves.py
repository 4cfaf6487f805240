"""From the tensors of one module in an adapter's file to what they do to its weight and bias."""

from collections.abc import Mapping
from dataclasses import dataclass

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.formula import Formula

LEAVES = frozenset(
    (
        "alpha",
        "scalar",
        "dora_scale",
        "lora_magnitude_vector",  # PEFT's, by its own name: of a convolution it has another shape than dora_scale
        *("lora_down.weight", "lora_mid.weight", "lora_up.weight", "lora_up.bias"),
        *("bias_indices", "bias_values", "bias_size"),
        *("lora_embedding_A", "lora_embedding_B"),  # PEFT's of an embedding: the product is its weight transposed
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2"),
        *("diff", "diff_b", "set_weight", "set_bias", "w_norm", "b_norm"),
        *("weight", "on_input"),
        "ia3_l",
        *("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"),
        *("oft_blocks", "rescale"),
    )
)
"""Names that end a key: those of kohya and LyCORIS. diffusers' and PEFT's ``lora_A`` is ``lora_down.weight``,
``lora_B`` is ``lora_up.weight``, ``lora_B.bias`` is ``lora_up.bias``. ``set_weight`` and ``set_bias`` hold new
values, as PEFT's ``modules_to_save`` does."""


@dataclass(frozen=True, kw_only=True)
class LeafOptions:
    """What a file says about a module outside its tensors; a file of kohya or LyCORIS says nothing.

    Attributes:
        alpha: of PEFT's config, with its patterns; a tensor ``alpha`` comes first.
        rank: of PEFT's config, with its patterns; where factors tell the rank, they come first.
        rslora: the scale is alpha / √rank.
        fan_in_fan_out: the tensors are those of the transposed weight. PEFT's config says this of models whose own
            weights are (in, out), and keeps its factors as for (out, in) all the same; so set it only where the
            tensors that are not square fit no other way.
        kind: PEFT's ``peft_type`` (``LORA``, ``LOHA``, ``LOKR``, ``IA3``).
        feedforward: PEFT's (IA)³ scales the module's inputs.
    """

    alpha: float | None = None
    rank: int | None = None
    rslora: bool = False
    fan_in_fan_out: bool = False
    kind: str | None = None
    feedforward: bool = False


def formulas_from_leaves(leaves: Mapping[str, Array], options: LeafOptions) -> dict[str, Formula]:
    """What the tensors of one module do to its ``weight`` and, with some kinds, to its ``bias``.

    Args:
        leaves: tensors by their names among ``LEAVES``; float32.
        options: what else the file says about them.

    Returns:
        Formulas by "weight" and "bias"; their ``check`` compares them with the model's shapes.

    Raises:
        RequestError: tensors that are missing or do not fit each other, of several kinds, of rank 0, or not finite.
    """
    raise NotImplementedError
