"""What the other tests of this API leave out: LoRAs, upscalers, every sampler, and clients that go away."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.http.a1111.ordering.samplers import titles
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.job import JobState

pytestmark = pytest.mark.slow
SOON = 60.0
SIZE = {"width": 32, "height": 32}


@pytest.mark.parametrize("title", titles())
def test_every_sampler_draws(served: Any, title: str) -> None:
    """As webuiapi sends it, with its eta of 1; the settings have its name."""
    eta = 0.0 if title == "DDIM CFG++" else 1.0  # which knows no other
    answer = served.webui.txt2img(prompt="a cat", seed=1, steps=3, sampler_name=title, eta=eta, **SIZE)
    assert f"Sampler: {title}," in answer.info["infotexts"][0]
    assert len(np.unique(np.asarray(answer.image))) > 10


def test_loras_in_prompts(serve: Callable[..., Any], tiny_bundle: Path, sized_pipe: Pipeline, tmp_path: Path) -> None:
    """By the names of the server; one that there is not is refused."""
    lora = save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle)
    served = serve(Catalog(models={"tiny": tiny_bundle}, loras={"style": lora}))
    assert [one.name for one in served.backend.list_loras()] == ["style"]
    answer = served.webui.txt2img(prompt="a cat <lora:style:0.8>", seed=1, **SIZE)
    plain = served.webui.txt2img(prompt="a cat", seed=1, **SIZE)
    assert (np.asarray(answer.image) != np.asarray(plain.image)).any()
    assert "Lora hashes" in answer.info["infotexts"][0]
    with pytest.raises(RuntimeError, match="expected one of: style"):
        served.webui.txt2img(prompt="a cat <lora:other:1>", **SIZE)


def test_upscalers(serve: Callable[..., Any], tiny_bundle: Path, onnx_upscaler_bundle: Path) -> None:
    """In extras and in the hires fix, by their names; face restorers and what is too large are refused."""
    served = serve(Catalog(models={"tiny": tiny_bundle}, upscalers={"twice": onnx_upscaler_bundle}))
    webui, image = served.webui, Image.new("RGB", (24, 16), "red")
    image.putpixel((3, 5), (0, 0, 255))
    assert "twice" in [one["name"] for one in webui.get_upscalers()]
    single = webui.extra_single_image(image, upscaler_1="twice", upscaling_resize=2)
    with latentrt.open_upscaler(onnx_upscaler_bundle) as upscaler:
        np.testing.assert_array_equal(np.asarray(single.image), np.asarray(upscaler.upscale(image, 2)))
    fitted = webui.extra_single_image(
        image, resize_mode=1, upscaler_1="twice", upscaling_resize_w=32, upscaling_resize_h=32
    )
    assert fitted.image.size == (32, 32)
    with pytest.raises(RuntimeError, match="got gfpgan_visibility"):
        webui.extra_single_image(image, gfpgan_visibility=0.5)
    with pytest.raises(RuntimeError, match="too_costly"):
        webui.extra_single_image(
            image, resize_mode=1, upscaler_1="twice", upscaling_resize_w=65536, upscaling_resize_h=65536
        )
    drawn = webui.txt2img(prompt="a", seed=1, enable_hr=True, hr_upscaler="twice", **SIZE)
    assert drawn.image.size == (64, 64)


def test_who_goes_away_ends_the_job(served: Any, held: Any) -> None:
    """At its next step."""
    body = {"prompt": "a cat", "seed": 1, "steps": 5, **SIZE}
    with pytest.raises(requests.Timeout):
        requests.post(f"{served.url}/sdapi/v1/txt2img", json=body, timeout=(SOON, 0.5))
    assert held.reached.wait(SOON)
    job = served.service.jobs[-1]
    held.go.set()
    assert job.wait(SOON) is JobState.CANCELLED
    assert served.webui.get_progress()["state"]["job_count"] == 0


def test_the_pages_example_runs(
    serve: Callable[..., Any], emoji_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, on another port."""
    page = Path(__file__).resolve().parents[4] / "docs" / "serving" / "a1111.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    port = serve(Catalog(models={"emoji": emoji_bundle})).port
    monkeypatch.chdir(tmp_path)
    exec(re.sub(r"port=\d+", f"port={port}", block), {})
    assert {path.name for path in tmp_path.glob("*.png")} == {"dog.png", "chin.png"}
