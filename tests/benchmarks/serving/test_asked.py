"""What clients ask for: drawn by chance, but the same again; and the pictures that come compared with their own."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentrt.benchmarks.serving.asked import mask_picture, source_picture
from latentrt.benchmarks.serving.clients import Delivered, generation_body
from latentrt.benchmarks.serving.compared import Compared
from latentrt.benchmarks.serving.mix import COMMON, EVERYTHING, asked_pictures, prompts_of_the_model, shuffled
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.order_json import JobRequest, order_from_json

PROMPTS = ("cat", "frog")


def test_the_same_seed_asks_for_the_same() -> None:
    """And another one for others; every picture has a digest of its own."""
    one, again, other = (asked_pictures(EVERYTHING, PROMPTS, 60, seed) for seed in (1, 1, 2))
    assert one == again
    assert len({asked.digest for asked in [*one, *other]}) == 120


def test_all_ways_of_drawing_are_among_them() -> None:
    """Each in a number that counts; the common mix has text alone, in all its sizes."""
    ways = Counter(asked.way for asked in asked_pictures(EVERYTHING, PROMPTS, 300, 0))
    assert set(ways) == {"text", "img2img", "inpaint", "hires", "lora"}
    assert min(ways.values()) >= 15
    common = asked_pictures(COMMON, PROMPTS, 60, 0)
    assert {asked.way for asked in common} == {"text"}
    assert {(asked.width, asked.height) for asked in common} == set(COMMON.sizes)


def test_bodies_are_orders_of_the_server() -> None:
    """Their keywords are the call's, and no field is unknown."""
    for asked in asked_pictures(EVERYTHING, PROMPTS, 60, 0):
        order = order_from_json(
            JobRequest(**asked.body()), Catalog(models={"a": Path("a")}), lambda text: Image.new("RGB", (8, 8))
        )
        shared = {name: value for name, value in asked.keywords().items() if name != "hires"}
        assert order.prompt == asked.prompt
        assert shared.items() <= order.keywords.items()
        assert {"image", "mask_image", "strength", "hires"} & set(order.keywords) == {
            name
            for name, there in (
                ("image", asked.source is not None),
                ("mask_image", asked.mask is not None),
                ("strength", asked.source is not None),
                ("hires", asked.hires is not None),
            )
            if there
        }


def test_generations_name_the_size() -> None:
    """As OpenAI's clients do."""
    asked = asked_pictures(COMMON, PROMPTS, 1, 0)[0]
    body = generation_body(asked)
    assert body["size"] == f"{asked.width}x{asked.height}"
    assert "width" not in body
    assert body["seed"] == asked.seed


def test_every_picture_is_asked_for_about_as_often() -> None:
    """Ten pictures, 25 times."""
    counts = Counter(shuffled(range(10), 25, 0))  # type: ignore[type-var]
    assert sum(counts.values()) == 25
    assert set(counts.values()) == {2, 3}


def test_the_model_has_prompts() -> None:
    """Names of emoji."""
    assert len(prompts_of_the_model()) >= 20


def test_sources_and_masks_are_of_the_size_wanted() -> None:
    """The same for a number; a mask has both colours."""
    assert source_picture(3, 48, 32).tobytes() == source_picture(3, 48, 32).tobytes()
    assert source_picture(3, 48, 32).size == (48, 32)
    assert set(np.unique(mask_picture(3, 48, 32))) == {0, 255}


def png_of(picture: Image.Image) -> bytes:
    memory = io.BytesIO()
    picture.save(memory, "PNG")
    return memory.getvalue()


@pytest.fixture
def compared(tmp_path: Path) -> tuple[Compared, list[Delivered]]:
    """Three pictures drawn alone, and their delivery."""
    delivered = []
    for number, asked in enumerate(asked_pictures(COMMON, PROMPTS, 3, 0)):
        png = png_of(source_picture(number, 32, 32))
        (tmp_path / f"{asked.digest}.png").write_bytes(png)
        delivered.append(Delivered(asked=asked, seconds=0.1, png=png))
    return Compared(tmp_path), delivered


def test_pictures_of_their_own_are_right(compared: tuple[Compared, list[Delivered]]) -> None:
    """Equal ones, and one that differs by one in a single value."""
    taker, delivered = compared
    assert delivered[0].png is not None
    pixels = np.array(Image.open(io.BytesIO(delivered[0].png)))
    pixels[0, 0, 0] ^= 1
    rounded = Delivered(asked=delivered[0].asked, seconds=0.1, png=png_of(Image.fromarray(pixels)))
    taker.take([*delivered, rounded])
    found = taker.result()
    assert (found.asked, found.equal, found.close, found.wrong) == (4, 3, 1, ())
    assert found.worst_psnr == pytest.approx(83.0, abs=0.1)


def test_lost_and_mixed_up_pictures_are_found(compared: tuple[Compared, list[Delivered]]) -> None:
    """One that did not come, one of another request, one of nobody, one of another size."""
    taker, (first, second, third) = compared
    lost = Delivered(asked=first.asked, seconds=0.1, reason="500: oh")
    mixed = Delivered(asked=second.asked, seconds=0.1, png=first.png)
    strange = Delivered(asked=third.asked, seconds=0.1, png=png_of(source_picture(9, 32, 32)))
    small = Delivered(asked=third.asked, seconds=0.1, png=png_of(source_picture(2, 16, 32)))
    taker.take([lost, mixed, strange, small])
    wrong = taker.result().wrong
    assert len(wrong) == 4
    assert "500: oh" in wrong[0]
    assert wrong[1].endswith(f"is the picture of {first.asked.digest}")
    assert "dB from" in wrong[2]
    assert "0.0 dB from" in wrong[3]
