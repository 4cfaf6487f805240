"""What takes the place of the objects that checkpoints carry beside their tensors: nothing of them is run or looked up.

Training leaves configurations, callbacks and the like in a checkpoint. Whatever a pickle names there, of whatever
package, becomes an empty class, and an instance of it keeps nothing. Two things are refused by name all the same:
Python's own library, where it is no plain type, because nobody but an attacker stores its functions; and functions of
torch that are called, because they may rebuild tensors of a kind that is not read.
"""

import sys
from typing import Any

from latentrt.engines.tensors.tensor_file import ForeignContentError

_BUILTINS = frozenset(
    {
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object",
        "range", "set", "slice", "str", "tuple", "type", "unicode", "xrange",
    }
)  # fmt: skip
# Modules of Python's own library whose classes hold data, and single ones
_OF_DATA = frozenset({"argparse", "collections", "datetime", "decimal", "fractions", "pathlib", "typing", "uuid"})
_NAMES = frozenset(
    {
        "copy_reg._reconstructor",
        "copyreg._reconstructor",
        "functools.partial",
        "torch.device",
        "types.SimpleNamespace",
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
    """Of what may be named, and made without running anything, but not called: it may be a function."""

    def __call__(cls, *_: object, **__: object) -> Any:
        raise ForeignContentError(cls.__name__)


def stand_in(module: str, name: str) -> type[StandIn]:
    """The stand-in for a name in a pickle.

    Raises:
        ForeignContentError: it is of Python's own library and no plain type.
    """
    full, package = f"{module}.{name}", module.partition(".")[0]
    builtin = module in ("builtins", "__builtin__")
    if full in _NAMES or module in _OF_DATA or (builtin and name in _BUILTINS):
        return type(full, (StandIn,), {})
    if builtin or package in sys.stdlib_module_names or package in ("copy_reg", "nt", "posix"):
        raise ForeignContentError(full)
    return (_Uncalled if package == "torch" else type)(full, (StandIn,), {})
