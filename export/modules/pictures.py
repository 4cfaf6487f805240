"""A control picture as a net was trained on it."""

import torch

_GREEN, _BLUE = 0.587, 0.114  # and red the rest: ITU-R 601, as Pillow turns colours into grey
RGB, BGR = "rgb", "bgr"


def as_trained(picture: torch.Tensor, channels: int, order: str = RGB) -> torch.Tensor:
    """A picture (B, 3, H, W) in RGB as a net takes it.

    Args:
        picture: in [0, 1].
        channels: 3, or 1 for a net that takes grey pictures; a picture that is grey already stays as it is.
        order: of the colours.
    """
    if channels == 1:
        red, green, blue = picture.split(1, 1)
        return red + _GREEN * (green - red) + _BLUE * (blue - red)
    return picture[:, [2, 1, 0]] if order == BGR else picture
