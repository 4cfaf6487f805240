"""Embedding files of every format; those that are refused say why; triggers and threads."""

import io
import pickle
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import latentrt
from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.engines.errors import RequestError
from latentrt.engines.tensors.tensor_file import TensorFileError, open_tensor_file
from latentrt.models import EMOJI
from latentrt.runtime.prompts.textual_inversion import TextualInversion, TextualInversions, inversions_from_paths

WIDTH = 768
TOKENIZER = tokenizer_from_folder(EMOJI / "tokenizer")
VECTORS = torch.arange(2 * WIDTH, dtype=torch.float32).reshape(2, WIDTH) / 1024


def load(path: Path, token: str | None = None, width: int = WIDTH) -> TextualInversion:
    """The one textual inversion of a file."""
    (inversion,) = inversions_from_paths(path, token, tokenizer=TOKENIZER, width=width)
    return inversion


def legacy(content: Any, path: Path) -> None:
    """``torch.save`` as before torch 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


A1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "moebius", "step": 7}
SDXL = {"clip_l": VECTORS, "clip_g": torch.ones(2, 1280)}
FILES: dict[str, tuple[Callable[[Any, Path], None], Any, str]] = {
    "invokeai.safetensors": (save_file, {"emb_params": VECTORS}, "invokeai"),
    "sdxl.safetensors": (save_file, SDXL, "sdxl"),
    "a1111.safetensors": (save_file, {"string_to_param.*": VECTORS}, "a1111"),
    "diffusers.safetensors": (save_file, {"<toy>": VECTORS}, "<toy>"),
    "diffusers.bin": (torch.save, {"<toy>": VECTORS}, "<toy>"),
    "a1111.pt": (torch.save, A1111, "moebius"),
    "nameless.pt": (torch.save, {**A1111, "name": None}, "nameless"),
    "a1111_legacy.pt": (legacy, A1111, "moebius"),
    "parameter.pt": (torch.save, {"<toy>": torch.nn.Parameter(VECTORS)}, "<toy>"),
    "ordered.bin": (legacy, OrderedDict({"<toy>": VECTORS}), "<toy>"),
    "bare tensor.pt": (torch.save, VECTORS, "bare tensor"),
    "sdxl.pt": (torch.save, SDXL, "sdxl"),
    "strided.pt": (torch.save, {"<toy>": torch.stack([VECTORS, VECTORS], -1)[..., 1]}, "<toy>"),
}


DATA: dict[str, Any] = {
    "ParameterDict": {"string_to_param": torch.nn.ParameterDict({"*": VECTORS}), "name": "*"},
    "NumPy": {"moebius": VECTORS.numpy()},
    "NumPy, columns first": {"moebius": np.asfortranarray(VECTORS.numpy())},
    "NumPy in A1111's layout": {**A1111, "string_to_param": {"*": VECTORS.numpy()}},
    "NumPy alone": VECTORS.numpy(),
}


@pytest.mark.parametrize("write", [torch.save, legacy])
@pytest.mark.parametrize("case", DATA)
def test_parameter_dicts_and_arrays_are_data(tmp_path: Path, case: str, write: Callable[[Any, Path], None]) -> None:
    """As trainers leave them, in both layouts of torch's files."""
    write(DATA[case], tmp_path / "moebius.pt")
    inversion = load(tmp_path / "moebius.pt")
    assert inversion.trigger == "moebius"
    np.testing.assert_array_equal(inversion.vectors, VECTORS.numpy())


@pytest.mark.parametrize("name", FILES)
def test_every_format(tmp_path: Path, name: str) -> None:
    """Trigger and vectors, bit for bit."""
    write, content, trigger = FILES[name]
    write(content, tmp_path / name)
    inversion = load(tmp_path / name)
    assert inversion.trigger == trigger
    assert inversion.vectors.dtype == np.float32
    np.testing.assert_array_equal(inversion.vectors, VECTORS.numpy())
    assert load(tmp_path / name, "<mine>").trigger == "<mine>"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("write", [save_file, torch.save, legacy])
def test_every_dtype(tmp_path: Path, dtype: torch.dtype, write: Callable[[Any, Path], None]) -> None:
    """As torch converts it to float32."""
    tensor = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    write({"<toy>": tensor}, tmp_path / "toy")
    np.testing.assert_array_equal(load(tmp_path / "toy").vectors, tensor.float().numpy())


def test_one_vector_without_its_first_dimension(tmp_path: Path) -> None:
    """(width,) is (1, width)."""
    save_file({"<toy>": VECTORS[0].clone()}, tmp_path / "toy.safetensors")
    assert load(tmp_path / "toy.safetensors").vectors.shape == (1, WIDTH)


def test_the_second_text_encoder_takes_clip_g(tmp_path: Path) -> None:
    """The width says which."""
    save_file(SDXL, tmp_path / "sdxl.safetensors")
    assert load(tmp_path / "sdxl.safetensors", width=1280).vectors.shape == (2, 1280)


def test_a_folder_of_diffusers(tmp_path: Path) -> None:
    """``learned_embeds.safetensors`` before ``.bin``; without a token, the folder's name."""
    folder = tmp_path / "cat-toy"
    folder.mkdir()
    with pytest.raises(RequestError, match=r"learned_embeds\.safetensors or learned_embeds\.bin in it"):
        load(folder)
    torch.save({"<bin>": VECTORS}, folder / "learned_embeds.bin")
    assert load(folder).trigger == "<bin>"
    save_file({"emb_params": VECTORS}, folder / "learned_embeds.safetensors")
    assert load(folder).trigger == "cat-toy"


@pytest.mark.parametrize("placeholder", ["*", "<*>", "[*]", "<placeholder>", " * ", "<>"])
def test_a_placeholder_that_stands_for_nothing_gives_way_to_the_files_name(tmp_path: Path, placeholder: str) -> None:
    """Where trainers write one, in diffusers' layout and in A1111's."""
    torch.save({placeholder: VECTORS}, tmp_path / "moebius.bin")
    torch.save({**A1111, "name": placeholder}, tmp_path / "moebius.pt")
    torch.save({"string_to_param": {placeholder: VECTORS}}, tmp_path / "nameless moebius.pt")
    triggers = [load(tmp_path / name).trigger for name in ("moebius.bin", "moebius.pt", "nameless moebius.pt")]
    assert triggers == ["moebius", "moebius", "nameless moebius"]


SEVERAL: dict[str, tuple[Callable[[Any, Path], None], Any, list[str]]] = {
    "diffusers.bin": (torch.save, {"<a>": VECTORS[:1], "<b>": VECTORS[1:]}, ["<a>", "<b>"]),
    "diffusers.safetensors": (save_file, {"<a>": VECTORS[0].clone(), "<b>": VECTORS[1].clone()}, ["<a>", "<b>"]),
    "original.pt": (torch.save, {"string_to_param": {"*": VECTORS[:1], "<b>": VECTORS[1:]}}, ["original", "<b>"]),
    "a1111.pt": (torch.save, {**A1111, "string_to_param": {"*": VECTORS[:1], "@": VECTORS[1:]}, "name": None},
                 ["a1111", "a1111-2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_several_embeddings_in_a_file(tmp_path: Path, name: str) -> None:
    """Each has its trigger, its own or one that is given."""
    write, content, triggers = SEVERAL[name]
    write(content, tmp_path / name)
    for token, expected in ((None, triggers), (["<x>", "<y>"], ["<x>", "<y>"])):
        found = inversions_from_paths(tmp_path / name, token, tokenizer=TOKENIZER, width=WIDTH)
        assert [inversion.trigger for inversion in found] == expected
        np.testing.assert_array_equal(np.concatenate([inversion.vectors for inversion in found]), VECTORS.numpy())
    with pytest.raises(RequestError, match=r"got 3 tokens for .* with 2 embeddings, expected 2; give as many"):
        inversions_from_paths(tmp_path / name, ["<x>", "<y>", "<z>"], tokenizer=TOKENIZER, width=WIDTH)


def test_each_vector_of_an_embedding_may_get_a_trigger(tmp_path: Path) -> None:
    """As many tokens as vectors for one file."""
    torch.save(A1111, tmp_path / "moebius.pt")
    found = inversions_from_paths(tmp_path / "moebius.pt", ["<x>", "<y>"], tokenizer=TOKENIZER, width=WIDTH)
    assert [(inversion.trigger, inversion.vectors.shape) for inversion in found] == [
        ("<x>", (1, WIDTH)),
        ("<y>", (1, WIDTH)),
    ]
    with pytest.raises(RequestError, match="with 1 embedding, expected 1, or 2 for its vectors"):
        inversions_from_paths(tmp_path / "moebius.pt", ["<x>", "<y>", "<z>"], tokenizer=TOKENIZER, width=WIDTH)


def tensors(**shapes: tuple[int, ...]) -> bytes:
    """A safetensors file of zeros."""
    from safetensors.torch import save

    return save({name: torch.zeros(shape) for name, shape in shapes.items()})


def saved(content: Any) -> bytes:
    """A torch file."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


WHOLE = saved({"<toy>": VECTORS})
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is no tensor", "cut short or no torch file"),
    "cut safetensors": (tensors(emb_params=(2, WIDTH))[:-100], "cut short or damaged"),
    "safetensors of nonsense": (b"\x10\0\0\0\0\0\0\0{not json at all", "cut short or damaged"),
    "cut zip": (WHOLE[: len(WHOLE) // 2], "cut short or no torch file"),
    "SD 2.x": (tensors(emb_params=(1, 1024)), r"Stable Diffusion 2\.x \(width 1024\), .*Stable Diffusion 1\.x"),
    "odd width": (tensors(emb_params=(1, 999)), "made for width 999"),
    "rank 3": (tensors(emb_params=(1, 2, WIDTH)), r"\(1, 2, 768\) float32, expected vectors \(n, 768\)"),
    "rank 0": (tensors(emb_params=()), r"holds \(\) float32"),
    "no vector": (tensors(emb_params=(0, WIDTH)), r"\(0, 768\)"),
    "too many": (tensors(emb_params=(76, WIDTH)), "76 vectors, expected at most 75"),
    "a LoRA": (tensors(**{"lora_unet_a.lora_up.weight": (4, 4), "b": (4, 4)}), "holds a LoRA"),
    "a model": (tensors(a=(4, 4), b=(4, 4)), r"holds 2 tensors \(a, b"),
    "integers": (saved({"<toy>": torch.ones(2, WIDTH, dtype=torch.int64)}), "int64, expected vectors"),
    "no tensors": (saved({"<toy>": "text"}), "holds str"),
    "an empty dictionary": (saved({}), "holds no tensors"),
    "NaN": (saved({"<toy>": VECTORS * float("nan")}), "NaN or infinite"),
    "float64 beyond float32": (saved({"<toy>": torch.full((1, WIDTH), 1e300, dtype=torch.float64)}), "NaN or infinite"),
    "a module": (saved({"<toy>": torch.nn.Linear(2, 2)}), r"holds torch\.nn\.modules\.linear\.Linear"),
    "a ParameterDict": (saved({"string_to_param": torch.nn.ParameterDict()}), "ParameterDict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    """What was got, what was expected, and what to do."""
    content, reason = REFUSED[case]
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(RequestError, match=reason) as refused:
        load(tmp_path / "bad")
    assert "'bad'" in str(refused.value)
    assert "; " in str(refused.value)


@pytest.mark.parametrize("token", ["", "  ", "<>"])
def test_a_trigger_must_be_one(tmp_path: Path, token: str) -> None:
    """Nothing cannot be matched."""
    save_file({"emb_params": VECTORS}, tmp_path / "a.safetensors")
    with pytest.raises(RequestError, match="empty token"):
        load(tmp_path / "a.safetensors", token)


def test_a_word_of_the_vocabulary_is_no_trigger(tmp_path: Path) -> None:
    """As in diffusers; the message gives a form that works."""
    save_file({"emb_params": VECTORS}, tmp_path / "Apple.safetensors")
    with pytest.raises(RequestError, match=r"'Apple' is in the tokenizer's vocabulary.*token='<Apple>'"):
        load(tmp_path / "Apple.safetensors")
    assert load(tmp_path / "Apple.safetensors", "<Apple>").trigger == "<Apple>"


def test_missing_and_mismatched_arguments(tmp_path: Path) -> None:
    """No file; as many tokens as files."""
    with pytest.raises(RequestError, match="does not exist"):
        load(tmp_path / "none.pt")
    with pytest.raises(RequestError, match="got 1 tokens for 2 files"):
        inversions_from_paths([tmp_path, tmp_path], "<a>", tokenizer=TOKENIZER, width=WIDTH)


class Evil:
    """Unpickles to a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def zipped(data: bytes, **members: bytes) -> bytes:
    """A torch archive around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("wrap", "protocol"),
    [(zipped, protocol) for protocol in range(6)] + [(bytes, protocol) for protocol in range(2, 6)],
)
def test_a_pickle_runs_nothing(tmp_path: Path, wrap: Callable[[bytes], bytes], protocol: int) -> None:
    """What it wants to call is named and not called."""
    import os

    victim = tmp_path / "victim"
    victim.touch()
    cases: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(os.unlink, (str(victim),)), (eval, ("1 + 1",))]
    for call, arguments in cases:
        (tmp_path / "evil.pt").write_bytes(wrap(pickle.dumps({"<toy>": Evil(call, *arguments)}, protocol)))
        with pytest.raises(TensorFileError, match=rf"holds \w+\.{call.__name__}, expected tensors"):
            open_tensor_file(tmp_path / "evil.pt")
        with pytest.raises(RequestError, match=rf"'evil\.pt' holds \w+\.{call.__name__}, expected tensors"):
            load(tmp_path / "evil.pt")
    assert victim.exists()


def test_pickles_that_eat_memory_are_refused(tmp_path: Path) -> None:
    """A memo number of billions, nested references that double, a tensor larger than its storage, itself inside."""
    laughs: list[Any] = []
    for _ in range(60):
        laughs = [laughs, laughs]
    itself: list[Any] = []
    itself.append(itself)
    memo = b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b"."
    for data in (pickle.dumps(laughs), pickle.dumps(itself), memo):
        (tmp_path / "bomb.pt").write_bytes(zipped(data))
        with pytest.raises(RequestError, match=r"far more than|nested too deep|holds no tensors"):
            load(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "arguments",
    [(0, (4, WIDTH), (WIDTH, 1)), (-1, (1,), (1,)), (0, (10**9,), (0,)), (0, (2,), (10**9,)), (0, (2,), (-1,))],
)
def test_a_tensor_outside_of_its_storage(arguments: tuple[Any, ...], tmp_path: Path) -> None:
    """Shape, offset and stride of a file are claims."""
    buffer = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if value == "STORAGE" else None

    Pickler(buffer, 2).dump(Evil(torch._utils._rebuild_tensor_v2, "STORAGE", *arguments, False, OrderedDict()))
    (tmp_path / "claims.pt").write_bytes(zipped(buffer.getvalue(), **{"0": bytes(16)}))
    with pytest.raises(RequestError, match=r"storage does not hold|malformed|far more"):
        load(tmp_path / "claims.pt")


def test_damaged_torch_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """One byte changed anywhere, or cut anywhere: read, or refused, and nothing else."""
    old = io.BytesIO()
    legacy({"<toy>": VECTORS[:1, :8].clone()}, old)  # type: ignore[arg-type]
    for content in (old.getvalue(), saved({"<toy>": VECTORS[:1, :8].clone()})):
        for place in range(0, len(content), 3):
            damaged = bytearray(content)
            damaged[place] ^= 0x55
            for variant in (bytes(damaged), content[:place]):
                (tmp_path / "damaged.pt").write_bytes(variant)
                with suppress(TensorFileError):
                    for tensor in open_tensor_file(tmp_path / "damaged.pt").tensors.values():
                        tensor.array()


def pieces(text: str, *triggers: str) -> list[str | int]:
    """Where triggers match: texts, and the first vector's number."""
    loaded = TextualInversions(tuple(TextualInversion(trigger, np.zeros((2, 4), np.float32)) for trigger in triggers))
    return [piece if isinstance(piece, str) else piece.start for _, piece in loaded.pieces(text) if piece != ""]


def test_where_triggers_match() -> None:
    """``<name>`` as it stands; ``name`` as a word or in angle brackets; the longest first; capitals are the same."""
    assert pieces("a <toy>, b", "<toy>") == ["a ", 0, ", b"]
    assert pieces("a toy", "<toy>") == ["a toy"]
    assert pieces("x<toy>y <TOY>", "<toy>") == ["x", 0, "y ", 0]
    assert pieces("a moebius, <moebius> Moebius!", "moebius") == ["a ", 0, ", ", 0, " ", 0, "!"]
    assert pieces("moebiusx xmoebius moebius-2 moebius_", "moebius") == ["moebiusx xmoebius moebius-2 moebius_"]
    assert pieces("my style two", "my style", "my style two") == [2]
    assert pieces("a.c abc", "a.c") == [0, " abc"]
    assert pieces("style-İ <STYLE-ı>", "style-i") == [0, " ", 0]
    assert pieces("b (x) y b", "(x)", "b") == [2, " ", 0, " y ", 2]


def test_which_are_used() -> None:
    """By their triggers, wherever they stand; in the order in which they were loaded."""
    vectors = np.zeros((2, 4), np.float32)
    loaded = TextualInversions(tuple(TextualInversion(trigger, vectors) for trigger in ("<a>", "b", "<c>")))
    assert [one.trigger for one in loaded.used_in(["a <c>", "no <B>"])] == ["b", "<c>"]
    assert TextualInversions().used_in(["a"]) == ()


def test_loading_and_unloading(tiny_bundle: Path, tmp_path: Path) -> None:
    """Pictures change and change back; a trigger is loaded once; the width is checked."""
    save_file({"emb_params": torch.ones(2, 64)}, tmp_path / "zorp.safetensors")
    save_file({"emb_params": VECTORS}, tmp_path / "wide.safetensors")
    common = {"num_inference_steps": 1, "seed": 1, "output_type": "latent"}
    with latentrt.open(tiny_bundle) as pipe:
        before = pipe("a zorp", **common).latents
        assert pipe.load_textual_inversion(tmp_path / "zorp.safetensors") == ("zorp",)
        loaded = pipe("a zorp", **common).latents
        assert np.abs(loaded - before).max() > 1e-4
        with pytest.raises(RequestError, match="loaded already"):
            pipe.load_textual_inversion(tmp_path / "zorp.safetensors", token="ZORP")
        with pytest.raises(RequestError, match="expected an embedding for width 64"):
            pipe.load_textual_inversion([tmp_path / "zorp.safetensors", tmp_path / "wide.safetensors"], ["<a>", "<b>"])
        with pytest.raises(RequestError, match=r"got token '<a>', expected one that is loaded \('zorp'\)"):
            pipe.unload_textual_inversion("<a>")
        pipe.load_textual_inversion(str(tmp_path / "zorp.safetensors"), "<a>")
        pipe.unload_textual_inversion("<a>")
        np.testing.assert_array_equal(pipe("a zorp", **common).latents, loaded)
        pipe.unload_textual_inversion()
        np.testing.assert_array_equal(pipe("a zorp", **common).latents, before)


def test_threads_draw_while_another_loads(tiny_bundle: Path, tmp_path: Path) -> None:
    """Every picture is one of the two, never one in between."""
    save_file({"emb_params": torch.ones(2, 64)}, tmp_path / "zorp.safetensors")
    common = {"num_inference_steps": 1, "seed": 1, "output_type": "latent", "guidance_scale": 1.0}
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        without = pipe("a zorp", **common).latents.tobytes()
        pipe.load_textual_inversion(tmp_path / "zorp.safetensors")
        with_it = pipe("a zorp", **common).latents.tobytes()
        seen: set[bytes] = set()
        stop = threading.Event()

        def draw() -> None:
            while not stop.is_set():
                seen.add(pipe("a zorp", **common).latents.tobytes())

        threads = [threading.Thread(target=draw) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            pipe.unload_textual_inversion("zorp")
            pipe.load_textual_inversion(tmp_path / "zorp.safetensors")
        stop.set()
        for thread in threads:
            thread.join()
    assert seen <= {without, with_it}
