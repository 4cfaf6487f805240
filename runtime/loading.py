"""What is loaded into a pipeline: textual inversions and LoRAs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions

if TYPE_CHECKING:
    from latentrt.engines.store.changed_models import ChangedModels
    from latentrt.runtime.adapters.loaded import LoadedLora


class Loading:
    """The part of a pipeline that loads and forgets. A call takes what is there as it begins."""

    _components: Engines
    _additions: Additions

    def load_textual_inversion(
        self, paths: str | Path | Sequence[str | Path], token: str | Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """Loads embedding files; what they taught stands in prompts for their triggers from the next call on.

        Args:
            paths: one file or several: safetensors, ``.pt`` or ``.bin`` of InvokeAI, diffusers or A1111. A model with
                several text encoders wants vectors for each of them in a file (``clip_l`` and ``clip_g``).
            token: the trigger instead of the file's own; for several files one each. For one file also a list: a
                trigger for each of the embeddings in it, or for each vector of its only one.

        Returns:
            The triggers. ``<name>`` is matched as it stands, ``name`` as a word and as ``<name>``.

        Raises:
            RequestError: a file that is damaged or not for this model, or a trigger that is taken.
        """
        return self._additions.load_textual_inversion(paths, token)

    def unload_textual_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Forgets the textual inversions of these triggers; None forgets all.

        Raises:
            RequestError: a trigger that is not loaded.
        """
        self._additions.unload_textual_inversion(token)

    def load_lora(self, path: str | Path, name: str | None = None) -> str:
        """Loads a LoRA or a relative of it, for calls that name it: ``pipe("a cat", loras={"style": 0.8})``.

        Args:
            path: safetensors or a torch pickle, in the formats of kohya, diffusers, PEFT, InvokeAI and LyCORIS; or a
                folder, as PEFT and InvokeAI write it.
            name: what it will be called, instead of its file's name.

        Returns:
            Its name.

        Raises:
            RequestError: a file that is damaged or not for this model, or a name that is taken.
        """
        return self._additions.load_lora(path, name).name

    def unload_lora(self, name: str | Sequence[str] | None = None) -> None:
        """Forgets the LoRAs of these names; None forgets all.

        Raises:
            RequestError: a name that is not loaded.
        """
        self._additions.unload_lora(name)

    @property
    def loras(self) -> "tuple[LoadedLora, ...]":
        """What is loaded: names, files, hashes, trigger words, and which are made for few steps."""
        loras = self._additions.loras  # another thread may unload them
        return () if loras is None else tuple(loras.by_name.values())

    @property
    def lora_cache(self) -> "ChangedModels":
        """The models that were changed by LoRAs and are kept: how many may be, and their memory."""
        return self._components.changed_models
