"""What tests of the server's page do in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from PIL import Image

from latentrt.runtime.serving.jobs.service import Service

SOON = 20_000.0  # milliseconds that nothing here takes


@dataclass
class Gate:
    """Where it is shut, drawings wait behind their second step."""

    open: Event = field(default_factory=Event)

    def behind(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Tells of a step, and holds the second."""

        def told(step: int, steps: int) -> None:
            progress(step, steps)
            if step == 2:
                assert self.open.wait(SOON / 1000)

        return told

    @contextmanager
    def shut(self) -> Iterator[None]:
        self.open.clear()
        try:
            yield
        finally:
            self.open.set()


@dataclass
class Server:
    """A running server."""

    url: str
    gate: Gate
    service: Service


def drawn(page: Any, count: int) -> Any:
    """Waits until so many pictures are in the gallery; what is shown large."""
    page.locator("#gallery li").nth(count - 1).wait_for()
    page.locator("#shown").wait_for()
    return page.locator("#pictures img")


def setting(page: Any, name: str) -> str:
    """What the settings of the picture shown say."""
    return str(page.locator(f"#settings dt:text-is('{name}') + dd").inner_text())


def pixels(page: Any) -> Image.Image:
    """The picture shown, as a person downloads it."""
    with page.expect_download() as download:
        page.click("#download")
    return Image.open(download.value.path())


def give(page: Any, file: Path) -> None:
    """Chooses the image to start from, and waits until it can be painted on."""
    page.set_input_files("#file", file)
    page.locator("#canvas").wait_for()


def picture_file(folder: Path, size: tuple[int, int], name: str = "given.png") -> Path:
    """A picture that is red on the left and blue on the right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    image.save(folder / name)
    return folder / name
