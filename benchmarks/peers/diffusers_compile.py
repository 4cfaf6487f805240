"""diffusers with its U-Net and decoder through ``torch.compile``; Inductor's cache on disk stays between processes."""

from typing import Any

from latentrt.benchmarks.peers.diffusers_eager import Adapter as Eager


class Adapter(Eager):
    """A checkpoint in diffusers layout, compiled when it first draws."""

    def pipeline(self, model: str) -> Any:
        """The pipeline with compiled parts."""
        pipe = super().pipeline(model)
        pipe.unet.compile()
        pipe.vae.decoder.compile()
        return pipe
