"""OFT and BOFT: the outputs of a weight, rotated."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.fixed import as_matrix
from latentrt.runtime.adapters.formulas.module_tensors import ModuleTensors


def rotations(blocks: Array, limit: float) -> Array:
    """Cayley's R = (I + Q)(I − Q)⁻¹ of the skew-symmetric Q = B − Bᵀ, with ‖Q‖ ≤ ``limit``.

    Qiu et al. 2023, https://arxiv.org/abs/2306.07280, section 3.3; the norm is that of all blocks together, as in
    LyCORIS' ``diag_oft.py``.

    Args:
        blocks: B (…, size, size).
        limit: 0 for none.

    Returns:
        R, float32.
    """
    exact = blocks.astype(np.float64)
    skew = exact - exact.swapaxes(-1, -2)
    norm = float(np.linalg.norm(skew)) + 1e-8
    if 0 < limit < norm:
        skew *= limit / norm
    identity = np.eye(skew.shape[-1])
    # (I + Q) and (I − Q)⁻¹ commute, so that one system is solved and nothing is inverted
    return np.linalg.solve(identity - skew, identity + skew).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rotation:
    """F(W) = m · Rᵀ · W, R block-diagonal: each block turns its share of the outputs (OFT).

    Attributes:
        blocks: B (number, size, size) of ``rotations``.
        constraint: LyCORIS' and kohya's ``alpha``: ‖Q‖ ≤ constraint · outputs; 0 for no limit.
        rescale: m (out,), or None.
    """

    blocks: Array
    constraint: float
    rescale: Array | None

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another number of outputs."""
        _check_outputs(self.blocks.shape[0] * self.blocks.shape[1], self.rescale, shape)

    def change(self, weight: Array) -> Array:
        number, size, _ = self.blocks.shape
        turn = rotations(self.blocks, self.constraint * len(weight)).swapaxes(1, 2)
        difference = np.empty_like(weight, subok=False)
        matrix = as_matrix(difference)
        np.matmul(turn, as_matrix(weight).reshape(number, size, -1), out=matrix.reshape(number, size, -1))
        return _difference(matrix, weight, self.rescale, difference)


@dataclass(frozen=True, kw_only=True, eq=False)
class Butterflies:
    """F(W) = m · R_n ⋯ R₁ · R₀ · W: block-diagonal rotations of outputs that are shuffled ever wider (BOFT).

    Liu et al. 2023, https://arxiv.org/abs/2311.06243, section 4: in stage i, a block of the size b takes b / 2 outputs
    from each of two neighbouring groups of 2ⁱ · b / 2.

    Attributes:
        blocks: B (stages, number, size, size) of ``rotations``.
        constraint: as in ``Rotation``.
        rescale: m (out,), or None.
    """

    blocks: Array
    constraint: float
    rescale: Array | None

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another number of outputs."""
        _check_outputs(self.blocks.shape[1] * self.blocks.shape[2], self.rescale, shape)

    def change(self, weight: Array) -> Array:
        _, number, size, _ = self.blocks.shape
        turned = as_matrix(weight)
        columns = turned.shape[1]
        for stage, turn in enumerate(rotations(self.blocks, self.constraint * len(weight))):
            group = 2**stage * size // 2
            shuffled = turned.reshape(-1, 2, group, columns).swapaxes(1, 2).reshape(number, size, columns)
            turned = (turn @ shuffled).reshape(-1, group, 2, columns).swapaxes(1, 2).reshape(-1, columns)
        return _difference(turned, weight, self.rescale, np.empty_like(weight, subok=False))


def rotation_from_tensors(tensors: ModuleTensors) -> Rotation | Butterflies:
    """OFT or, where the blocks have a further axis of stages, BOFT; as LyCORIS and kohya have them.

    Raises:
        RequestError: blocks that are not square, or that cannot be shuffled.
    """
    blocks = tensors.tensor("oft_blocks")
    rescale = tensors.tensor("rescale").reshape(-1) if "rescale" in tensors else None
    constraint = tensors.number("alpha") or 0.0
    if blocks.ndim not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
        raise RequestError(
            f"got 'oft_blocks' of {blocks.shape}, expected square blocks of 3 or 4 axes; get the file again"
        )
    if blocks.ndim == 3:
        return Rotation(blocks=blocks, constraint=constraint, rescale=rescale)
    stages, number, size, _ = blocks.shape
    if size % 2 or number % 2 ** (stages - 1):
        raise RequestError(
            f"got 'oft_blocks' of {blocks.shape}, expected blocks of an even size and, for {stages} stages, a multiple "
            f"of {2 ** (stages - 1)} of them; get the file again"
        )
    return Butterflies(blocks=blocks, constraint=constraint, rescale=rescale)


def _difference(turned: Array, weight: Array, rescale: Array | None, out: Array) -> Array:
    """m · turned − W, in W's shape and order."""
    if rescale is not None:
        turned *= rescale[:, None]
    return np.subtract(turned.reshape(weight.shape), weight, out=out)


def _check_outputs(outputs: int, rescale: Array | None, shape: tuple[int, ...]) -> None:
    if outputs != shape[0] or (rescale is not None and rescale.size != outputs):
        sizes = f"{outputs}" if rescale is None else f"{outputs} and a scale of {rescale.size}"
        raise RequestError(
            f"got rotations of {sizes} outputs, expected {shape[0]} for a weight of {shape}; "
            "choose a file that was made for this model"
        )
