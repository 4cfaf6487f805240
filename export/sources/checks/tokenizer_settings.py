"""Settings of tokenizers and of text encoders that frame prompts otherwise than they are framed here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.export.sources.checks.library_settings import is_number
from latentrt.export.sources.family import Family
from latentrt.export.sources.folder.folder import read_json

_CLIPS_END, _OLD_END = 49407, 2  # CLIPTextConfig's default, and what it was before transformers 4.31


def framing_faults(
    family: Family, configs: Mapping[str, Mapping[str, Any]], tokenizers: Mapping[str, Path]
) -> list[str]:
    """Prompts of another length, filled up or cut on the left, or pooled at another token than they end with.

    Args:
        family: whose text encoders are looked at.
        configs: of the parts.
        tokenizers: the folder of each tokenizer.

    Raises:
        CheckpointError: a config that is not readable.
        BundleError: a tokenizer that is not.
    """
    faults = []
    for row in family.text_encoders:
        if row.part not in configs or row.tokenizer not in tokenizers:
            continue
        file = tokenizers[row.tokenizer] / "tokenizer_config.json"
        stated = read_json(file) if file.is_file() else {}
        length, positions = stated.get("model_max_length"), configs[row.part].get("max_position_embeddings")
        if is_number(length) and is_number(positions) and length < positions:
            faults.append(
                f"{row.tokenizer}/{file.name} has model_max_length {length}, expected {positions}, the length that "
                f"{row.part} was made for"
            )
        faults += [
            f"{row.tokenizer}/{file.name} has {key} {stated[key]!r}, expected 'right'"
            for key in ("padding_side", "truncation_side")
            if stated.get(key) not in (None, "right")
        ]
        # 2 is what old configs say; transformers then takes the highest id there is
        end = configs[row.part].get("eos_token_id", _CLIPS_END)
        if row.pooled and end != _OLD_END:
            ends = tokenizer_from_folder(tokenizers[row.tokenizer]).eos_id
            if end != ends:
                faults.append(
                    f"{row.part}/config.json has eos_token_id {end!r}, expected {ends}, the tokenizer's, or 2"
                )
    return faults
