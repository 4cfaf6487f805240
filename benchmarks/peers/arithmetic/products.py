"""How many products a U-Net computes in each type. The standard library alone, as it is read in every environment."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

# The types by the names that PyTorch, ONNX Runtime and OpenVINO have for them
_TYPES = {
    "float": "fp32", "f32": "fp32", "c10::bfloat16": "bf16", "bfloat16": "bf16", "bf16": "bf16",
    "c10::half": "fp16", "float16": "fp16", "f16": "fp16", "int8": "int8", "uint8": "int8", "i8": "int8",
    "double": "fp64",
}  # fmt: skip


def told(types: Iterable[str], source: str) -> dict[str, Any]:
    """A worker's answer: products by type, the type of most of them first, and what told them.

    Raises:
        RuntimeError: there are none, so that nothing was told.
    """
    counted = Counter(_TYPES.get(name.lower(), name.lower()) for name in types)
    if not counted:
        raise RuntimeError(f"{source} names no product")
    return {"products": dict(counted.most_common()), "source": source}
