"""What an adapter does to one weight."""

from typing import Protocol

from latentrt.engines.spec import Array


class Formula(Protocol):
    """What an adapter of weight 1 makes of one weight: F. Several are summed: W' = W + Σᵢ wᵢ · (Fᵢ(W) − W).

    So their order does not matter, weight 0 is exactly W, and every Fᵢ sees the base weight.
    """

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight that it was not made for, before any work.

        Args:
            shape: the weight's, in torch.

        Raises:
            RequestError: what was got and expected.
        """
        ...

    def change(self, weight: Array) -> Array:
        """F(W) − W in float32, in the weight's shape and memory order (a transposed view stays one).

        Args:
            weight: W, float32, in torch's shape; not written to.
        """
        ...
