"""After which model calls a partial picture is sent."""


def partial_steps(steps: int, partial_images: int) -> list[int]:
    """The model calls after which partial pictures are sent, spread evenly; the last call makes the whole picture.

    Args:
        steps: model calls of the run.
        partial_images: how many are wanted; a run of fewer calls gives fewer.

    Returns:
        Ascending, each from 1 to ``steps`` − 1.
    """
    spread = {round(steps * index / (partial_images + 1)) for index in range(1, partial_images + 1)}
    return sorted(step for step in spread if 0 < step < steps)
