"""Where stages leave what others need."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Places:
    """The files of one model below ``work``."""

    work: Path
    model: str

    @property
    def folder(self) -> Path:
        """All of the model's."""
        return self.work / "models" / self.model

    def checkpoint(self, family: str) -> Path:
        """Its random weights, in a folder that is called after the family."""
        return self.folder / family

    def bundle(self, precision: str, backend: str, batch: int = 1) -> Path:
        """Its bundle in a precision: one for all backends in floating point, one for each where it is judged there."""
        own = "" if precision in ("fp32", "fp16") else f"-{backend}"
        return self.folder / f"{labelled(precision, batch)}{own}.bundle"

    def engines(self, precision: str, backend: str, batch: int = 1) -> Path:
        """Is there once the bundle has the backend's engines."""
        return self.folder / f"{labelled(precision, batch)}-{backend}.engines"

    def steps(self, precision: str, backend: str) -> Path:
        """Is there once the bundle has the backend's engines of whole steps."""
        return self.folder / f"{precision}-{backend}.steps"

    def lora_engines(self, backend: str) -> Path:
        """Is there once the bundle for LoRAs has the backend's engines."""
        return self.folder / f"fp16-{backend}-loras.engines"

    def lora_bundle(self, backend: str) -> Path:
        """Its bundle in fp16 with engines of its own, which take LoRAs."""
        return self.folder / f"fp16-{backend}-loras.bundle"


def labelled(precision: str, batch: int) -> str:
    """A precision with the batch of its engines, where that is more than one picture."""
    return precision if batch == 1 else f"{precision}-x{batch}"
