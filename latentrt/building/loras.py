"""LoRAs that a build fuses into the weights: recorded, read for the model, and turned into changes."""

from collections.abc import Mapping, Sequence

from latentrt.arguments.loras import LoraArgument
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.manifests.manifest import LoraRecord
from latentrt.engines.changes import Changes
from latentrt.runtime.adapters.adapter import ModelWeights
from latentrt.runtime.adapters.formats.files import adapter_from_path
from latentrt.runtime.adapters.formats.stored import open_adapter
from latentrt.runtime.adapters.lora_set import LoraSet

LORAS = "loras"
"""The decision that lists them."""


def lora_records(loras: Sequence[LoraArgument]) -> tuple[LoraRecord, ...]:
    """What a bundle says of them; the files are hashed, and their headers read.

    Raises:
        RequestError: one that is damaged or no file of tensors.
    """
    return tuple(map(_record, loras))


def _record(lora: LoraArgument) -> LoraRecord:
    stored = open_adapter(lora.path.absolute())
    sha256, _ = stored.digests()
    return LoraRecord(
        name=lora.name, file=stored.name, sha256=sha256, weight=lora.strength.unet, text_weight=lora.strength.text
    )


def loras_decision(records: Sequence[LoraRecord]) -> dict[str, DecisionRecord]:
    """A line on the LoRAs among a build's decisions, where there are some."""
    if not records:
        return {}
    files = ", ".join(record.file for record in records)
    return {LORAS: DecisionRecord(value=", ".join(map(str, records)), reason=f"{files}, fused into the weights")}


def changes_from_loras(loras: Sequence[LoraArgument], model: ModelWeights, base: str) -> Mapping[str, Changes]:
    """What the LoRAs change, by component; components that they leave as they are are left out.

    Args:
        loras: files and strengths.
        model: the shapes of the model's weights.
        base: what the model is, for messages.

    Raises:
        RequestError: a file that is damaged, no LoRA, or one for another model.
    """
    together = LoraSet(
        tuple((adapter_from_path(lora.path.absolute(), lora.name, model, base), lora.strength) for lora in loras)
    )
    changes = {component: together.changes(component) for component in model}
    return {component: change for component, change in changes.items() if change is not None}
