"""After which model calls partial pictures are sent."""

import pytest

from latentrt.runtime.serving.http.openai.partials import partial_steps


@pytest.mark.parametrize(
    ("steps", "partial_images", "sent"),
    [(20, 3, [5, 10, 15]), (20, 1, [10]), (20, 0, []), (4, 3, [1, 2, 3]), (3, 3, [1, 2]), (1, 3, []), (0, 2, [])],
)
def test_partial_pictures_are_spread_over_the_steps(steps: int, partial_images: int, sent: list[int]) -> None:
    """The last step is the picture itself; a short run sends fewer."""
    assert partial_steps(steps, partial_images) == sent
