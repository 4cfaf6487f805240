"""What models are told of sizes, and what is refused to models that are told less."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import latentrt
from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.runtime.call.sizes.picture_size import PictureSizeKeywords, time_ids_from_keywords

WIDE = Profile(width=96, height=64)


def ids(kind: TimeIds, *, from_picture: bool = False, **given: Any) -> Any:
    """For a picture that is wider than high."""
    return time_ids_from_keywords(kind, cast(PictureSizeKeywords, given), WIDE, from_picture=from_picture)


def test_the_size_drawn_stands_for_what_is_left_out() -> None:
    """Height first."""
    assert ids(TimeIds.NONE) is None
    assert ids(TimeIds.SIZE) == ((64, 96, 0, 0, 64, 96),) * 2
    assert ids(TimeIds.AESTHETIC) == ((64, 96, 0, 0, 6.0), (64, 96, 0, 0, 2.5))


def test_numpy_numbers_and_arrays() -> None:
    """Are numbers and pairs, too."""
    (positive, _) = ids(TimeIds.SIZE, original_size=np.array([10, 20]), target_size=[np.int64(3), 4])
    assert positive == (10, 20, 0, 0, 3, 4)


def test_crops_from_a_picture() -> None:
    """One crop for both halves, unless the model takes scores; the same one may be given twice."""
    given = {"crops_coords_top_left": (4, 5), "negative_crops_coords_top_left": (4, 5)}
    assert ids(TimeIds.SIZE, from_picture=True, **given) == ((64, 96, 4, 5, 64, 96),) * 2
    given["negative_crops_coords_top_left"] = (1, 2)
    assert ids(TimeIds.AESTHETIC, from_picture=True, **given)[1] == (64, 96, 1, 2, 2.5)
    with pytest.raises(RequestError, match="holds for both halves; leave it out"):
        ids(TimeIds.SIZE, from_picture=True, **given)


REFUSED: dict[str, tuple[TimeIds, dict[str, Any], str]] = {
    "sizes for SD 1.x": (TimeIds.NONE, {"original_size": (1, 1)}, "does not take .it is told nothing of sizes"),
    "scores for the base": (TimeIds.SIZE, {"aesthetic_score": 6.0}, "got aesthetic_score, which this model"),
    "targets for the refiner": (TimeIds.AESTHETIC, {"target_size": (1, 1)}, "got target_size, which this model"),
    "one negative size": (TimeIds.SIZE, {"negative_target_size": (1, 1)}, "without negative_original_size"),
    "a negative crop alone": (TimeIds.SIZE, {"negative_crops_coords_top_left": (1, 1)}, "without negative_orig.* and"),
    "one number": (TimeIds.SIZE, {"original_size": 512}, r"expected two whole numbers \(height, width\)"),
    "three numbers": (TimeIds.SIZE, {"target_size": (1, 2, 3)}, "expected two whole numbers"),
    "a text": (TimeIds.SIZE, {"target_size": "64x96"}, "got target_size '64x96', expected two"),
    "fractions": (TimeIds.SIZE, {"original_size": (1.5, 2)}, "got original_size 1.5, expected a whole number"),
    "nothing": (TimeIds.SIZE, {"original_size": (0, 2)}, "expected numbers of at least 1"),
    "a crop outside": (TimeIds.SIZE, {"crops_coords_top_left": (-1, 2)}, "expected numbers of at least 0"),
    "no score": (TimeIds.AESTHETIC, {"aesthetic_score": "good"}, "got aesthetic_score 'good', expected a number"),
    "an infinite score": (TimeIds.AESTHETIC, {"negative_aesthetic_score": float("nan")}, "expected a finite number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """In one sentence."""
    kind, given, reason = REFUSED[case]
    with pytest.raises(RequestError, match=reason):
        ids(kind, **given)


MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a second prompt": ("sd1", {"prompt_2": "b"}, "got prompt_2 with a model that has one text encoder"),
    "sizes": ("sd1", {"original_size": (8, 8)}, "got original_size, which this model does not take"),
    "a second negative alone": ("sdxl", {"negative_prompt_2": "b"}, "got negative_prompt_2 alone"),
    "three second prompts": ("sdxl", {"prompt_2": ["b"] * 3}, "got 3 prompts 2 for 1 prompts"),
    "text for a refiner": ("sdxl-refiner", {}, "got text-to-image with a refiner"),
    "a negative for LCM": ("lcm-sd1", {"negative_prompt": "b"}, "has its guidance built in"),
    "rescaling for LCM": ("lcm-sd1", {"guidance_rescale": 0.5}, "got guidance_rescale 0.5 with a model that has"),
    "a layer too many": ("sdxl", {"clip_skip": 2}, "expected 0 to 1 for a text encoder of 2 layers"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_refuse(family_pipe: Callable[[str], latentrt.Pipeline], case: str) -> None:
    """What they do not take, before anything runs."""
    family, given, reason = MODELS[case]
    with pytest.raises(RequestError, match=reason):
        family_pipe(family)("a cat", **given)


def test_settings_tell_sizes_and_second_prompts(family_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """So that a picture can be drawn again from them."""
    drawn = family_pipe("sdxl")(
        "a", prompt_2="b, c", target_size=(8, 9), seed=1, num_inference_steps=1, output_type="latent"
    )
    text = drawn.metadata[0].parameters()
    assert 'Prompt 2: "b, c"' in text
    assert "Time ids: 32 32 0 0 8 9 / 32 32 0 0 8 9" in text
