"""Pictures drawn in batches: each is on disk before the next begins, and what ends the work early costs no picture."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from latentrt.cli.outputs import LATENTS, Picture
from latentrt.cli.terminal import print_json, say, tell
from latentrt.engines.errors import LatentrtError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures that one call draws: those from the ``first`` on, of ``total``."""

    pictures: Sequence[Picture]
    first: int
    total: int

    @property
    def prompts(self) -> list[str]:
        """What to draw."""
        return [picture.prompt for picture in self.pictures]

    @property
    def seeds(self) -> list[int]:
        """The seed of each."""
        return [picture.seed for picture in self.pictures]

    @property
    def label(self) -> str:
        """What a progress bar says."""
        last = self.first + len(self.pictures)
        if self.total == 1:
            return "denoising"
        span = f"{last}" if last == self.first + 1 else f"{self.first + 1} to {last}"
        return f"picture{'s' * (len(self.pictures) > 1)} {span} of {self.total}"

    def of(self, items: Any) -> Any:
        """Those of as many items as there are pictures in all that are this batch's; one item is for all."""
        return items if len(items) == 1 else items[self.first : self.first + len(self.pictures)]


def batches(pictures: Sequence[Picture], size: int, sets: Sequence[Any] | None = None) -> Iterator[Batch]:
    """The pictures, ``size`` at a time.

    Args:
        pictures: all.
        size: how many a batch has at most.
        sets: the LoRAs that each picture's prompt asks for; those of a batch are the same.
    """
    first = 0
    while first < len(pictures):
        end = min(first + size, len(pictures))
        if sets is not None:
            end = next((index for index in range(first, end) if sets[index] != sets[first]), end)
        yield Batch(pictures=pictures[first:end], first=first, total=len(pictures))
        first = end


def pictures_at_once(profiles: Sequence[Any], size: tuple[int | None, int | None]) -> int:
    """How many pictures of a size a profile takes in one call; of the first profile's without one."""
    return next((one.batch for one in profiles if size in ((one.width, one.height), (None, None))), 1)


class Written:
    """Writes what was drawn and says where; as a context manager it says how far it came if the work ends early."""

    noun = "picture"
    """What messages call one; JSON has a list of them under its plural."""
    encoded = "prompt"
    """What is encoded before; the timings have it as ``encode_…``."""

    def __init__(self, paths: Sequence[Path], total: int, *, json: bool) -> None:
        """Takes the file of each of ``total`` pictures, or one for the latents of all."""
        self._paths, self._total, self._json = paths, total, json
        self._latents: list[Any] = []
        self._told: list[dict[str, Any]] = []
        self._timings: dict[str, Any] = {}

    def __enter__(self) -> "Written":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says how much is written where the work ended early.

        Raises:
            LatentrtError: the one that ended it, with that in its message.
        """
        done = len(self._told)
        if isinstance(error, KeyboardInterrupt):
            tell(f"interrupted; {done} of {self._total} {self.noun}s are written")
        if error is not None and done and self._json:
            self._print_json(interrupted=True)
        if isinstance(error, LatentrtError) and done:
            raise type(error)(f"{error} ({done} of {self._total} {self.noun}s are written)") from error

    def add(self, result: Any) -> None:
        """Writes a batch.

        Raises:
            OutputError: a file cannot be written.
        """
        for name, value in asdict(result.timings).items():
            self._timings[name] = self._timings[name] + value if name in self._timings else value
        if self._paths[0].suffix.lower() == LATENTS:
            self._write_latents(result)
        else:
            self._write_pictures(result)

    def _write_pictures(self, result: Any) -> None:
        from latentrt.runtime.pictures.picture_file import write_picture

        for image, metadata in zip(result.images, result.metadata, strict=True):
            path = self._place(len(self._told))
            write_picture(path, image, metadata.parameters())
            self._tell(path, metadata)

    def _write_latents(self, result: Any) -> None:
        import numpy as np

        from latentrt.runtime.call.result import save_latents

        together = len(self._paths) == 1
        for latents, metadata in zip(result.latents, result.metadata, strict=True):
            path = self._place(0 if together else len(self._told))
            self._latents = [*(self._latents if together else []), latents]
            save_latents(path, np.stack(self._latents))
            self._tell(path, metadata, line=not together)

    def _place(self, index: int) -> Path:
        """A picture's file; its folder, which only a pattern may lack, is made."""
        from latentrt.engines.files import output_error

        path = self._paths[index]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error
        return path

    def _tell(self, path: Path, metadata: Any, *, line: bool = True) -> None:
        self._told.append({"path": str(path), **asdict(metadata)})
        if line and not self._json:
            say(f"{path}  (seed {metadata.seed})")

    def report(self) -> None:
        """Says how long it took; with JSON, everything."""
        if self._json:
            self._print_json()
            return
        if self._latents and len(self._paths) == 1:
            say(f"{self._paths[0]}  (seed {', '.join(str(told['seed']) for told in self._told)})")
        seconds, count = self._timings, f"{self._total} {self.noun}s in " if self._total > 1 else ""
        say(
            f"{count}{seconds['total']:.2f} s: {self.encoded} {seconds[f'encode_{self.encoded}']:.2f}, "
            f"denoise {seconds['denoise']:.2f}, decode {seconds['decode']:.2f}"
        )

    def _print_json(self, *, interrupted: bool = False) -> None:
        data = {f"{self.noun}s": self._told, "timings": self._timings}
        print_json({**data, "interrupted": True} if interrupted else data)
