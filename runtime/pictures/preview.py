"""What a picture will look like, from its latents alone: one small matrix product, no engine."""

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import PreviewRecord
from latentrt.engines.spec import Array


def preview_from_latents(record: PreviewRecord, denoised: Array) -> Array:
    """The colours of latents, one pixel each.

    Args:
        record: the bundle's map, ``manifest.preview``.
        denoised: (N, C, h, w) float32, the prediction of the clean sample, scaled as in the loop.

    Returns:
        (N, h, w, 3) uint8: small pictures, to be enlarged for showing.
    """
    matrix, bias = np.asarray(record.matrix, np.float32), np.asarray(record.bias, np.float32)
    colours = np.einsum("nchw,ck->nhwk", denoised, matrix) + bias
    return np.asarray(np.clip(np.nan_to_num(colours) * 255.0, 0.0, 255.0).round(), np.uint8)
