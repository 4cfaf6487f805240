"""diffusers in bf16: PyTorch, eager, every weight and every operation in it."""

import torch

from latentrt.benchmarks.peers.diffusers_eager import Adapter as Eager


class Adapter(Eager):
    """A checkpoint in diffusers layout."""

    dtype = torch.bfloat16
