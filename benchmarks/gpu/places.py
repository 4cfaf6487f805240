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

    def graphs(self, name: str) -> Path:
        """A bundle without engines: of a precision, and for one backend where it is made for that."""
        return self.folder / "graphs" / f"{name}.bundle"

    def drawn(self, peer: str) -> Path:
        """A picture that a peer drew."""
        return self.folder / f"{peer}.npy"

    def group(self, precision: str, backend: str) -> Path:
        """What one backend draws with in a precision; removed when all of that is measured."""
        return self.folder / f"{precision}-{backend}"

    def bundle(self, precision: str, backend: str, batch: int = 1) -> Path:
        """A bundle for so many pictures at the size that is drawn."""
        return self.group(precision, backend) / f"x{batch}.bundle"

    def lora_bundle(self, backend: str) -> Path:
        """Its bundle in fp16 with engines of its own, which take LoRAs."""
        return self.group("fp16", backend) / "loras.bundle"

    @staticmethod
    def engines(bundle: Path, part: str) -> Path:
        """Is there once a bundle has the engines of a part."""
        return bundle.with_name(f"{bundle.stem}-{part}.engines")


def labelled(name: str, batch: int) -> str:
    """A name with the batch of its pictures, where that is more than one."""
    return name if batch == 1 else f"{name}-x{batch}"
