"""Progress, interruption, settings, listings and passwords, as the clients use them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
from sd_backend_client.api.detect import connect_to_backend
from sd_backend_client.api.shared_data.generation_handle import GenerationError, GenerationStatus
from sd_backend_client.api.webui.diffusion_request_body import DiffusionRequestBody
from sd_backend_client.errors import AuthError
from webuiapi import WebUIApi

from latentrt.runtime.serving.jobs.catalog import Catalog

SOON = 60.0
SIZE = {"width": 32, "height": 32}


def test_progress_and_interruption(served: Any, held: Any) -> None:
    """A job is seen at work with a picture of it, and ends with what there is; then the server is idle."""
    webui = served.webui
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(webui.txt2img, prompt="a cat", seed=3, steps=5, **SIZE)
        assert held.reached.wait(SOON)
        told = served.webui.get_progress()
        assert told["state"]["job_count"] == 1
        assert (told["state"]["sampling_step"], told["state"]["sampling_steps"]) == (1, 5)
        assert told["progress"] == pytest.approx(0.2)
        assert told["eta_relative"] > 0
        assert told["current_image"]
        assert served.webui.custom_get("sdapi/v1/progress?skip_current_image=true")["current_image"] is None
        assert served.webui.interrupt() == {}
        assert served.webui.get_progress()["state"]["interrupted"]
        held.go.set()
        answer = asked.result(SOON)
    assert answer.image.size == (32, 32)
    held.on = False
    whole = webui.txt2img(prompt="a cat", seed=3, steps=5, **SIZE)
    assert (np.asarray(answer.image) != np.asarray(whole.image)).any()
    webui.util_wait_for_ready(0.01)


def test_sd_backend_client_sees_and_cancels_its_job(served: Any, held: Any) -> None:
    """Its handle polls the progress and cancels through the interruption; what waits is not sent."""
    handle = served.backend.submit_txt2img(DiffusionRequestBody(prompt="a cat", steps=5, seed=1, **SIZE))
    assert held.reached.wait(SOON)
    seen = handle.poll()
    assert seen.status is GenerationStatus.ACTIVE
    assert seen.progress == pytest.approx(0.2)
    assert seen.preview is not None
    assert handle.cancel()
    held.go.set()
    with pytest.raises(GenerationError) as ended:
        handle.wait(SOON, 0.01)
    assert ended.value.status is GenerationStatus.CANCELLED


def test_a_job_that_waits_is_interrupted_without_pictures(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest one that is drawn is meant first; without one, the oldest that waits."""
    queued = Event()
    monkeypatch.setattr(served.service, "_advance", queued.set)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(served.webui.txt2img, prompt="a cat", seed=3, batch_size=2, **SIZE)
        assert queued.wait(SOON)
        assert served.webui.get_progress()["textinfo"] == "Waiting"
        served.webui.skip()
        answer = asked.result(SOON)
    assert answer.images == []
    assert answer.info["all_seeds"] == [3, 4]


def test_settings_switch_the_model(served: Any) -> None:
    """For later requests, or for one alone."""
    webui = served.webui
    try:
        webui.util_set_model("twin")
        assert webui.util_get_current_model().startswith("twin")
        assert webui.txt2img(prompt="a", **SIZE).info["sd_model_name"] == "twin"
        once = {"sd_model_checkpoint": webui.util_get_model_names()[0], "CLIP_stop_at_last_layers": 2}
        info = webui.txt2img(prompt="a", override_settings=once, **SIZE).info
        assert (info["sd_model_name"], info["clip_skip"]) == ("tiny", 2)
        assert "Clip skip: 2" in info["infotexts"][0]
        assert webui.util_get_current_model().startswith("twin")
        for unknown in ({"sd_model_checkpoint": "other"}, {"no_setting": 1}, {"sd_vae": "some.pt"}):
            assert "error" in webui.set_options(unknown)
        assert webui.set_options({"samples_save": True, "sd_vae": "Automatic"}) is None
    finally:
        webui.set_options({"sd_model_checkpoint": "tiny", "CLIP_stop_at_last_layers": 1})


def test_what_clients_ask_for_before_they_draw(served: Any) -> None:
    """The server is recognised, and every list can be read."""
    backend = connect_to_backend(served.url)
    assert type(backend) is type(served.backend)
    can = backend.get_capabilities()
    assert (can.scheduler, can.controlnet, can.interrogate, can.soft_inpainting) == (True, False, False, False)
    assert [one.name for one in backend.list_checkpoints()] == ["tiny", "twin"]
    assert {"euler", "euler_ancestral", "dpmpp_2m", "ddim"} <= {one.name for one in backend.list_samplers()}
    assert {"normal", "karras", "ddim_uniform"} <= {one.name for one in backend.list_schedulers()}
    assert "Lanczos" in [one.name for one in backend.list_upscalers()]
    assert "Latent" in backend.get_latent_upscale_modes()
    lists = (backend.list_vaes, backend.list_loras, backend.list_hypernetworks, backend.get_styles)
    assert [list_them() for list_them in (*lists, backend.get_script_info)] == [[]] * 5
    for refresh in (backend.refresh_checkpoints, backend.refresh_vae, backend.refresh_loras):
        assert refresh().json() is None
    webui = served.webui
    assert webui.get_scripts() == {"txt2img": [], "img2img": []}
    assert webui.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert webui.get_memory()["ram"]["free"] > 0
    assert webui.get_cmd_flags() == {"api": True}
    for empty in (webui.get_face_restorers, webui.get_realesrgan_models, webui.get_prompt_styles):
        assert empty() == []


def test_passwords(serve: Callable[..., Any], catalog: Catalog) -> None:
    """HTTP Basic, whatever the user's name; sd-backend-client asks for it once it is refused."""
    served = serve(catalog, token="a token of this test")
    webui = WebUIApi(port=served.port, username="anybody", password="a token of this test")
    assert "sd_model_checkpoint" in webui.get_options()
    assert "detail" in WebUIApi(port=served.port, username="anybody", password="another").get_options()
    backend = connect_to_backend(served.url, lambda: ("anybody", "a token of this test"))
    assert [one.name for one in backend.list_checkpoints()] == ["tiny", "twin"]
    with pytest.raises(AuthError):
        connect_to_backend(served.url, lambda: ("anybody", "another"))
