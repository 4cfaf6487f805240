"""What the modules of all components share."""

from collections.abc import Mapping
from typing import ClassVar

import torch


class ComponentModule(torch.nn.Module):
    """A part of a checkpoint as its graph computes it.

    ``checkpoint_names`` says what the names of its parameters begin with, here and in the checkpoint's part; others are
    the same in both.
    """

    checkpoint_names: ClassVar[Mapping[str, str]] = {}
