"""Whatever stands in a model's configs, indexes and headers: a sentence of ours, or a checked model. Bounded runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_tiny_checkpoint
from fuzzing import JSON, documents, fuzzed, refused_in_a_sentence
from hypothesis import given
from hypothesis import strategies as st
from single_files import ldm_tensors, save_tensors

from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.export.sources.source import checkpoint_from_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole folders. Do not write to them."""
    root = tmp_path_factory.mktemp("whole")
    return {family: save_tiny_checkpoint(root / family, family) for family in ("sd1", "sdxl")}


def looked_at(model: Path, **choices: Any) -> None:
    """Checks a model and asks it for all that a build asks, but for its modules."""
    with refused_in_a_sentence():
        found = checkpoint_from_model(str(model), Choices(**choices))
        found.check_values()
        for name in ("files", "latents", "default_size", "sampler", "pixel_multiple", "guided", "parameters", "unread"):
            getattr(found, name)
        found.schedule()


FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("name", [*FILES, "text_encoder_2/config.json"])
def test_configs_of_a_folder(family: str, name: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """Each in turn, in a folder that is whole."""
    if not (saved[family] / name).is_file():
        pytest.skip("it has none")
    folder = shutil.copytree(saved[family], tmp_path / "model")
    good = json.loads((folder / name).read_text("utf-8"))

    @fuzzed(60)
    @given(document=documents(good))
    def read(document: Any) -> None:
        (folder / name).write_text(json.dumps(document), "utf-8")
        looked_at(folder)

    read()


@pytest.mark.parametrize("name", FILES)
def test_configs_that_are_no_json(name: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """Bytes of any kind."""
    folder = shutil.copytree(saved["sd1"], tmp_path / "model")

    @fuzzed(40)
    @given(content=st.binary(max_size=40) | st.just(b"\xff\xfe{\0}\0") | st.just(b"[" * 10**5) | st.just(b"9" * 5000))
    def read(content: bytes) -> None:
        (folder / name).write_bytes(content)
        looked_at(folder)

    read()


def test_a_parts_own_config(saved: dict[str, Path], tmp_path: Path) -> None:
    """A U-Net alone, with a base, and the averaged one beside it."""
    folder = shutil.copytree(saved["sd1"] / "unet", tmp_path / "unet")
    shutil.copytree(folder, tmp_path / "unet_ema")
    good = json.loads((folder / "config.json").read_text("utf-8"))

    @fuzzed(40)
    @given(document=documents(good), ema=st.sampled_from([None, Ema.EMA]))
    def read(document: Any, ema: Ema | None) -> None:
        for place in (folder, tmp_path / "unet_ema"):
            (place / "config.json").write_text(json.dumps(document), "utf-8")
        looked_at(folder if ema is None else tmp_path, base=str(saved["sd1"]), ema=ema)

    read()


@fuzzed(60)
@given(index=documents({"metadata": {}, "weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}))
def test_indexes_of_shards(index: Any, saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without their shards."""
    folder = tmp_path_factory.getbasetemp() / "shards"
    if not folder.exists():
        shutil.copytree(saved["sd1"], folder)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    looked_at(folder)


@st.composite
def headers(draw: st.DrawFn, good: dict[str, tuple[str, list[int]]]) -> dict[str, tuple[str, list[int]]]:
    """Types and shapes by name, of which a few are others, and a few names are missing or new."""
    header = dict(good)
    names = list(good)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names))
        dtype, shape = good[name]
        change = draw(st.integers(0, 5))
        if change == 0:
            header.pop(name, None)
        elif change == 1:
            header[name] = draw(st.sampled_from(["F64", "F8_E4M3", "I64", "BOOL", "U8", "BF16", "F4", "X"])), shape
        elif change == 2:
            header[name] = dtype, draw(st.lists(st.integers(0, 70), max_size=5))
        elif change == 3:
            header[draw(st.text(max_size=6)) + name] = dtype, shape
        elif change == 4:
            beside = ["alphas_cumprod", "global_step", "v_pred", "ztsnr", "scaled_fp8", f"{name}_scale", "edm_mean"]
            header[draw(st.sampled_from(beside))] = "F32", draw(st.lists(st.integers(0, 5), max_size=2))
        else:
            header[name.replace("0", "9", 1)] = header.pop(name, (dtype, shape))
    return header


SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", ["checkpoint", "unet", "vae"])
def test_headers_of_single_files(family: str, kind: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """Names, types and shapes changed in a few places; the numbers are all zero."""
    from safetensors.torch import load_file

    folder, path = saved[family], tmp_path / "model.safetensors"
    if kind == "checkpoint":
        save_tensors(ldm_tensors(folder), path)
        tensors = load_file(path)
    else:
        tensors = load_file(folder / kind / "diffusion_pytorch_model.safetensors")
    good = {name: ("F32" if t.is_floating_point() else "I64", list(t.shape)) for name, t in tensors.items()}

    @fuzzed(50)
    @given(header=headers(good))
    def read(header: dict[str, tuple[str, list[int]]]) -> None:
        entries, end = {}, 0
        for name, (dtype, shape) in header.items():
            begin, count = end, 1
            for size in shape:
                count *= size
            end += count * SIZES.get(dtype, 1)
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(entries).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        if kind == "vae":
            looked_at(folder, vae=str(path))
        else:
            looked_at(path, base=str(folder))

    read()


@fuzzed(60)
@given(metadata=st.dictionaries(st.sampled_from(["modelspec.prediction_type", "modelspec.architecture"]), JSON))
def test_metadata_of_single_files(
    metadata: Any, saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of any type."""
    path = tmp_path_factory.getbasetemp() / "metadata.safetensors"
    text = json.dumps({"__metadata__": metadata, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    looked_at(path)
