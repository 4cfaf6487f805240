"""Clips, each on disk before the next begins."""

from typing import Any

from latentrt.cli.drawing.batches import Written


class WrittenClips(Written):
    """Writes videos as clips and says where, as ``Written`` does with pictures."""

    noun, encoded = "video", "image"

    def _write_pictures(self, result: Any) -> None:
        from latentrt.runtime.pictures.clips.clip_file import write_clip

        for frames, metadata in zip(result.frames, result.metadata, strict=True):
            path = self._place(len(self._told))
            write_clip(path, frames, fps=result.fps, settings_text=metadata.parameters())
            self._tell(path, metadata)
