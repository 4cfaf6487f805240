"""Prompts that were encoded before: what callers give in place of texts, and what ``Pipeline.encode`` makes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array, is_array
from latentrt.runtime.denoiser.conditions.text import EMBEDS, STATES, TextCondition, fixed_text
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE, Pass


def embeds_of(text: TextCondition) -> dict[str, Array]:
    """What a text condition tells the U-Net, under the names by which a call takes it."""
    return {name: rows[of] for name, (which, of) in EMBEDS.items() if of in (rows := text.rows(which))}


def text_from_embeds(
    manifest: BundleManifest, given: Mapping[str, Any], count: int | None, repeats: int
) -> TextCondition:
    """The sides of a text condition that a caller encoded.

    Args:
        manifest: the bundle's.
        given: some of ``EMBEDS``: arrays or tensors (B, 77 · k, width) of states and (B, projection) of pooled vectors.
        count: B, how many prompts there are, or None where only ``prompt_embeds`` tell it.
        repeats: pictures per prompt.

    Returns:
        The rows (B · repeats, …), float32, of the passes that were given.

    Raises:
        RequestError: another shape, a vector that is missing or not for this model, sides of different lengths, or
            values that are not finite.
    """
    rows: dict[Pass, dict[str, Array]] = {}
    for name, (which, of) in EMBEDS.items():
        if name in given:
            rows.setdefault(which, {})[of] = _checked(manifest, name, of, given[name])
    for name, (which, of) in EMBEDS.items():
        if of not in rows.get(which, {of: None}) and of in manifest.components[UNET].inputs:
            beside = next(other for other, (side, _) in EMBEDS.items() if side == which and other in given)
            raise RequestError(f"got {beside} without {name}, expected both; pipe.encode gives them together")
    count = len(rows[POSITIVE][STATES]) if count is None else count
    for name, (which, of) in EMBEDS.items():
        if name in given and len(rows[which][of]) not in ((1, count) if which is NEGATIVE else (count,)):
            raise RequestError(
                f"got {name} {rows[which][of].shape} for {count} prompts, expected a row for each; give as many"
            )
    lengths = {side[STATES].shape[1] for side in rows.values()}
    if len(lengths) > 1:
        raise RequestError(
            f"got prompt_embeds of {rows[POSITIVE][STATES].shape[1]} tokens and negative_prompt_embeds of "
            f"{rows[NEGATIVE][STATES].shape[1]}, expected equally many; encode both with one pipe.encode"
        )
    return TextCondition(
        of_pass={
            which: fixed_text(
                {
                    of: np.repeat(np.tile(array, (count // len(array), *[1] * (array.ndim - 1))), repeats, axis=0)
                    for of, array in side.items()
                }
            )
            for which, side in rows.items()
        },
        chunks=lengths.pop() // manifest.prompt_length,
    )


def _checked(manifest: BundleManifest, name: str, of: str, value: Any) -> Array:
    """One array of embeddings as (B, …) float32."""
    tensor = manifest.components[UNET].inputs.get(of)
    if tensor is None:
        raise RequestError(f"got {name} with a model that takes none; leave it out")
    width, length = tensor.shape[-1], manifest.prompt_length
    expected = f"(N, {length}, {width})" if of == STATES else f"(N, {width})"
    array = as_array(value, name) if is_array(value) else None
    fits = array is not None and array.ndim == len(tensor.shape) and array.shape[-1] == width and len(array) > 0
    if array is None or not fits or (of == STATES and (array.shape[1] % length or not array.shape[1])):
        got = type(value).__name__ if array is None else array.shape
        more = f", or a multiple of {length} tokens" if of == STATES else ""
        raise RequestError(f"got {name} {got}, expected an array {expected}{more}; make it with pipe.encode")
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise RequestError(f"got {name} of {array.dtype}, expected floats; convert it")
    if not np.isfinite(floats).all():
        raise RequestError(f"got {name} with NaN or infinity, expected finite values; correct it")
    return floats
