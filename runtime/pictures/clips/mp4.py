"""Clips as mp4, which PyAV writes; the extra ``video`` brings it."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from latentrt.engines.errors import RequestError

_BT709 = 1  # of colours, in H.264's tables E.3 to E.5
_LIMITED = 1  # luma from 16 to 235
_QUALITY = {"crf": "17", "preset": "medium"}  # of x264: hardly told from the frames


def check_mp4() -> None:
    """Finds out whether mp4 can be written.

    Raises:
        RequestError: PyAV is not installed, or cannot be loaded.
    """
    _pyav()


def save_mp4(path: Path, frames: Sequence[Image.Image], rate: Fraction, parameters: str | None) -> None:
    """H.264 in 4:2:0, which every browser plays, with the index in front; the settings are the tag ``comment``.

    Args:
        path: the file.
        frames: RGB pictures of one size, whose sides are even.
        rate: frames per second.
        parameters: the settings.

    Raises:
        OSError: the file cannot be written.
    """
    av = _pyav()
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            if parameters is not None:
                container.metadata["comment"] = parameters
            stream = container.add_stream("libx264", rate=rate, options=_QUALITY)
            stream.width, stream.height = frames[0].size
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            codec.color_primaries = codec.color_trc = codec.colorspace = _BT709
            codec.color_range = _LIMITED
            for index, frame in enumerate([*frames, None]):
                picture = None  # behind the last one: what the encoder still holds
                if frame is not None:
                    rgb = av.VideoFrame.from_image(frame)
                    picture = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                    picture.pts, picture.time_base = index, 1 / rate
                for packet in stream.encode(picture):
                    packet.duration = 1  # otherwise the last frame's is guessed
                    container.mux(packet)
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise RequestError(
            f"writing .mp4 needs PyAV, which {reason}; install it with pip install 'latentrt[video]', or write .webp"
        ) from error
    return av
