"""Keys of trainers' files, taken apart: the module that a tensor is for, and which of the module's tensors it is.

The names of tensors are those of ``LEAVES``. diffusers and PEFT have others for the same: ``lora_A``, ``lora.down`` and
``lora_linear_layer.down`` are ``lora_down``; the oldest files of diffusers join the module's name to it
(``to_q_lora.down``). PEFT may put an adapter's name in between (``lora_A.default.weight``).
"""

import re
from collections.abc import Iterable, Set
from typing import NamedTuple

from latentrt.runtime.adapters.formulas.leaves import LEAVES


class Key(NamedTuple):
    """A key taken apart: the module as it is spelled there, the tensor's name in ``LEAVES``, PEFT's adapter name."""

    module: str
    leaf: str
    adapter: str | None = None


_SAME = {"lora_A": "lora_down", "lora_B": "lora_up", "down": "lora_down", "up": "lora_up", "mid": "lora_mid"}
_PEFT = ("lora_A", "lora_B", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B", "ia3_l")
_WITH_WEIGHT = "lora_A|lora_B|lora_down|lora_up|lora_mid|lora_magnitude_vector|dora_scale|[ab][12]|bm"
_BARE = "|".join(sorted({leaf for leaf in LEAVES if "." not in leaf} - {"weight", "set_weight", "set_bias"}, key=len))
_NAMED = "|".join((*_PEFT, *(leaf for leaf in LEAVES if leaf.startswith(("hada_", "lokr_")))))
_FORMS = (
    re.compile(rf"(?P<module>.+)\.(?P<leaf>{_WITH_WEIGHT})(?:\.(?P<adapter>[^.]+))?\.(?P<end>weight|bias)"),
    re.compile(rf"(?P<module>.+)\.(?P<leaf>{_BARE}|lora_A|lora_B)"),
    re.compile(r"(?P<module>.+?)(?:\.lora|\.lora_linear_layer|_lora)\.(?P<leaf>down|up|mid)\.(?P<end>weight)"),
    re.compile(rf"(?P<module>.+)\.(?P<leaf>{_NAMED})\.(?P<adapter>[^.]+)"),
    re.compile(r"(?P<module>.+)\.modules_to_save(?:\.(?P<adapter>[^.]+))?\.(?P<leaf>weight|bias)"),
)


def split_key(key: str) -> Key | None:
    """Takes a key apart; None for one that is no adapter's by its end.

    Of a plain ``weight`` or ``bias`` only its company can say what it is (``split_keys``).
    """
    for form in _FORMS:
        match = form.fullmatch(key)
        if match is None:
            continue
        groups = match.groupdict()
        leaf, end = groups["leaf"], groups.get("end")
        if leaf in ("weight", "bias"):
            leaf = f"set_{leaf}"
        else:
            leaf = _SAME.get(leaf, leaf)
            # Some write magnitudes as a parameter, and some as a module's weight
            leaf = leaf if leaf in LEAVES else f"{leaf}.{end or 'weight'}"
        return Key(groups["module"], leaf, groups.get("adapter")) if leaf in LEAVES else None
    return None


def split_keys(keys: Iterable[str], replaced: Set[str] = frozenset(), biases: bool = False) -> dict[str, Key | None]:
    """Takes all keys of a file apart.

    A module's ``weight`` beside an ``on_input`` is (IA)³'s. Where PEFT's config says that modules were trained whole,
    their weights and biases are new values.

    Args:
        keys: the file's.
        replaced: names or ends of names of modules that were trained whole.
        biases: whether biases were.

    Returns:
        By key; None for those that are no adapter's.
    """
    split = {key: split_key(key) for key in keys}
    scaled = {key.module for key in split.values() if key is not None and key.leaf == "on_input"}
    for key, known in split.items():
        module, _, end = key.rpartition(".")
        if known is not None or end not in ("weight", "bias"):
            continue
        if end == "weight" and module in scaled:
            split[key] = Key(module, "weight")
        elif (end == "bias" and biases) or any(module == name or module.endswith(f".{name}") for name in replaced):
            split[key] = Key(module, f"set_{end}")
    return split
