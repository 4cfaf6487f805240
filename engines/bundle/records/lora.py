"""What a bundle says of a LoRA that became a part of its weights."""

from latentrt.engines.bundle.records.record import Record


class LoraRecord(Record):
    """A LoRA's name, its file or folder with a SHA-256, and how much of it was added to U-Net and text encoders."""

    name: str
    file: str
    sha256: str
    weight: float
    text_weight: float

    def __str__(self) -> str:
        """The name and the weights: ``style 0.8``, or ``style 0.8/0.4`` where the text encoders have another one."""
        text = "" if self.text_weight == self.weight else f"/{self.text_weight:g}"
        return f"{self.name} {self.weight:g}{text}"
