"""What callers hold numbers in: NumPy's arrays, torch's tensors, and what else NumPy can read."""

from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array


def is_array(value: Any) -> bool:
    """Whether it has a shape: NumPy's arrays have one, and so have the tensors of other packages."""
    return hasattr(value, "ndim") and hasattr(value, "shape")


def is_tensor(value: Any) -> bool:
    """Whether it is one of torch's, whose pictures have their channels first. torch is not imported for it."""
    return is_array(value) and hasattr(value, "detach")


def as_array(value: Any, name: str) -> Array:
    """NumPy's array of what holds numbers; torch's tensors may lie on any device and take part in a gradient.

    Raises:
        RequestError: NumPy cannot read it.
    """
    try:
        if not is_tensor(value):
            return np.asarray(value)
        tensor = value.detach().cpu()
        try:
            return np.asarray(tensor)
        except TypeError:  # bfloat16, which NumPy lacks
            return np.asarray(tensor.float())
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"cannot read {name} ({type(value).__name__}: {str(error)[:200]}), expected a NumPy array or a torch "
            "tensor; convert it"
        ) from error
