"""The keyword ``control``: what is refused, each in a sentence with what to do; threads, pickles and sharing."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shared import filled_once

import latentrt
from latentrt import Control
from latentrt.engines.errors import BundleError, EngineError, RequestError

FAST: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
MAP = Image.new("RGB", (32, 32), "orange")


@pytest.fixture(scope="module")
def adapter(tiny_bundle: Path, shared: Path) -> Path:
    """A T2I-Adapter for the tiny bundle. Do not write to it."""
    from tiny_nets import save_t2i_adapter

    folder = filled_once(shared / "tiny.t2i", save_t2i_adapter)
    return filled_once(shared / "tiny-t2i.bundle", lambda made: latentrt.build(folder, made, for_bundle=tiny_bundle))


WRONG_NUMBERS: list[tuple[dict[str, Any], str]] = [
    ({"scale": float("nan")}, "got scale nan of the ControlNet 'sd1-net', expected a finite number"),
    ({"scale": 1e39}, "got scale 1e+39 of the ControlNet 'sd1-net', expected a finite number"),
    ({"scale": 10**400}, "expected a number; give one"),
    ({"scale": "much"}, "got scale of the ControlNet 'sd1-net' 'much', expected a number"),
    ({"start": -0.1}, "expected 0 to 1"),
    ({"end": 1.5}, "expected 0 to 1"),
    ({"start": 0.6, "end": 0.4}, "got start 0.6 and end 0.4 of the ControlNet 'sd1-net', expected the end later"),
    ({"start": 0.5, "end": 0.5}, "expected the end later; correct them"),
    ({"mode": "more_control"}, "expected one of balanced, prompt, control; choose one"),
    ({"type": "canny"}, "which knows pictures of one kind alone; leave it out"),
    ({"image": [MAP, MAP, MAP]}, "got 3 images of the ControlNet 'sd1-net' for 1 pictures; give one for all"),
    ({"image": []}, "expected a PIL picture, an array, or a list of them"),
    ({"image": "edges.png"}, "expected a PIL picture, an array, or a list of them"),
    ({"image": np.zeros((1, 4, 16, 16), np.float32)}, "which are latents"),
    ({"image": np.zeros((48, 32, 3), np.float32)}, "got an array of 32x48 as image of"),
    ({"image": np.full((48, 32, 3), -1.0, np.float32)}, "got an array of 32x48 as image of"),
    ({"image": np.where(np.eye(32)[..., None] > 0, -1.0, 7.0) * np.ones(3)}, "outside [0, 1]"),
    ({"image": np.full((32, 32, 1), -1.0, np.float32)}, "expected (height, width, 3); make it with"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_NUMBERS, ids=lambda value: str(value)[:40])
def test_refusals_of_one_control(
    wrong: dict[str, Any], words: str, tiny_pipe: latentrt.Pipeline, tiny_net: Path
) -> None:
    """Numbers, modes and pictures; also where the net would not count in any step."""
    for scale in (1.0, 0.0):
        given: dict[str, Any] = {"scale": scale, "image": MAP, **wrong}
        with pytest.raises(RequestError) as refused:
            tiny_pipe("x", control=Control(tiny_net, **given), **FAST)
        assert words in str(refused.value), str(refused.value)


def test_refusals_of_what_is_no_control(tiny_pipe: latentrt.Pipeline, tiny_bundle: Path, tmp_path: Path) -> None:
    """Paths without a picture, models, and what is no bundle at all."""
    (tmp_path / "net.safetensors").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for given, words in (
        (str(tiny_bundle), "expected latentrt.Control(net, image), or a list of them"),
        ([Control(tiny_bundle, MAP), "canny.bundle"], "expected latentrt.Control(net, image), or a list of them"),
        (Control(tiny_bundle, MAP), "which is the bundle of a model, expected that of a ControlNet"),
        (Control(tiny_pipe, MAP), "expected the path of a ControlNet's bundle"),  # type: ignore[arg-type]
        (Control(tmp_path / "none.bundle", MAP), "expected the folder of a bundle"),
        (Control(tmp_path / "net.safetensors", MAP), "latentrt build"),
        (Control(tmp_path / "folder", MAP), "latentrt build"),
    ):
        with pytest.raises((RequestError, BundleError)) as refused:
            tiny_pipe("x", control=given, **FAST)
        assert words in str(refused.value), str(refused.value)


def test_a_range_without_a_step_is_told(tiny_pipe: latentrt.Pipeline, tiny_net: Path) -> None:
    """The picture is the plain one then, and its user would wonder."""
    control = Control(tiny_net, MAP, start=0.6, end=0.9)
    with pytest.warns(
        UserWarning, match=r"none of the 2 steps lies between start 0\.6 and end 0\.9 .* changes nothing"
    ):
        drawn = tiny_pipe("a cat", control=control, **FAST)
    np.testing.assert_array_equal(drawn.latents, tiny_pipe("a cat", **FAST).latents)


def test_a_net_is_no_model(tiny_net: Path) -> None:
    """And is told to be given in a call."""
    with pytest.raises(BundleError, match=r"give this one in its calls: control=\[latentrt\.Control\('sd1-net"):
        latentrt.open(tiny_net)


@pytest.mark.parametrize("family", ["sdxl", pytest.param("sd2", marks=pytest.mark.slow)])
def test_nets_for_other_models(
    family: str, tiny_net: Path, adapter: Path, family_pipe: Callable[[str], latentrt.Pipeline]
) -> None:
    """By the width of prompts and by residuals and features, before anything is encoded."""
    pipe = family_pipe(family)
    with pytest.raises(RequestError) as refused:
        pipe("x", control=Control(tiny_net, MAP), **FAST)
    message = str(refused.value)
    assert "got the ControlNet 'sd1-net' for another model (prompts 64 wide and not" in message
    assert "down_residual_0 of 32 channels" in message
    assert message.endswith("build it for that: latentrt build NET --for BUNDLE")
    with pytest.raises(RequestError, match=r"for another model \(feature_0 of 32 channels"):
        pipe("x", control=Control(adapter, MAP, scale=0.0), **FAST)


def test_a_size_that_a_nets_engines_lack(
    tiny_pipe: latentrt.Pipeline, tiny_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are made for fixed ones."""
    from latentrt.engines.backends.ort_cpu.backend import OrtCpu
    from latentrt.engines.shapes import Profile

    only = Profile(width=64, height=64)
    monkeypatch.setattr(OrtCpu, "profiles", lambda self, component: (only,))
    with pytest.raises(RequestError, match=r"got size 32x32x2 for the ControlNet 'sd1-net', .* built for 64x64; ask"):
        tiny_pipe("x", control=Control(tiny_net, MAP), **FAST)


def test_adapters_know_no_modes(tiny_pipe: latentrt.Pipeline, adapter: Path) -> None:
    """What diffusers and InvokeAI offer of control nets alone."""
    with pytest.raises(RequestError, match="got mode 'prompt' for the T2I-Adapter 'tiny-t2i', expected 'balanced'"):
        tiny_pipe("x", control=Control(adapter, MAP, mode="prompt"), **FAST)


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("controlnet_conditioning_scale", "give scale to latentrt.Control"),
        ("control_guidance_start", "give start to latentrt.Control"),
        ("guess_mode", "mode='control'"),
        ("control_image", "give control=[latentrt.Control"),
        ("adapter_conditioning_scale", "give scale to latentrt.Control"),
        ("ip_adapter_image", "give image_prompt=[latentrt.ImagePrompt"),
    ],
)
def test_what_diffusers_calls_it(keyword: str, words: str, tiny_pipe: latentrt.Pipeline) -> None:
    """Is refused with what it is here."""
    with pytest.raises(RequestError, match=r".") as refused:
        tiny_pipe("x", **{keyword: 1})  # type: ignore[arg-type]
    assert words in str(refused.value)
    with pytest.raises(AttributeError, match=r".") as unknown:
        setattr(tiny_pipe, keyword, 1)
    assert words in str(unknown.value)


def test_an_opened_net_serves_pipelines_and_threads(
    tiny_bundle: Path, tiny_net: Path, tiny_pipe: latentrt.Pipeline, adapter: Path
) -> None:
    """What a path draws, an opened net draws, in two pipelines and in threads at once; closed, it is refused."""
    expected = tiny_pipe("x", control=[Control(str(tiny_net), MAP), Control(adapter, MAP)], **FAST).latents
    with latentrt.open_addon(tiny_net, threads=1) as net, latentrt.open(tiny_bundle, threads=1) as other:
        controls = [Control(net, MAP), Control(adapter, MAP)]

        def draw(pipe: latentrt.Pipeline) -> Any:
            return pipe("x", control=controls, **FAST).latents

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(draw, [tiny_pipe, other] * 3):
                np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(EngineError, match=r"is closed; open it again with latentrt\.open_addon"):
        tiny_pipe("x", control=controls, **FAST)


def test_a_pickled_pipeline_draws_with_nets(tiny_pipe: latentrt.Pipeline, tiny_net: Path) -> None:
    """They are opened where they are named; those that were opened are opened again where they arrive."""
    expected = tiny_pipe("x", control=Control(tiny_net, MAP), **FAST).latents
    with latentrt.open_addon(tiny_net, threads=1) as net:
        pickled = pickle.dumps((tiny_pipe, [Control(tiny_net, MAP), Control(net, MAP)]))
    pipe, controls = pickle.loads(pickled)
    with pipe, controls[1].net:
        for control in controls:
            np.testing.assert_array_equal(pipe("x", control=control, **FAST).latents, expected)


def test_any_picture_is_taken(tiny_pipe: latentrt.Pipeline, tiny_net: Path) -> None:
    """Grey ones in three channels, transparent ones on white, other sizes resized; and a size that is not square."""

    def drawn(image: Any, **more: Any) -> Any:
        return tiny_pipe("x", control=Control(tiny_net, image), **FAST, **more).latents

    white = drawn(Image.new("RGB", (32, 32), "white"))
    for image in (
        Image.new("L", (64, 64), 255),
        Image.new("RGBA", (32, 32), (255, 0, 0, 0)),
        Image.new("1", (32, 32), 1),
        np.full((32, 32), 255, np.uint8),
        np.ones((3, 32, 32), np.float32),
    ):
        np.testing.assert_array_equal(drawn(image), white)
    assert drawn(MAP, width=48, height=32).shape == (1, 4, 16, 24)


def test_prompts_of_several_chunks(tiny_pipe: latentrt.Pipeline, tiny_net: Path) -> None:
    """The net is told all of them: what the second chunk says counts."""
    words = "a red apple on a table " * 15
    drawn = [
        tiny_pipe(words + end, control=Control(tiny_net, MAP), guidance_scale=1, long_prompt="chunk", **FAST).latents
        for end in ("apple", "cat")
    ]
    assert not np.array_equal(*drawn)


def test_metadata_tell_the_nets(tiny_pipe: latentrt.Pipeline, tiny_net: Path, adapter: Path) -> None:
    """Those that counted, as sd-webui-controlnet tells its units; what a net is called holds no separator there."""
    controls = [
        Control(tiny_net, MAP, scale=0.8, start=0.1, end=0.9, mode="prompt"),
        Control(tiny_net, MAP, scale=0.0),
        Control(adapter, MAP),
    ]
    told = tiny_pipe("x", control=controls, num_inference_steps=10, seed=1, output_type="latent").metadata[0]
    assert [one.net for one in (*told.control_nets, *told.t2i_adapters)] == ["sd1-net", "tiny-t2i"]
    parameters = told.parameters()
    assert (
        'ControlNet 0: "Module: none, Model: sd1-net, Weight: 0.8, Resize Mode: Just Resize, Guidance Start: 0.1, '
        'Guidance End: 0.9, Control Mode: My prompt is more important"'
    ) in parameters
    assert 'ControlNet 1: "Module: none, Model: tiny-t2i, Weight: 1' in parameters
    assert "ControlNet" not in tiny_pipe("x", **FAST).metadata[0].parameters()
