"""The picture of the server's page in ``docs/serving/page.md``.

``python -m latentrt.benchmarks.studies.page_picture emoji.bundle docs/page.png`` writes it. Chromium is needed, which
the package playwright does not bring.
"""

import argparse
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

from PIL import Image

from latentrt.cli.terminal import say
from latentrt.engines.errors import RequestError
from latentrt.opening import open as open_pipeline
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service

PROMPTS = ("sunflower", "pizza", "frog", "cat face", "strawberry", "red apple", "tiger face")
SIZE = {"width": 1280, "height": 880}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_COLORS = 256  # of the file


def main() -> None:
    """Reads the arguments, draws, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="the embedded model's")
    parser.add_argument("picture", type=Path, help="the PNG that is written")
    arguments = parser.parse_args()
    service = Service(Models(Catalog(models={"emoji": arguments.bundle}), open_pipeline))
    try:
        with served(service) as url:
            taken = _taken(url)
    finally:
        service.close()
    Image.open(BytesIO(taken)).convert("RGB").quantize(_COLORS).save(arguments.picture, optimize=True)
    say(f"{arguments.picture}  ({SIZE['width']}x{SIZE['height']})")


@contextmanager
def served(service: Service, settings: Settings | None = None) -> Iterator[str]:
    """The address of a server in a thread."""
    import uvicorn

    config = uvicorn.Config(create_app(service, settings), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def _taken(url: str) -> bytes:
    """The page as a PNG, after every prompt was drawn.

    Raises:
        RequestError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise RequestError(f"got no browser, expected one of {', '.join(_BROWSERS)}; install Chromium")
    with sync_playwright() as playing:
        browser: Any = playing.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(url)
        page.locator("#sampler option").first.wait_for(state="attached")
        for field, value in (("num_inference_steps", "20"), ("guidance_scale", "3"), ("seed", "5")):
            page.fill(f"#{field}", value)
        page.select_option("#sampler", "euler_a")
        for count, prompt in enumerate(PROMPTS):
            page.fill("#prompt", prompt)
            page.keyboard.press("Control+Enter")
            page.locator("#gallery li").nth(count).wait_for()
        page.locator(f"#pictures img[alt='{PROMPTS[-1]}'].small").wait_for()
        picture = page.screenshot()
        browser.close()
        return bytes(picture)


if __name__ == "__main__":
    main()
