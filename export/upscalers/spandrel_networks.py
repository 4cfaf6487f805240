"""The networks that spandrel knows: it tells an architecture by the names of its tensors, and makes the torch module.

Files are not given to it: what is read of them is tensors alone (``engines/tensors``).
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from latentrt.engines.errors import CheckpointError

EXPECTED = "an upscaler of RGB pictures that spandrel reads, such as ESRGAN, Real-ESRGAN or SwinIR"
_LARGEST_INDEX = 4096  # of a layer in a name: networks are made with as many
_INDEX = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")
# What two of its architectures import, for inpainting and for faces. No upscaler needs torchvision, which is large, and
# breaks where it is not of torch's own build.
_TORCHVISION = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
_UNUSED = ("InterpolationMode", "rotate", "normalize")
_PURPOSES = {"Inpainting": "inpainting", "FaceSR": "restoring faces"}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its weights.

    Attributes:
        module: torch's, in fp32 and for inference: (B, 3, H, W) in [0, 1] to (B, 3, H · scale, W · scale).
        architecture: spandrel's name of it.
        detail: what spandrel tells of its size, such as "64nf, 23nb".
        scale: how many pixels a side of one becomes.
        multiple: what the sides of pictures must be multiples of.
        smallest: the shortest side of a picture.
    """

    module: Any
    architecture: str
    detail: str
    scale: int
    multiple: int
    smallest: int


def knows(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether spandrel has an architecture with tensors of these names. Loads torch.

    Raises:
        CheckpointError: spandrel is not installed.
    """
    import torch

    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return _architecture(_spandrel(), state) is not None


def network_from_tensors(source: str, tensors: Mapping[str, Any]) -> Network:
    """The network of a state dict.

    Args:
        source: how messages call the file.
        tensors: torch's, by name.

    Raises:
        CheckpointError: spandrel is not installed, knows no such network, or one that is no upscaler of RGB pictures.
    """
    spandrel = _spandrel()
    deep = next((name for name in tensors if any(int(i) > _LARGEST_INDEX for i in _INDEX.findall(name))), None)
    if deep is not None:
        raise _refused(source, f"with a tensor {deep[:80]!r}, whose number no network has", "download it again")
    architecture = _architecture(spandrel, tensors)
    if architecture is None:
        first = ", ".join(list(tensors)[:3])
        raise _refused(source, f"which spandrel does not know (its first tensors are {first})", "choose another")
    try:
        found = architecture.load(dict(tensors))
    except Exception as error:  # whatever reading shapes out of names can raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        kind = f"an upscaler that is incomplete, or of a form of {architecture.name} that is not read ({reason})"
        raise _refused(source, kind, "choose another") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose not in ("SR", "Restoration"):
        raise _refused(source, f"a network for {_PURPOSES.get(found.purpose, found.purpose)}", "choose an upscaler")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise _refused(
            source, f"a network of {found.input_channels} channels in and {found.output_channels} out", "choose another"
        )
    sizes = found.size_requirements
    if sizes.square or not _calls_the_module(found):
        raise _refused(source, f"a network ({architecture.name}) that takes more than a picture", "choose another")
    module = found.model.eval().float()
    for layer in module.modules():
        if hasattr(layer, "update_params"):  # SPAN merges its convolutions anew in every run, which no tracer survives
            layer.update_params()
            layer.update_params = _nothing
    return Network(
        module=module,
        architecture=str(architecture.name),
        detail=", ".join(found.tags),
        scale=int(found.scale),
        multiple=int(sizes.multiple_of),
        smallest=max(int(sizes.minimum), 1),
    )


def _nothing() -> None:
    """What is done already."""


def _architecture(spandrel: Any, state: Mapping[str, Any]) -> Any:
    for row in spandrel.MAIN_REGISTRY.architectures("detection"):
        with suppress(Exception):  # of names that one of its own has, too, and shapes that none has
            if row.detect(dict(state)):
                return row.architecture
    return None


def _calls_the_module(found: Any) -> bool:
    """Whether spandrel gives a picture to the module as it is, and takes what comes back."""
    import torch

    class Told(torch.nn.Module):
        def forward(self, picture: Any) -> Any:
            return picture

    given = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        try:
            taken = found._call_fn(Told(), given)
        except Exception:  # it wants more of the module
            return False
    return isinstance(taken, torch.Tensor) and torch.equal(taken, given)


def _spandrel() -> Any:
    """The package.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        with _without_torchvision():
            import spandrel
    except ImportError as error:
        raise CheckpointError(
            f"an upscaler's weights are read with spandrel, and the package {error.name} is not installed; install "
            "latentrt[upscale]"
        ) from error
    return spandrel


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """A context in which names of torchvision can be imported, and stand for nothing, where it is not loaded."""
    if "spandrel" in sys.modules or "torchvision" in sys.modules:
        yield
        return
    for name in _TORCHVISION:
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
        for unused in _UNUSED:
            setattr(module, unused, None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in _TORCHVISION:
            del sys.modules[name]


def _refused(source: str, kind: str, advice: str) -> CheckpointError:
    return CheckpointError(f"got {source!r}, {kind}, expected {EXPECTED}; {advice}")
