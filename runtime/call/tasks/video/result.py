"""What ``Pipeline.img2vid`` gives back."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.result import Timings, save_latents
from latentrt.runtime.metadata.picture_metadata import PictureMetadata


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """Videos, their latents (N, F, C, H/f, W/f) float32, their seeds, and how they came to be.

    Attributes:
        frames: of each video, F PIL pictures; or with ``output_type="np"`` an array (F, H, W, 3) float32 in [0, 1].
            Empty for ``output_type="latent"``.
        fps: frames per second, which the model was told.
        latents: as the last step left them.
        seeds: one per video; where one seed served all it is repeated, and the video's place among them counts.
        timings: seconds; ``encode_image`` is what image encoder and autoencoder took.
        metadata: the settings of each video.
        interrupted: whether a callback ended the run before its time.
    """

    frames: list[list[Image.Image]] | list[Array]
    fps: int
    latents: Array
    seeds: tuple[int, ...]
    timings: Timings
    metadata: tuple[PictureMetadata, ...]
    interrupted: bool = False

    def save(self, path: str | Path) -> list[Path]:
        """Writes the videos with their settings, in the format that the name ends in: .webp, .apng, .gif or .mp4.

        Several get ``-0``, ``-1``, … before the suffix. Files that are there are replaced.

        Raises:
            RequestError: there are no PIL pictures, the name ends in something else, or the format has no room for
                their size or for so many frames per second.
            OutputError: a file cannot be written.
        """
        from latentrt.runtime.pictures.clips.clip_file import write_clip
        from latentrt.runtime.pictures.picture_file import numbered_paths

        videos = [frames for frames in self.frames if isinstance(frames, list)]
        if not videos:
            raise RequestError("got a result without PIL pictures, expected output_type='pil'; draw again with it")
        paths = numbered_paths(Path(path), len(videos))
        for target, frames, metadata in zip(paths, videos, self.metadata, strict=True):
            write_clip(target, frames, fps=self.fps, settings_text=metadata.parameters())
        return paths

    def save_latents(self, path: str | Path) -> list[Path]:
        """Writes the latents (N, F, C, H/f, W/f) as one ``.npy`` file.

        Raises:
            OutputError: the file cannot be written.
        """
        save_latents(Path(path), self.latents)
        return [Path(path)]
