"""Whatever stands in a file that the engines' room reads: a sentence of ours, or its content. Bounded runs."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import damaged, documents, fuzzed, refused_in_a_sentence
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checks.probes import read_probes
from latentrt.engines.bundle.records.named_weights import read_named_weights
from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.engines.errors import BundleError
from latentrt.engines.store.store import engines_in, read_engine
from latentrt.engines.tensors.tensor_file import TensorFileError, open_tensor_file

pytestmark = pytest.mark.slow


def saved(tree: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(tree, file, **options)
    return file.getvalue()


TREE = {
    "state_dict": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)},
    "global_step": 7,
    "array": np.arange(3),
    "more": torch.nn.ParameterDict({"*": torch.ones(1, 2)}),
}
SAFETENSORS = save({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16)}, metadata={"format": "pt"})
HEADER = json.loads(SAFETENSORS[8 : 8 + int.from_bytes(SAFETENSORS[:8], "little")])
ARCHIVE = saved(TREE)
STREAM = saved(TREE, _use_new_zipfile_serialization=False)


def read_all(path: Path) -> None:
    """Opens a file of tensors and reads whatever it holds."""
    with refused_in_a_sentence(TensorFileError):
        file = open_tensor_file(path)
        file.numbers  # noqa: B018
        for tensor in file.tensors.values():
            tensor.array()


@fuzzed(400)
@given(header=documents(HEADER), rest=st.integers(-2, 2))
def test_headers_of_safetensors(header: Any, rest: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any JSON, in front of as many bytes as there should be, or a few more or less."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(32 + rest))
    read_all(path)


@pytest.mark.parametrize("good", [SAFETENSORS, ARCHIVE, STREAM], ids=["safetensors", "archive", "stream"])
def test_damaged_files_of_tensors(good: bytes, tmp_path: Path) -> None:
    """Bytes of each form changed in a few places."""

    @fuzzed(300)
    @given(content=damaged(good))
    def read(content: bytes) -> None:
        path = tmp_path / "fuzzed"
        path.write_bytes(content)
        read_all(path)

    read()


def test_pickles_inside_an_archive(tmp_path: Path) -> None:
    """The archive is whole; its pickle is another one."""
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))

    @fuzzed(600)
    @given(content=damaged(members[name]))
    def read(content: bytes) -> None:
        with zipfile.ZipFile(tmp_path / "fuzzed", "w") as archive:
            for member, data in {**members, name: content}.items():
                archive.writestr(member, data)
        read_all(tmp_path / "fuzzed")

    read()


@fuzzed(200)
@given(tree=st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda t: st.dictionaries(
    st.text(max_size=3) | st.integers(), t, max_size=3) | st.lists(t, max_size=3)))  # fmt: skip
def test_trees_of_plain_containers(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever torch.save was given."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    torch.save(tree, path)
    read_all(path)
    path.write_bytes(pickle.dumps(tree))
    read_all(path)


def test_manifests_of_bundles(tiny_copy: Path) -> None:
    """``bundle.json``."""
    path = tiny_copy / "bundle.json"

    @fuzzed(200)
    @given(document=documents(json.loads(path.read_text("utf-8"))))
    def read(document: Any) -> None:
        path.write_text(json.dumps(document), "utf-8")
        with refused_in_a_sentence():
            open_bundle(tiny_copy).check_all()

    read()


def test_manifests_of_engines(tiny_copy: Path) -> None:
    """``engine.json``."""
    path = next((tiny_copy / "engines").glob("*/engine.json"))

    @fuzzed(200)
    @given(document=documents(json.loads(path.read_text("utf-8"))))
    def read(document: Any) -> None:
        path.write_text(json.dumps(document), "utf-8")
        engines_in(tiny_copy)
        with refused_in_a_sentence(BundleError):
            read_engine(path.parent)

    read()


def test_names_of_weights(tiny_copy: Path) -> None:
    """``weights/COMPONENT.json``."""
    path = tiny_copy / "weights" / "text_encoder.json"

    @fuzzed(200)
    @given(document=documents(json.loads(path.read_text("utf-8"))))
    def read(document: Any) -> None:
        path.write_text(json.dumps(document), "utf-8")
        with refused_in_a_sentence(BundleError):
            read_named_weights(path)

    read()


@pytest.mark.parametrize("component", ["unet"])
def test_probes(component: str, tiny_copy: Path) -> None:
    """``probes/COMPONENT.safetensors``, with bytes changed."""
    path = tiny_copy / "probes" / f"{component}.safetensors"
    good = path.read_bytes()

    @fuzzed(100)
    @given(content=damaged(good[: 8 + int.from_bytes(good[:8], "little")]))
    def read(content: bytes) -> None:
        path.write_bytes(content + good[8 + int.from_bytes(good[:8], "little") :])
        with refused_in_a_sentence(BundleError):
            read_probes(path)

    read()


VOCABULARY = {token: index for index, token in enumerate([*"abc", *(f"{c}</w>" for c in "abc"), "ab", "ab</w>"])}
SPECIAL = {"content": "<|startoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
TOKENIZER: dict[str, Any] = {
    "vocab.json": {**VOCABULARY, "<|startoftext|>": 8, "<|endoftext|>": 9, "!": 10},
    "tokenizer_config.json": {
        "bos_token": SPECIAL,
        "eos_token": {**SPECIAL, "content": "<|endoftext|>"},
        "pad_token": "!",
        "model_max_length": 77,
        "added_tokens_decoder": {"8": SPECIAL, "11": {**SPECIAL, "content": "<cat>", "special": False}},
    },
    "special_tokens_map.json": {
        "bos_token": SPECIAL,
        "eos_token": "<|endoftext|>",
        "additional_special_tokens": ["<x>"],
    },
    "added_tokens.json": {"<cat>": 11},
}


@pytest.mark.parametrize("name", [*TOKENIZER, "tokenizer.json"])
def test_files_of_tokenizers(name: str, tmp_path: Path) -> None:
    """Each in turn, beside good ones."""
    for file, content in TOKENIZER.items():
        (tmp_path / file).write_text(json.dumps(content), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b</w>\n", "utf-8")
    tokenizer_from_folder(tmp_path).save(tmp_path / "whole.json")
    good = json.loads((tmp_path / "whole.json").read_text("utf-8")) if name == "tokenizer.json" else TOKENIZER[name]

    @fuzzed(150)
    @given(document=documents(good))
    def read(document: Any) -> None:
        (tmp_path / name).write_text(json.dumps(document), "utf-8")
        with refused_in_a_sentence(BundleError):
            tokenizer_from_folder(tmp_path).encode("abc <cat> a ! b")

    read()


@fuzzed(150)
@given(content=damaged(b"#version: 0.2\na b\na b</w>\n"))
def test_merges(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A text that may be none."""
    folder = tmp_path_factory.getbasetemp() / "merges"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(TOKENIZER["vocab.json"]), "utf-8")
    (folder / "merges.txt").write_bytes(content)
    with refused_in_a_sentence(BundleError):
        tokenizer_from_folder(folder).encode("abc")
