"""Checkpoints of real training: what lies beside the tensors is passed over, arrays are data, and nothing runs."""

import argparse
import datetime
import enum
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from latentrt.engines.tensors.tensor_file import TensorFileError, open_tensor_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


@dataclass
class Settings:
    """A structured config, whose class only its author has."""

    rate: float = 1e-4
    name: str = "tuned"
    sizes: list[int] = field(default_factory=lambda: [512, 768])
    more: dict[str, int] = field(default_factory=lambda: {"a": 1})


class Mode(enum.Enum):
    """An enum of the author's own."""

    TRAIN = "train"


class Watched:
    """An object that would leave a file where it is rebuilt."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["mark"]).write_text("rebuilt")


class AttributeDict(dict[str, Any]):
    """As PyTorch Lightning keeps hyperparameters."""


class Listing(list[Any]):
    """A list that is more than one."""


def lightning_class(name: str) -> type:
    """A class of PyTorch Lightning, which is not installed."""
    module, _, bare = name.rpartition(".")
    kind = type(bare, (), {"__module__": module})
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    setattr(sys.modules[module], bare, kind)
    return kind


CONFIG = OmegaConf.create(
    {
        "model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {"base_learning_rate": 1e-4}},
        "data": [1, 2.5, "text", None, True, {"path": Path("/data")}],
        "same": "${model.target}",
        "raw": b"bytes",
    }
)
IDLE: dict[str, Callable[[], Any]] = {
    "OmegaConf": lambda: CONFIG,
    "a structured config": lambda: OmegaConf.structured(Settings),
    "a config inside a dictionary": lambda: {"config": CONFIG, "model": OmegaConf.structured(Settings())},
    "a dictionary of Lightning's": lambda: AttributeDict(rate=1e-4, config=CONFIG),
    "a namespace": lambda: argparse.Namespace(rate=1e-4, mode=Mode.TRAIN, out=Path("/out")),
    "callbacks": lambda: {
        lightning_class("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"): {
            "best_model_score": torch.tensor(0.1),
            "best_k_models": {},
            "score": np.float32(0.5),
        }
    },
    "NumPy": lambda: [np.float64(1), np.int64(3), np.arange(3), np.array(["a", "b"]), np.random.RandomState(0)],
    "dates and numbers": lambda: [datetime.datetime.now(), datetime.timedelta(1), Decimal("1.5"), complex(1, 2)],
    "containers": lambda: [{1, 2}, frozenset([1]), deque([1]), Counter("aab"), slice(1), range(3), bytearray(b"a")],
    "more than containers": lambda: [Listing([1, 2]), OrderedDict(a=1), defaultdict(list, a=[1]), SimpleNamespace(a=1)],
    "functions by name": lambda: [partial(print_nothing, 1), print_nothing],
    "a module": lambda: torch.nn.MSELoss(),
    "objects of the author's own": lambda: [Settings(), Mode.TRAIN],
}


def print_nothing(*_: object) -> None:
    """A function of the author's own."""


@pytest.mark.parametrize("kind", IDLE)
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
def test_what_training_leaves_is_passed_over(kind: str, archive: bool, tmp_path: Path) -> None:
    """In ``hyper_parameters`` and elsewhere; tensors and numbers beside it are read."""
    checkpoint = {
        "epoch": 3,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": OrderedDict(TENSORS),
        "optimizer_states": [{"state": {0: {"step": 5, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [defaultdict(dict, last_epoch=3)],
        "hyper_parameters": IDLE[kind](),
    }
    torch.save(checkpoint, tmp_path / "last.ckpt", _use_new_zipfile_serialization=archive)
    file = open_tensor_file(tmp_path / "last.ckpt")
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(file.tensors[name].array(), tensor.numpy())
    assert file.numbers["global_step"] == 470000


def test_an_object_is_not_rebuilt(tmp_path: Path) -> None:
    """torch would, where it is let; here its class is not even looked up."""
    mark = tmp_path / "mark"
    torch.save({"state_dict": TENSORS, "object": Watched(mark)}, tmp_path / "last.ckpt")
    assert open_tensor_file(tmp_path / "last.ckpt").tensors.keys() == TENSORS.keys()
    assert not mark.exists()
    torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert mark.exists()


class Calls:
    """Asks for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Calls(getattr, "text", "upper"),
        Calls(__import__, "os"),
        Calls(sys.exit),
        Calls(torch.zeros, 3),
        Calls(torch.hub.list, "x/y"),
        Calls(partial, Calls(getattr, "a", "b")),
    ],
    ids=["getattr", "import", "exit", "a function of torch's", "torch.hub", "inside an idle object"],
)
def test_calls_are_refused_by_name(call: Calls, tmp_path: Path) -> None:
    """Functions of Python and of torch, wherever they are called."""
    torch.save({"state_dict": TENSORS, "hyper_parameters": AttributeDict(a=call)}, tmp_path / "last.ckpt")
    with pytest.raises(TensorFileError, match=r"holds [\w.]+, expected tensors and plain containers only; nothing"):
        open_tensor_file(tmp_path / "last.ckpt")


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
def test_parameters_in_a_module_of_their_own(archive: bool, tmp_path: Path) -> None:
    """``ParameterDict``, in which textual inversions of the first hour lie, is a dictionary."""
    content = {"string_to_token": {"*": 265}, "string_to_param": torch.nn.ParameterDict({"*": torch.ones(2, 3)})}
    torch.save(content, tmp_path / "embedding.pt", _use_new_zipfile_serialization=archive)
    file = open_tensor_file(tmp_path / "embedding.pt")
    assert file.tensors["string_to_param.*"].array().tolist() == [[1.0] * 3] * 2
    assert isinstance(file.tree["string_to_param"], dict)


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i8", "u1", "bool"])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
def test_arrays_are_data(dtype: str, archive: bool, tmp_path: Path) -> None:
    """In both orders of the axes, and of no size."""
    rows = np.arange(6).reshape(2, 3).astype(dtype)
    arrays = {"rows": rows, "columns": np.asfortranarray(rows), "one": rows[0, 0:1], "none": rows[:0]}
    torch.save(
        {**arrays, "same": rows, "tensor": torch.ones(1)}, tmp_path / "a.pt", _use_new_zipfile_serialization=archive
    )
    file = open_tensor_file(tmp_path / "a.pt")
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.tensors[name].array(), array)
        assert file.tensors[name].array().dtype == array.dtype


def test_arrays_of_what_is_not_read_are_empty(tmp_path: Path) -> None:
    """Objects, texts, and numbers in the other byte order."""
    arrays = {"objects": np.array([{}, None]), "texts": np.array(["a"]), "big": np.ones(3, ">f4")}
    torch.save(arrays, tmp_path / "a.pt")
    assert all(tensor.shape == (0,) for tensor in open_tensor_file(tmp_path / "a.pt").tensors.values())
