"""``latentrt prepare``: pictures in, maps out, and no picture lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt import prepare

Command = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures to work in."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save("cat.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(pixels).save("turned.jpg", exif=exif)
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    mask.save("mask.png")
    return tmp_path


def written(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "make"),
    [
        ("canny cat.png --low 300 --high 700", lambda cat: prepare.canny(cat, 300, 700)),
        ("tile cat.png --downscale 2 --blur 1.5", lambda cat: prepare.tile(cat, downscale=2, blur=1.5)),
        ("palette cat.png --cells 4", lambda cat: prepare.palette(cat, 4)),
        ("blur cat.png --sigma 2.5", lambda cat: prepare.blur(cat, 2.5)),
        ("threshold cat.png --level 90", lambda cat: prepare.threshold(cat, 90)),
        ("invert cat.png --resolution 128", lambda cat: prepare.invert(cat, resolution=128)),
        ("shuffle cat.png --scale 32 --seed 3", lambda cat: prepare.shuffle(cat, 32, 3)),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_writes_what_python_makes(
    here: Path, command: Command, arguments: str, make: Callable[[Image.Image], Image.Image]
) -> None:
    """Options are the function's arguments; stdout says where the map is and how large."""
    expected = make(Image.open("cat.png"))
    ran = command("prepare", *arguments.split(), "-o", "map.png")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout == f"map.png  ({expected.width}x{expected.height})\n"
    with Image.open("map.png") as found:
        assert found.info == {}
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_inpaint_writes_an_array(here: Path, command: Command) -> None:
    """Whose −1 no picture file can hold."""
    assert command("prepare", "inpaint", "cat.png", "--mask", "mask.png", "-o", "map.npy").status == 0
    expected = prepare.inpaint(Image.open("cat.png"), Image.open("mask.png"))
    np.testing.assert_array_equal(np.load("map.npy"), expected)
    assert command("prepare", "inpaint", "cat.png", "--mask", "mask.png", "-o", "maps").stdout.startswith(
        str(Path("maps", "cat-inpaint.npy"))
    )


@pytest.mark.parametrize("output", ["maps", "new/maps", "v1.2/", "."])
def test_several_pictures_into_a_folder(here: Path, command: Command, output: str) -> None:
    """Which is made; maps have the pictures' names and their own. A camera's pictures are upright."""
    ran = command("prepare", "invert", "cat.png", "turned.jpg", "-o", output)
    assert (ran.status, ran.stderr) == (0, "")
    names = [str(Path(output, name)) for name in ("cat-invert.png", "turned-invert.png")]
    assert ran.stdout.splitlines() == [f"{names[0]}  (96x64)", f"{names[1]}  (64x96)"]
    assert Image.open(names[1]).size == (64, 96)


@pytest.mark.parametrize("name", ["map.jpg", "map.WEBP"])
def test_writes_the_format_of_the_name(here: Path, command: Command, name: str) -> None:
    """Without settings."""
    assert command("prepare", "threshold", "cat.png", "-o", name).status == 0
    with Image.open(name) as found:
        assert found.format == {"map.jpg": "JPEG", "map.WEBP": "WEBP"}[name]
        assert not found.getexif()


@pytest.mark.parametrize("name", ["frames.gif", "frames.webp", "pages.tif"])
def test_the_first_frame_counts(here: Path, command: Command, name: str) -> None:
    """And a warning says so."""
    first, *rest = (Image.new("RGB", (64, 64), colour) for colour in ("white", "black", "red"))
    first.save(name, save_all=True, append_images=rest)
    ran = command("prepare", "threshold", name, "-o", "map.png")
    assert ran.status == 0
    assert ran.stderr == f"latentrt: warning: {name!r} is animated or has several pages; the first is taken\n"
    assert np.asarray(Image.open("map.png")).min() == 255


REFUSALS = {
    "prepare canny text.txt -o map.png": "'text.txt', expected a picture file",
    "prepare canny empty.png -o map.png": "'empty.png', expected a picture file",
    "prepare canny cut.png -o map.png": "cannot read the picture 'cut.png'",
    "prepare canny float.tif -o map.png": "mode 'F', whose range is unknown",
    "prepare canny folder -o map.png": "got the folder 'folder', expected a picture file; give the pictures in it",
    "prepare canny absent.png -o map.png": "cannot read the picture 'absent.png'",
    f"prepare canny {'x' * 300}.png -o map.png": "name too long",
    f"prepare canny cat.png -o {'x' * 300}.png": "the name is too long; choose a shorter one",
    "prepare canny cat.png -o map.gif": "expected a name that ends in .png, .jpg, .jpeg, .webp, or a folder; add .png",
    "prepare canny cat.png -o absent/map.png": "the folder does not exist; create it first",
    "prepare canny cat.png -o text.txt/": "part of the path is a file, not a folder",
    "prepare canny cat.png -o taken.png": "'taken.png' is there already",
    "prepare canny cat.png -o cat.png --overwrite": "'cat.png', which is a picture to read, expected another file",
    "prepare canny cat.png -o ./folder/../cat.png --overwrite": "which is a picture to read",
    "prepare canny cat.png -o link.png --overwrite": "which is a picture to read",
    "prepare canny cat.png turned.jpg -o map.png": "for the maps of 2 pictures, expected a folder; give -o FOLDER",
    "prepare canny cat.png other/cat.png -o maps": "'cat.png' and 'other/cat.png', whose maps would both be",
    "prepare canny cat.png -o map.png --low 200 --high 100": "low 200 and high 100, expected 0 <= low <= high",
    "prepare canny cat.png -o map.png --low much": "--low",
    "prepare canny cat.png": "--output",
    "prepare canny -o map.png": "IMAGE",
    "prepare depth cat.png -o map.png": "No such command 'depth'",
    "prepare inpaint cat.png -o map.npy": "--mask",
    "prepare inpaint cat.png --mask mask.png -o map.png": "expected a name that ends in .npy, as the map of inpaint",
    "prepare inpaint cat.png --mask small.png -o map.npy": "a mask of 8x8 for an image of 96x64",
    "prepare inpaint cat.png --mask mask.npy -o mask.npy --overwrite": "'mask.npy', expected a picture file",
    "prepare invert cat.png --resolution 20 -o map.png": "resolution 20, expected 64 to 8192",
    "prepare invert wide.png --resolution 1024 -o map.png": "which would become 1024x1024000",
}


@pytest.mark.parametrize("arguments", REFUSALS, ids=range(len(REFUSALS)))
def test_refusals(here: Path, command: Command, arguments: str) -> None:
    """Exit status 2, one line, and every file as it was."""
    Path("text.txt").write_text("no picture")
    Path("empty.png").touch()
    Path("cut.png").write_bytes(Path("cat.png").read_bytes()[:2000])
    Image.fromarray(np.zeros((8, 8), np.float32)).save("float.tif")
    Image.new("L", (2, 2000)).save("wide.png")
    Image.new("L", (8, 8)).save("small.png")
    Path("taken.png").write_text("mine")
    Path("folder").mkdir()
    Path("link.png").symlink_to("cat.png")
    Path("other").mkdir()
    Path("other/cat.png").write_bytes(Path("cat.png").read_bytes())
    np.save("mask.npy", np.zeros((64, 96)))
    before = written(here)
    ran = command(*arguments.split())
    assert (ran.status, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert REFUSALS[arguments] in ran.stderr
    assert written(here) == before


def test_an_error_half_way_keeps_what_is_written(here: Path, command: Command) -> None:
    """It names the picture, and says how many maps there are."""
    Image.fromarray(np.zeros((8, 8), np.float32)).save("float.tif")
    ran = command("prepare", "invert", "cat.png", "float.tif", "turned.jpg", "-o", "maps")
    assert ran.status == 2
    assert "'float.tif': got a picture of mode 'F'" in ran.stderr
    assert "(1 of 3 maps are written)" in ran.stderr
    assert [path.name for path in Path("maps").iterdir()] == ["cat-invert.png"]


def test_overwrite_replaces_maps(here: Path, command: Command) -> None:
    """And nothing but maps."""
    Path("map.png").write_text("an earlier map")
    assert command("prepare", "invert", "cat.png", "-o", "map.png", "--overwrite").status == 0
    np.testing.assert_array_equal(np.asarray(Image.open("map.png")), 255 - np.asarray(Image.open("cat.png")))
