"""What is added to a pipeline's model: textual inversions and LoRAs that were loaded, add-ons and upscalers that calls
opened."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.errors import RequestError
from latentrt.engines.forks import watch_forks
from latentrt.engines.precision import Backend
from latentrt.runtime.call.workflow import check_reads_text
from latentrt.runtime.prompts.text_encoder import TextEncoder, text_encoders_from_bundle
from latentrt.runtime.prompts.textual_inversion import TextualInversions

if TYPE_CHECKING:
    from latentrt.runtime.adapters.loaded import LoadedLora, LoadedLoras
    from latentrt.runtime.addons.addon import OpenAddons
    from latentrt.runtime.opened_bundle import BundlesByPath
    from latentrt.runtime.serving.lanes.line import Line
    from latentrt.runtime.upscaling.upscaler import Upscaler

Loaded = tuple[tuple[TextualInversions, ...], "LoadedLoras | None"]
"""What goes along with a pickled pipeline: the textual inversions of each text encoder, and the LoRAs."""


class Additions:
    """Thread-safe: what changes is put in place at once, and a call goes on with what it took as it began.

    Attributes:
        text_encoders: the model's, with the textual inversions that are loaded.
        loras: those that are loaded; None where none ever was.
    """

    def __init__(self, bundle: Bundle, backend: Backend, *, threads: int | None, line: "Line | None" = None) -> None:
        """Holds nothing yet.

        Args:
            bundle: the model's.
            backend: on which add-ons will be opened that are named by their paths.
            threads: of a call on the CPU; None takes one per core.
            line: where the engines of add-ons will wait with the model's; None: they do not.
        """
        self._bundle, self._backend, self._threads, self._line = bundle, backend, threads, line
        self.text_encoders: tuple[TextEncoder, ...] = text_encoders_from_bundle(bundle)
        self.loras: LoadedLoras | None = None
        self._addons: OpenAddons | None = None
        self._upscalers: BundlesByPath[Upscaler] | None = None
        self._lock = Lock()
        watch_forks(self)

    def after_fork(self) -> None:
        """Called in a forked process, where whoever was loading is not there."""
        self._lock = Lock()

    @property
    def addons(self) -> "OpenAddons":
        """The add-ons that calls named by their paths."""
        with self._lock:
            if self._addons is None:
                from latentrt.runtime.addons.addon import OpenAddons  # loaded by those who use it

                self._addons = OpenAddons(self._bundle, self._backend, threads=self._threads, line=self._line)
            return self._addons

    @property
    def upscalers(self) -> "BundlesByPath[Upscaler]":
        """The upscalers that calls named by their paths."""
        with self._lock:
            if self._upscalers is None:
                from latentrt.runtime.opened_bundle import BundlesByPath  # loaded by those who use it
                from latentrt.runtime.upscaling.upscaler import upscaler_from_path

                opens = partial(upscaler_from_path, backend=self._backend, threads=self._threads)
                self._upscalers = BundlesByPath(opens)
            return self._upscalers

    def load_textual_inversion(
        self, paths: str | Path | Sequence[str | Path], token: str | Sequence[str] | None
    ) -> tuple[str, ...]:
        """As ``Pipeline.load_textual_inversion``."""
        check_reads_text(self._bundle.manifest, "a textual inversion")
        with self._lock:
            known = len(self.text_encoders[0].inversions.loaded)
            self.text_encoders = tuple(encoder.with_loaded(paths, token) for encoder in self.text_encoders)
            return tuple(inversion.trigger for inversion in self.text_encoders[0].inversions.loaded[known:])

    def unload_textual_inversion(self, token: str | Sequence[str] | None) -> None:
        """As ``Pipeline.unload_textual_inversion``."""
        if token is not None:
            check_reads_text(self._bundle.manifest, "a textual inversion")
        with self._lock:
            self.text_encoders = tuple(encoder.without(token) for encoder in self.text_encoders)

    def load_lora(self, path: str | Path, name: str | None) -> "LoadedLora":
        """As ``Pipeline.load_lora``; the LoRA comes back."""
        if self._bundle.manifest.conditioning.task is Task.VIDEOS:
            raise RequestError(
                "got a LoRA with a model that draws videos, whose call names none, expected one in its weights; fuse "
                "it into a bundle: latentrt build BUNDLE --lora FILE -o DIR"
            )
        from latentrt.runtime.adapters.loaded import no_loras  # loaded by those who use it

        with self._lock:
            loras = no_loras(self._bundle) if self.loras is None else self.loras
            self.loras, lora = loras.with_loaded(path, name)
        return lora

    def unload_lora(self, name: str | Sequence[str] | None) -> None:
        """As ``Pipeline.unload_lora``."""
        with self._lock:
            if name is None:
                self.loras = None
            elif self.loras is None:
                from latentrt.runtime.adapters.loaded import unknown_lora

                raise unknown_lora(name, ())
            else:
                self.loras = self.loras.without(name)

    @property
    def loaded(self) -> Loaded:
        """What goes along with a pickled pipeline; add-ons are opened again where they are named."""
        return tuple(encoder.inversions for encoder in self.text_encoders), self.loras

    def take(self, loaded: Loaded) -> None:
        """Takes what came along with a pickled pipeline.

        Raises:
            RequestError: it is for another model.
        """
        inversions, loras = loaded
        if len(self.text_encoders) != len(inversions):
            raise RequestError(
                f"got a pipeline of a model with {len(inversions)} text encoders, and the bundle here has "
                f"{len(self.text_encoders)}; bring the same bundle here"
            )
        if loras is not None:
            from latentrt.runtime.adapters.loaded import no_loras

            if no_loras(self._bundle).model != loras.model:
                raise RequestError(
                    "got a pipeline with LoRAs for another model than the bundle here; bring the same bundle here"
                )
        self.text_encoders = tuple(
            encoder.with_inversions(own) for encoder, own in zip(self.text_encoders, inversions, strict=True)
        )
        self.loras = loras

    def close(self) -> None:
        """Closes the add-ons and upscalers that it opened."""
        if self._addons is not None:
            self._addons.close()
        if self._upscalers is not None:
            self._upscalers.close()
