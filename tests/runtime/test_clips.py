"""Clips in every format: the frames, how long each is shown, and the settings inside."""

import errno
import json
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

import latentrt
from latentrt.engines.errors import OutputError, RequestError
from latentrt.runtime.pictures.clips import clip_file
from latentrt.runtime.pictures.clips.clip_file import CLIP_SUFFIXES, check_clip, write_clip
from latentrt.runtime.pictures.clips.timing import frame_durations, rate_from_fps

TEXT = 'café 港 🚢, "quoted"\nSteps: 3, Sampler: Euler, CFG scale: 3, Frames: 5'
SIZE = (48, 32)
EXACT = (".webp", ".apng", ".png")


def clip(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Frames that all differ, smooth enough for a lossy format."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    return [
        Image.fromarray(
            np.stack([columns * 5 % 256, rows * 7 % 256, np.full_like(rows, 70 * index % 256)], -1).astype(np.uint8)
        )
        for index in range(count)
    ]


def pixels(frames: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])


def read(path: Path) -> tuple[np.ndarray, list[float]]:
    """Frames and how many milliseconds each is shown, as Pillow reads them."""
    with Image.open(path) as image:
        shown = [
            (np.asarray(frame.convert("RGB")), frame.info.get("duration")) for frame in ImageSequence.Iterator(image)
        ]
        assert len(shown) == 1 or image.info["loop"] == 0
    return np.stack([frame for frame, _ in shown]), [float(duration or 0) for _, duration in shown]


@pytest.mark.parametrize("suffix", EXACT)
def test_frames_are_kept_to_the_bit(tmp_path: Path, suffix: str) -> None:
    """Of WebP and APNG, with the settings where those of a picture stand."""
    frames, path = clip(5), tmp_path / f"clip{suffix}"
    write_clip(path, frames, fps=8, settings_text=TEXT)
    found, durations = read(path)
    np.testing.assert_array_equal(found, pixels(frames))
    assert durations == [125.0] * 5
    assert latentrt.read_parameters(path) == TEXT
    assert list(tmp_path.iterdir()) == [path]


def test_a_gif_has_its_colours(tmp_path: Path) -> None:
    """Up to 256 a frame are kept to the bit; beyond they are near."""
    few = [Image.fromarray(np.asarray(frame) // 64 * 64) for frame in clip(5)]
    write_clip(tmp_path / "few.gif", few, fps=10, settings_text=TEXT)
    found, durations = read(tmp_path / "few.gif")
    np.testing.assert_array_equal(found, pixels(few))
    assert durations == [100.0] * 5
    many = clip(3)
    write_clip(tmp_path / "many.gif", many, fps=10, settings_text=TEXT)
    found, _ = read(tmp_path / "many.gif")
    assert np.abs(found.astype(int) - pixels(many)).mean() < 5
    assert latentrt.read_parameters(tmp_path / "many.gif") == TEXT


@pytest.mark.parametrize("fps", [7, 24, 30, 29.97, 0.3])
@pytest.mark.parametrize(("suffix", "clock"), [(".webp", 1000), (".gif", 100)])
def test_rates_that_a_clock_does_not_divide_do_not_drift(tmp_path: Path, suffix: str, clock: int, fps: float) -> None:
    """Each frame begins at the unit nearest to its time."""
    path, tick = tmp_path / f"clip{suffix}", 1000 / clock
    write_clip(path, clip(14), fps=fps)
    _, durations = read(path)
    begins = np.cumsum([0.0, *durations])
    np.testing.assert_allclose(begins, np.arange(15) * 1000 / fps, atol=tick / 2 + 1e-3)
    assert sum(durations) == round(14 * clock / fps) * tick
    assert len(set(durations)) > 1 or fps == 0.3


def delays(path: Path) -> list[Fraction]:
    """The delays of an APNG's frames, by the letter of its specification, and that every checksum is right."""
    data, at, found, numbers = path.read_bytes(), 8, [], []
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(name + content),)
        if name == b"fcTL":
            found.append(Fraction(*struct.unpack_from(">HH", content, 20)))
        if name in (b"fcTL", b"fdAT"):
            numbers += struct.unpack_from(">I", content)
        at += length + 12
    assert numbers == list(range(len(numbers)))
    return found


@pytest.mark.parametrize(
    ("fps", "delay"), [(7, Fraction(1, 7)), (30, Fraction(1, 30)), (29.97, Fraction(100, 2997)), (0.1, Fraction(10))]
)
def test_an_apng_is_shown_exactly_as_long(tmp_path: Path, fps: float, delay: Fraction) -> None:
    """Its delays are fractions; equal frames stay frames."""
    frames = [clip(1)[0]] * 3
    write_clip(tmp_path / "clip.apng", frames, fps=fps)
    assert delays(tmp_path / "clip.apng") == [delay] * 3
    with Image.open(tmp_path / "clip.apng") as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]


def test_odd_rates_fit_an_apng(tmp_path: Path) -> None:
    """Both parts of a delay have 16 bits."""
    write_clip(tmp_path / "clip.apng", clip(2), fps=123.457)
    for delay in delays(tmp_path / "clip.apng"):
        assert float(1 / delay) == pytest.approx(123.457, rel=1e-6)


def test_durations_add_up() -> None:
    """Whatever the rate, and the first frame has no more than its share."""
    for fps in (1, 6, 7, 23.976, 60):
        rate = rate_from_fps(fps)
        assert sum(frame_durations(25, rate, 1000)) == round(25 * 1000 / rate)
        assert {*frame_durations(25, rate, 1000)} <= {int(1000 // rate), int(1000 // rate) + 1}


@pytest.mark.parametrize("fps", [7, 29.97])
def test_an_mp4_plays_in_browsers(tmp_path: Path, fps: float) -> None:
    """H.264 in 4:2:0 with the index in front; the size is as it was, and colours are BT.709's."""
    import av

    frames, path = clip(9, (50, 34)), tmp_path / "clip.mp4"
    write_clip(path, frames, fps=fps, settings_text=TEXT)
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 50, 34)
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, 1, 1)
        assert stream.average_rate == rate_from_fps(fps)
        assert float(stream.duration * stream.time_base) == pytest.approx(9 / fps, abs=1e-4)
        assert container.metadata["comment"] == TEXT
        decoded = [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
        ]
    np.testing.assert_allclose([float(time) for time, _ in decoded], np.arange(9) / fps, atol=1e-4)
    difference = np.stack([frame for _, frame in decoded]).astype(int) - pixels(frames)
    assert np.abs(difference).mean() < 6
    assert np.abs(difference.mean((0, 1, 2))).max() < 3  # another matrix would shift them
    assert latentrt.read_parameters(path) == TEXT
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", CLIP_SUFFIXES)
def test_one_frame_is_a_clip(tmp_path: Path, suffix: str) -> None:
    """And long settings are no trouble."""
    path = tmp_path / f"clip{suffix.upper()}"
    write_clip(path, clip(1), fps=7, settings_text=TEXT * 1000)
    assert latentrt.read_parameters(path) == TEXT * 1000
    if suffix in EXACT:
        np.testing.assert_array_equal(read(path)[0], pixels(clip(1)))


@pytest.mark.parametrize("suffix", CLIP_SUFFIXES)
def test_without_settings_there_are_none(tmp_path: Path, suffix: str) -> None:
    """Nor a tag of another's making."""
    write_clip(tmp_path / f"clip{suffix}", clip(2), fps=7)
    assert latentrt.read_parameters(tmp_path / f"clip{suffix}") is None


def test_transparency_is_white(tmp_path: Path) -> None:
    """Frames of every mode become RGB."""
    write_clip(tmp_path / "clip.webp", [Image.new("RGBA", SIZE), Image.new("L", SIZE, 9)], fps=1)
    found, _ = read(tmp_path / "clip.webp")
    assert (found[0] == 255).all()
    assert (found[1] == 9).all()


REFUSED = {
    "clip.avi": ({}, r"ends in \.webp, \.apng, \.png, \.gif or \.mp4; add \.webp"),
    "clip": ({}, "add .webp"),
    "odd.mp4": ({"width": 49}, "got frames of 49x32 for .mp4, expected even sides"),
    "large.webp": ({"width": 16384}, "expected at most 16383 pixels a side"),
    "still.webp": ({"fps": 0}, "got fps 0 for .webp, expected 0.1 to 1000 frames per second"),
    "none.mp4": ({"fps": float("nan")}, "got fps nan for .mp4"),
    "fast.gif": ({"fps": 60}, "got fps 60 for .gif, expected 0.1 to 50 frames per second; write .webp"),
    "text.apng": ({"fps": "fast"}, "got fps 'fast', expected a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_has_no_room_for_is_refused(tmp_path: Path, name: str) -> None:
    """In one sentence, before anything is drawn or written."""
    wrong, reason = REFUSED[name]
    with pytest.raises(RequestError, match=reason):
        check_clip(tmp_path / name, **{"width": 48, "height": 32, "fps": 7, **wrong})  # type: ignore[arg-type]


def test_frames_must_be_a_clip(tmp_path: Path) -> None:
    """Of one size, and at least one."""
    with pytest.raises(RequestError, match="got no frames for"):
        write_clip(tmp_path / "clip.webp", [], fps=7)
    with pytest.raises(RequestError, match="got frames of 48x32 and 32x48"):
        write_clip(tmp_path / "clip.webp", [*clip(1), *clip(1, (32, 48))], fps=7)
    with pytest.raises(RequestError, match="expected even sides"):
        write_clip(tmp_path / "clip.mp4", clip(2, (33, 32)), fps=7)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_mp4_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how to get it; its settings are read without."""
    write_clip(tmp_path / "there.mp4", clip(2), fps=7, settings_text=TEXT)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RequestError, match=r"needs PyAV, .*pip install 'latentrt\[video\]', or write \.webp"):
        check_clip(tmp_path / "clip.mp4", width=48, height=32, fps=7)
    for suffix in (".webp", ".apng", ".gif"):
        write_clip(tmp_path / f"clip{suffix}", clip(2), fps=7)
    assert latentrt.read_parameters(tmp_path / "there.mp4") == TEXT


@pytest.mark.parametrize("suffix", CLIP_SUFFIXES)
def test_a_clip_is_written_whole_or_not_at_all(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on the way leaves the file that was there, and nothing beside it."""
    path = tmp_path / f"clip{suffix}"
    path.write_text("as it was")
    chosen = clip_file._FORMATS[suffix]

    def failing(temporary: Path, frames: Sequence[Image.Image], rate: Fraction, parameters: str | None) -> None:
        chosen.save(temporary, frames, rate, parameters)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(clip_file._FORMATS, suffix, clip_file._Format(save=failing))
    with pytest.raises(OutputError, match="the disk is full"):
        write_clip(path, clip(2), fps=7)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(path.name, "as it was")]


@pytest.mark.parametrize("suffix", CLIP_SUFFIXES)
def test_a_missing_folder_is_said(tmp_path: Path, suffix: str) -> None:
    """PyAV's errors, too."""
    with pytest.raises(OutputError, match="the folder does not exist"):
        write_clip(tmp_path / "none" / f"clip{suffix}", clip(2), fps=7)


@pytest.mark.parametrize("cut", [8, 20, 40, 200, 700])
def test_damaged_mp4s_have_no_settings(tmp_path: Path, cut: int) -> None:
    """Cut off, or with lengths that lie; nothing but that is said of them."""
    path = tmp_path / "clip.mp4"
    write_clip(path, clip(2), fps=7, settings_text=TEXT)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:cut])
    assert latentrt.read_parameters(path) is None
    for length in (0, 1, 2, 7, 2**32 - 1):
        lying = bytearray(data)
        for box in (b"moov", b"udta", b"ilst", b"\xa9cmt"):
            at = lying.find(box) - 4
            lying[at : at + 4] = struct.pack(">I", length)
        path.write_bytes(lying)
        assert latentrt.read_parameters(path) in (None, TEXT) or length in (0, 1)


def test_a_webp_is_smaller_than_an_apng(tmp_path: Path) -> None:
    """Which is why it comes first."""
    frames = [frame.resize((128, 128), Image.Resampling.BICUBIC) for frame in clip(6)]
    for suffix in (".webp", ".apng"):
        write_clip(tmp_path / f"clip{suffix}", frames, fps=7)
    assert (tmp_path / "clip.webp").stat().st_size < (tmp_path / "clip.apng").stat().st_size


def test_inspect_shows_a_clips_settings(command: Callable[..., Any], tmp_path: Path) -> None:
    """Whatever its format; as JSON by their names."""
    for suffix in CLIP_SUFFIXES:
        write_clip(tmp_path / f"clip{suffix}", clip(2), fps=7, settings_text=TEXT)
        assert command("inspect", tmp_path / f"clip{suffix}").stdout == f"{TEXT}\n"
        settings = json.loads(command("inspect", tmp_path / f"clip{suffix}", "--json").stdout)
        assert (settings["Prompt"], settings["Frames"]) == ('café 港 🚢, "quoted"', "5")
