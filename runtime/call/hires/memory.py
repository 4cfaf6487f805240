"""Whether memory holds a large picture's way through the autoencoder."""

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.kinds import VAE_DECODER
from latentrt.engines.bundle.records.named_weights import read_named_weights
from latentrt.engines.errors import RequestError
from latentrt.engines.machine import available_memory
from latentrt.engines.precision import Backend
from latentrt.runtime.call.request import Request
from latentrt.runtime.pictures.tiling import VaeMode

_ARRAYS = 4.2
"""How many arrays of the widest full-size layer an autoencoder's peak is worth.

Measured on the CPU for the embedded model's at 512x512 to 1024x1024: 4.2 to 4.3, of the decoder and of the encoder. All
else that a call holds is small beside it: attention is fused, and the U-Net works on latents.
"""
_FLOAT = 4  # bytes; the CPU computes in float32


def check_memory(bundle: Bundle, backend: Backend, request: Request, components: tuple[str, ...]) -> None:
    """Refuses a size whose autoencoder takes more memory than there is, before anything is drawn.

    A GPU's engines take all of theirs as they are opened.

    Args:
        bundle: the model's.
        backend: what runs it.
        request: what is drawn at the size.
        components: of the autoencoder, that it goes through.

    Raises:
        RequestError: with the size, and the ways that need less.
    """
    canvas = request.canvas
    if backend is not Backend.ORT_CPU or canvas.vae is VaeMode.TILED:
        return
    at_once = 1 if canvas.vae is VaeMode.SLICED else min(canvas.profile.batch, request.count)
    widest = max((_widest(bundle, component) for component in components), default=0)
    needed = int(_ARRAYS * _FLOAT * widest * canvas.profile.width * canvas.profile.height) * at_once
    free = available_memory()
    if needed > free:
        ways = "vae='tiled'" if at_once == 1 else "vae='sliced', or 'tiled'"
        raise RequestError(
            f"got hires to {canvas.profile.width}x{canvas.profile.height}, where the autoencoder takes about "
            f"{needed / 1e9:.1f} GB while {free / 1e9:.1f} GB are free; give {ways}, which needs less, or a smaller "
            "scale of hires"
        )


def _widest(bundle: Bundle, component: str) -> int:
    """The channels of the widest layer that an encoder or a decoder has at the pictures' full size."""
    record = bundle.manifest.components[component]
    shapes = {name: row.shape for name, row in read_named_weights(bundle.root / record.named_weights).weights.items()}
    blocks = {name.split(".")[2] for name in shapes if ".up_blocks." in name or ".down_blocks." in name}
    full_size = f".up_blocks.{max(blocks, default='')}." if component == VAE_DECODER else ".down_blocks.0."
    return max((max(shape[:2]) for name, shape in shapes.items() if full_size in name and len(shape) == 4), default=0)
