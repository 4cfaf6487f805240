"""What takes the place of the objects that checkpoints carry beside their tensors: nothing of them is run or looked up.

Training leaves configurations, callbacks and the like in a checkpoint. A class of whatever package becomes an empty
class; an instance of it keeps nothing. Calling is another matter: a pickle that calls what is no class of a package
that is known to leave such things is refused, and so is all of Python's own library that is no plain type.
"""

import sys
from typing import Any

from latentrt.engines.tensors.tensor_file import ForeignContentError

# Packages of which a pickle may call classes and constructors: they leave enums, dates, metrics, configurations
_CALLABLE = frozenset(
    {
        "argparse", "datetime", "easydict", "hydra", "lightning", "lightning_fabric", "lightning_utilities",
        "ml_collections", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "torchmetrics", "typing",
    }
)  # fmt: skip
_BUILTINS = frozenset(
    {
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object",
        "range", "set", "slice", "str", "tuple", "type", "unicode", "xrange",
    }
)  # fmt: skip
_NAMES = frozenset(
    {
        "collections.Counter",
        "collections.deque",
        "decimal.Decimal",
        "fractions.Fraction",
        "torch.device",
        "types.SimpleNamespace",
        "uuid.UUID",
    }
)


class StandIn:
    """Takes whatever an unpickler does to an object, and keeps none of it; its class has the name in the pickle."""

    def __new__(cls, *_: object, **__: object) -> "StandIn":
        """Made without arguments, whatever they are."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Of lists that are more than lists."""

    def extend(self, values: object) -> None:
        """Of lists that are more than lists."""

    def add(self, value: object) -> None:
        """Of sets that are more than sets."""


class _Uncalled(type):
    """Of classes that may be named, and made without running anything, but not called: it may be a function."""

    def __call__(cls, *_: object, **__: object) -> Any:
        raise ForeignContentError(cls.__name__)


def stand_in(module: str, name: str) -> type[StandIn]:
    """The stand-in for a name in a pickle.

    Raises:
        ForeignContentError: it is of Python's own library and no plain type.
    """
    full, package = f"{module}.{name}", module.partition(".")[0]
    builtin = module in ("builtins", "__builtin__") and name in _BUILTINS
    if builtin or package in _CALLABLE or full in _NAMES:
        return type(full, (StandIn,), {})
    if package in sys.stdlib_module_names or package in ("__builtin__", "copy_reg", "nt"):
        raise ForeignContentError(full)
    return _Uncalled(full, (StandIn,), {})
