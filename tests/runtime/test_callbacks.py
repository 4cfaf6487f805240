"""What a callback may change on the way, what is refused, and that nothing is passed over in silence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import latentrt
from latentrt.engines.errors import RequestError

Pipes = Callable[[str], latentrt.Pipeline]
Tensors = dict[str, Any]
COMMON: dict[str, Any] = {"num_inference_steps": 3, "seed": 1, "width": 32, "output_type": "latent", "sampler": "euler"}


def at_first(told: Any) -> Callable[..., Any]:
    """A callback that returns something after the first step."""
    return lambda pipe, step, timestep, tensors: told if step == 0 else None


def seen(pipe: latentrt.Pipeline, *names: str, **options: Any) -> list[Tensors]:
    """What a callback is given at every step."""
    kept: list[Tensors] = []

    def keep(pipe: Any, step: int, timestep: float, tensors: Tensors) -> None:
        kept.append(dict(tensors))

    asked = {"callback_on_step_end_tensor_inputs": names} if names else {}
    pipe("a cat", callback_on_step_end=keep, **asked, **{**COMMON, **options})
    return kept


def test_what_is_asked_for_is_given(family_pipe: Pipes) -> None:
    """By name; of a guided run the negatives come first, as in diffusers. The shapes are the pictures'."""
    assert [list(tensors) for tensors in seen(family_pipe("sd1"))] == [["latents", "denoised"]] * 3
    names = ("guidance_scale", "prompt_embeds", "negative_prompt_embeds")
    embeds = family_pipe("sd1").encode(["a cat"])
    for tensors in seen(family_pipe("sd1"), *names, guidance_scale=[5.0, 1.0, 3.0]):
        assert tuple(tensors) == names
        np.testing.assert_array_equal(tensors["prompt_embeds"][:1], embeds["negative_prompt_embeds"])
        np.testing.assert_array_equal(tensors["prompt_embeds"][1:], embeds["prompt_embeds"])
        np.testing.assert_array_equal(tensors["negative_prompt_embeds"], embeds["negative_prompt_embeds"])
    scales = [one["guidance_scale"] for one in seen(family_pipe("sd1"), *names, guidance_scale=[5.0, 1.0, 3.0])]
    assert scales == [1.0, 3.0, 3.0]  # of the step to come
    (tensors, *_) = seen(family_pipe("sdxl"), "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    assert [array.shape for array in tensors.values()] == [(2, 96), (1, 96)]
    (tensors, *_) = seen(family_pipe("sd1"), "prompt_embeds", "negative_prompt_embeds", guidance_scale=1.0)
    assert tensors["prompt_embeds"].shape == (1, 77, 64)
    assert tensors["negative_prompt_embeds"] is None


def test_another_prompt_from_the_second_step_on(family_pipe: Pipes) -> None:
    """What encode gives can be returned as it is, and left in the mapping just as well."""
    for family in ("sd1", "sdxl"):
        pipe = family_pipe(family)
        other = pipe.encode("a dog", negative_prompt="ugly")
        first = pipe("a cat", denoising_end=0.6, **COMMON)
        expected = pipe.img2img("a dog", negative_prompt="ugly", image=first.latents, denoising_start=0.6, **COMMON)
        assert first.timings.unet_calls == 1

        def left(pipe: Any, step: int, timestep: float, tensors: Tensors, other: Any = other) -> None:
            if step == 0:
                tensors.update(other)

        for callback in (at_first(other), left):
            found = pipe("a cat", callback_on_step_end=callback, **COMMON)
            np.testing.assert_allclose(found.latents, expected.latents, atol=1e-5)


def test_guidance_may_change_and_negatives_alone(tiny_pipe: latentrt.Pipeline) -> None:
    """A weight for all steps to come is a list of weights; other negatives are those of another call."""
    found = tiny_pipe("a cat", guidance_scale=4.0, callback_on_step_end=at_first({"guidance_scale": 9}), **COMMON)
    listed = tiny_pipe("a cat", guidance_scale=[4.0, 9.0, 9.0], **COMMON)
    np.testing.assert_array_equal(found.latents, listed.latents)
    negative = {"negative_prompt_embeds": tiny_pipe.encode("ugly")["prompt_embeds"]}
    found = tiny_pipe("a cat", denoising_end=1.0, callback_on_step_end=at_first(negative), **COMMON)
    both = {
        "prompt_embeds": np.concatenate(
            [negative["negative_prompt_embeds"], tiny_pipe.encode("a cat")["prompt_embeds"]]
        )
    }
    same = tiny_pipe("a cat", callback_on_step_end=at_first(both), **COMMON)
    np.testing.assert_array_equal(found.latents, same.latents)
    assert not np.array_equal(found.latents, tiny_pipe("a cat", **COMMON).latents)
    torches = {name: torch.from_numpy(array) for name, array in both.items()}
    found = tiny_pipe("a cat", callback_on_step_end=at_first(torches), **COMMON)
    np.testing.assert_array_equal(found.latents, same.latents)


def test_what_comes_back_unchanged_changes_nothing(tiny_pipe: latentrt.Pipeline) -> None:
    """As diffusers' callbacks return it; a list of weights stays one."""
    common = {**COMMON, "guidance_scale": [5.0, 1.0, 3.0]}
    names = ["latents", "denoised", "guidance_scale", "prompt_embeds", "negative_prompt_embeds"]
    found = tiny_pipe(
        "a cat",
        callback_on_step_end=lambda pipe, step, timestep, tensors: tensors,
        callback_on_step_end_tensor_inputs=names,
        **common,
    )
    np.testing.assert_array_equal(found.latents, tiny_pipe("a cat", **common).latents)


def test_what_is_left_of_a_prompt_that_changes(family_pipe: Pipes) -> None:
    """Other states from the second step on; the pooled vectors go on by the steps' own texts, and so do negatives."""
    pipe, told = family_pipe("sdxl"), []
    names = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds")
    other = pipe.encode("a bird")["prompt_embeds"]
    text = {"negative_prompt": "[ugly:grey:2]", "prompt_syntax": "a1111"}

    def change(_: Any, step: int, __: float, tensors: Tensors) -> Tensors | None:
        told.append(dict(tensors))
        return {"prompt_embeds": other} if step == 0 else None

    result = pipe(
        "[a cat:a dog:2]",
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=names,
        **text,
        **COMMON,
    )
    cat, dog = pipe.encode("a cat", negative_prompt="ugly"), pipe.encode("a dog", negative_prompt="grey")
    for at, of_step in zip(told[:2], (cat, dog), strict=True):  # of the step to come
        for name in names[1:]:
            np.testing.assert_allclose(at[name][-1:], of_step[name], atol=1e-6)
    np.testing.assert_array_equal(told[1]["prompt_embeds"][1:], other)

    def by_hand(_: Any, step: int, __: float, tensors: Tensors) -> Tensors | None:
        own = {name: (cat, dog)[min(step, 1)][name] for name in cat if name != "prompt_embeds"}
        return {**own, "prompt_embeds": other}

    expected = pipe("a cat", negative_prompt="ugly", callback_on_step_end=by_hand, **COMMON)
    np.testing.assert_allclose(result.latents, expected.latents, atol=1e-5)


def test_guidance_may_begin_where_there_are_negatives(tiny_pipe: latentrt.Pipeline) -> None:
    """They come with it, or from a step that was to be guided; without any it is refused."""
    with pytest.raises(RequestError, match="expected negative_prompt_embeds with it; return these, too, or give"):
        tiny_pipe("a cat", guidance_scale=1.0, callback_on_step_end=at_first({"guidance_scale": 5}), **COMMON)
    told = {"guidance_scale": 5, "negative_prompt_embeds": tiny_pipe.encode("")["prompt_embeds"]}
    found = tiny_pipe("a cat", guidance_scale=1.0, callback_on_step_end=at_first(told), **COMMON)
    listed = tiny_pipe("a cat", guidance_scale=[1.0, 5.0, 5.0], **COMMON)
    np.testing.assert_allclose(found.latents, listed.latents, atol=1e-5)


def test_a_model_that_is_told_its_weight(family_pipe: Pipes) -> None:
    """Is told another one; it has no negatives to change."""
    pipe = family_pipe("lcm-sd1")
    common = {**COMMON, "sampler": "lcm"}
    found = pipe("a cat", guidance_scale=8.0, callback_on_step_end=at_first({"guidance_scale": 2.0}), **common)
    np.testing.assert_array_equal(found.latents, pipe("a cat", guidance_scale=[8.0, 2.0, 2.0], **common).latents)
    with pytest.raises(RequestError, match="returned 'negative_prompt_embeds'"):
        pipe("a cat", callback_on_step_end=at_first({"negative_prompt_embeds": 0}), **common)
    assert pipe.encode("a cat").keys() == {"prompt_embeds"}


EMBEDS = np.zeros((1, 77, 64), np.float32)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"latent": 1}, r"returned 'latent', expected some of latents, .*; did you mean latents\?"),
        ({"prompt_embed": EMBEDS, "x": 1}, "returned 'prompt_embed', 'x'.*did you mean prompt_embeds"),
        ({5: 1}, "returned 5"),
        ({"pooled_prompt_embeds": EMBEDS}, "returned 'pooled_prompt_embeds'"),
        ({"add_text_embeds": EMBEDS}, "they are called pooled_prompt_embeds"),
        ({"add_time_ids": EMBEDS}, "give original_size and the like to the call"),
        ({"noise_pred": EMBEDS}, "returned 'noise_pred'"),
        ({"denoised": np.zeros((1, 4, 16, 16))}, "changed denoised, which is there to be looked at"),
        ({"prompt_embeds": EMBEDS[0]}, r"prompt_embeds \(77, 64\), expected 1 or 2 rows of \(77, 64\); keep the shape"),
        ({"prompt_embeds": EMBEDS.repeat(2, 1)}, r"\(1, 154, 64\)"),
        ({"prompt_embeds": EMBEDS.repeat(3, 0)}, r"\(3, 77, 64\)"),
        ({"prompt_embeds": EMBEDS * np.nan}, "prompt_embeds with NaN"),
        ({"prompt_embeds": np.full((1, 77, 64), "a")}, "no numbers"),
        ({"prompt_embeds": None}, r"prompt_embeds \(\)"),
        ({"negative_prompt_embeds": EMBEDS.repeat(2, 0)}, "expected 1 rows"),
        ({"guidance_scale": "7"}, "got guidance_scale of callback_on_step_end '7', expected a number"),
        ({"guidance_scale": -1}, "expected a number of at least 0"),
        ({"guidance_scale": float("nan")}, "expected a number of at least 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(tiny_pipe: latentrt.Pipeline, told: Any, reason: str) -> None:
    """Whether it is returned or left in the mapping; the pipeline draws on afterwards."""

    def left(pipe: Any, step: int, timestep: float, tensors: Tensors) -> None:
        tensors.update(told)

    for callback in (at_first(told), left):
        with pytest.raises(RequestError, match=reason):
            tiny_pipe("a", guidance_scale=5.0, callback_on_step_end=callback, **COMMON)
    assert tiny_pipe("a", **COMMON).latents.any()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["latents", "noise"], "got callback_on_step_end_tensor_inputs 'noise', expected some of latents"),
        (["add_text_embeds"], "pooled_prompt_embeds"),
        (["pooled_prompt_embeds"], "got callback_on_step_end_tensor_inputs 'pooled_prompt_embeds'"),
        (5, "expected a text or a list of texts"),
    ],
)
def test_tensors_that_there_are_not(tiny_pipe: latentrt.Pipeline, names: Any, reason: str) -> None:
    """Refused before anything is drawn; and names without a callback."""
    with pytest.raises(RequestError, match=reason):
        tiny_pipe("a", callback_on_step_end=print, callback_on_step_end_tensor_inputs=names)
    with pytest.raises(RequestError, match="alone, expected callback_on_step_end"):
        tiny_pipe("a", callback_on_step_end_tensor_inputs=["latents"])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("scheduler", "sampler='euler_a'"),
        ("_guidance_scale", "return {'guidance_scale': 3.0} from callback_on_step_end"),
        ("guidance_scale", "give guidance_scale to the call"),
        ("_interrupt", "raise latentrt.Interrupt"),
        ("safety_checker", "none to turn off"),
        ("unet", "build a bundle"),
        ("num_inference_steps", r"pipe\(prompt, num_inference_steps=…\)"),
        ("mainfest", "correct the name"),
    ],
)
def test_attributes_that_would_change_nothing(tiny_pipe: latentrt.Pipeline, name: str, advice: str) -> None:
    """Refused with what does the same, from outside and from a callback; asked for, they are not there."""
    with pytest.raises(RequestError, match=f"'{name}' set on a pipeline, which would change nothing; .*{advice}"):
        setattr(tiny_pipe, name, 3.0)
    with pytest.raises(AttributeError, match=f"'{name}'.*{advice}"):
        getattr(tiny_pipe, name)
    assert not hasattr(tiny_pipe, name)

    def change(pipe: Any, step: int, timestep: float, tensors: Tensors) -> None:
        setattr(pipe, name, 0.0)

    with pytest.raises(RequestError, match=advice):
        tiny_pipe("a", callback_on_step_end=change, **COMMON)


def test_what_the_class_has_may_be_replaced(tiny_pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests do: a method. A property cannot."""
    monkeypatch.setattr(tiny_pipe, "preview", lambda denoised: ["small"])
    assert tiny_pipe.preview(np.zeros(1)) == ["small"]  # type: ignore[comparison-overlap]
    with pytest.raises(AttributeError):
        tiny_pipe.manifest = None  # type: ignore[misc, assignment]


@pytest.mark.parametrize(
    ("name", "advice"),
    [("generator", "give seed"), ("eta", r"latentrt.Sampler\(name='ddim', eta=0.5\)"), ("scheduler", "sampler=")],
)
def test_keywords_of_diffusers(tiny_pipe: latentrt.Pipeline, name: str, advice: str) -> None:
    """Are answered with what does the same."""
    with pytest.raises(RequestError, match=f"got keyword '{name}'.*{advice}"):
        tiny_pipe("a", **{name: 0})
