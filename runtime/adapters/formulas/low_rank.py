"""LoRA: the product of two thin matrices."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.fixed import Fixed
from latentrt.runtime.adapters.formulas.module_tensors import ModuleTensors, check_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank(Fixed):
    """ΔW = s · up · down (Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3).

    Of a convolution, ``down`` is one with its kernel and ``up`` one of 1x1 after it, so their product is the same with
    the kernel flattened (LyCORIS calls it LoCon).

    Attributes:
        up: (out, rank).
        down: (rank, in · kernel).
        scale: s, alpha / rank.
        shape: the weight's.
    """

    up: Array
    down: Array
    scale: float
    shape: tuple[int, ...]

    def write(self, matrix: Array) -> None:
        write_product(matrix, self.up * np.float32(self.scale), self.down)


def low_rank_from_tensors(tensors: ModuleTensors) -> LowRank:
    """LoRA or LoCon; ``lora_mid`` makes it a Tucker decomposition, in which ``down`` has no kernel."""
    up, down = tensors.matrix("lora_up.weight"), tensors.factor("lora_down.weight")
    rank = len(down)
    if "lora_mid.weight" in tensors:
        core, factor = tensors.factor("lora_mid.weight"), tensors.matrix("lora_down.weight")
        check_ranks(lora_mid=(core.swapaxes(0, 1), 0), lora_down=(down, 0))
        down = down_from_tucker(core, factor)
    check_ranks(lora_up=(up, 1), lora_down=(down, 0))
    return LowRank(up=up, down=down.reshape(len(down), -1), scale=tensors.scale(rank), shape=(len(up), *down.shape[1:]))


def embedding_from_tensors(tensors: ModuleTensors) -> LowRank:
    """PEFT's LoRA of an embedding, of which the weight (vocabulary, width) is the product transposed."""
    up, down = tensors.matrix("lora_embedding_B"), tensors.matrix("lora_embedding_A")
    check_ranks(lora_embedding_B=(up, 1), lora_embedding_A=(down, 0))
    return LowRank(up=up, down=down, scale=tensors.scale(len(down)), shape=(len(up), down.shape[1]))


def down_from_tucker(core: Array, factor: Array) -> Array:
    """The ``down`` of a Tucker decomposition: D[m, i, …] = Σₙ core[m, n, …] · factor[n, i].

    So ΔW[o, i, …] = Σₘ up[o, m] · D[m, i, …] (Yeh et al. 2023, https://arxiv.org/abs/2309.14859, section 3).

    Args:
        core: (rank, rank, *kernel), ``lora_mid.weight``, ``hada_t1`` or ``lokr_t2``.
        factor: (rank, in).

    Returns:
        (rank, in, *kernel).
    """
    product = np.tensordot(core, factor, axes=(1, 0))  # (rank, *kernel, in)
    return np.ascontiguousarray(np.moveaxis(product, -1, 1))


def added_products(weight: Array, products: list[tuple[float, LowRank]]) -> Array:
    """W + Σᵢ wᵢ · ΔWᵢ, written once: one product of all factors side by side.

    Args:
        weight: W as a matrix, in C or Fortran order.
        products: (wᵢ, ΔWᵢ).

    Returns:
        A new matrix in W's order.
    """
    up = np.concatenate([product.up * np.float32(strength * product.scale) for strength, product in products], axis=1)
    down = np.concatenate([product.down for _, product in products])
    changed = np.empty_like(weight, subok=False)
    write_product(changed, up, down, plus=weight)
    return changed


def write_product(matrix: Array, up: Array, down: Array, plus: Array | None = None) -> None:
    """Writes up · down, and what shall be added to it, tile by tile.

    A tile stays in the processor's cache until it is added to. And it is so small that NumPy's OpenBLAS multiplies it
    on the calling thread: several weights are computed at a time, and their calls would wait for the same threads.

    Args:
        matrix: where to, (out, columns) in C or Fortran order.
        up: (out, rank).
        down: (rank, columns).
        plus: a matrix of the same order.
    """
    if not matrix.flags.c_contiguous:
        matrix, up, down, plus = matrix.T, down.T, up.T, None if plus is None else plus.T
    height, width = matrix.shape
    columns = min(width, max(1, _TILE_PRODUCTS // (_TILE_ROWS * len(down))))
    rows = max(1, _TILE_PRODUCTS // (columns * len(down)))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            tile = matrix[top : top + rows, left : left + columns]
            np.matmul(up[top : top + rows], down[:, left : left + columns], out=tile)
            if plus is not None:
                tile += plus[top : top + rows, left : left + columns]


_TILE_PRODUCTS = (1 << 19) - 1
"""rows · rank · columns below which OpenBLAS takes one thread (``interface/gemm.c``)."""
_TILE_ROWS = 16
"""At least, of a tile in a wide matrix."""
