"""Conditioning equal to that of compel, diffusers and transformers, prompt by prompt."""

import json
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompt_encoders import Encode, assert_equal, prompt_encoder
from safetensors.numpy import load_file
from safetensors.torch import save_file

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.spec import Array
from latentrt.models import EMOJI
from latentrt.runtime.prompts.syntax.compel import prompt_from_compel

LONG = "a red apple. and then a long sentence, with many things; in it: more " * 8
COMMAS = "one two three, four five six seven " * 14
PROMPTS = (
    "",
    " \n ",
    "a red apple",
    "a red+ apple",
    "a red++++ apple--- on a table",
    "a (red apple)1.3 on a table",
    "a (red apple)1.0, nothing",
    "a ((red)1.5 apple)0.5 b",
    "((((red)+ apple)+ on)- a) table",
    "a red- apple, big-- dog+ x",
    "(gone)0.0 b",
    "(below nothing)-1 c",
    '"two words"+ and "three more words"0.4',
    "well-lit+ C++ 5\" 3.5mm it's, a.b+ x",
    r"escaped \(red\)+ \"apple\"",
    "word.attend(1.4) (two words).attend(--)",
    '("red","blue").blend(0.7,0.3)',
    '("red","blue").blend(1,-0.5,no_normalize)',
    '("red apple+","blue--", "").blend()',
    '("red apple","blue cat").and()',
    '("red","blue cat").and(1, 0.5)',
    '("red+ (x y)0.5","blue--", "c").and(0.3,0.5,2)',
    LONG,
    COMMAS,
    "x" * 400,
    "w " * 75,
    "w " * 76,
    f"({LONG.replace('.', '').strip()})0.7 ok",
    f"a++ {LONG} (b c)--",
    f'("a","{LONG}").blend(0.5,0.5)',
    f'("{LONG}","a").and(1,0.5)',
    "w " * 70 + "(one two three four five six seven eight)0.4 and more",
    "w " * 90 + "(a b)- c",
)


@dataclass(frozen=True)
class Both:
    """A bundle's encoder and the checkpoint's diffusers pipeline."""

    encode: Encode
    theirs: Any


@pytest.fixture(scope="module", params=["tiny", "embedded"])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    """Both sides of the tiny and of the embedded model."""
    from diffusers import StableDiffusionPipeline

    tiny = request.param == "tiny"
    checkpoint = request.getfixturevalue("tiny_checkpoint") if tiny else EMOJI
    with prompt_encoder(request.getfixturevalue("tiny_bundle" if tiny else "emoji_bundle")) as encode:
        yield Both(encode, StableDiffusionPipeline.from_pretrained(checkpoint))


@pytest.fixture(scope="module", autouse=True)
def parsed_once() -> Iterator[None]:
    """compel's parser, which takes a tenth of a second for a long prompt, reads each once."""
    from compel.prompt_parser import PromptParser

    parse, parsed = PromptParser.parse_conjunction, {}

    def parse_conjunction(parser: Any, prompt: str, *arguments: Any, **keywords: Any) -> Any:
        key = repr((prompt, arguments, keywords))
        if key not in parsed:
            parsed[key] = parse(parser, prompt, *arguments, **keywords)
        return deepcopy(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptParser, "parse_conjunction", parse_conjunction)
        yield


def compel(both: Both, *, truncate: bool, **options: Any) -> Any:
    """compel over the checkpoint's own tokenizer and text encoder."""
    from compel import Compel

    return Compel(both.theirs.tokenizer, both.theirs.text_encoder, truncate_long_prompts=truncate, **options)


@pytest.mark.parametrize("long_prompt", ["truncate", "chunk"])
@pytest.mark.grid(most=1)
def test_compel(both: Both, long_prompt: str) -> None:
    """Every construct, nested, blended, concatenated, long."""
    reference = compel(both, truncate=long_prompt == "truncate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", latentrt.PromptTruncatedWarning)
        for prompt in PROMPTS:
            ours, _ = both.encode(prompt, syntax="compel", long_prompt=long_prompt)
            assert_equal(ours, reference(prompt).numpy(), prompt)


def test_weights_matter(both: Both) -> None:
    """What the comparison above could miss: that prompts with and without weights are the same."""
    plain, _ = both.encode("a red apple", syntax="compel")
    for prompt in ("a red+ apple", "a red- apple", '("a red apple", "x").blend(1,0.01)'):
        assert np.abs(both.encode(prompt, syntax="compel")[0] - plain).max() > 1e-3


def test_a_batch_is_filled_up_as_in_compel(both: Both) -> None:
    """Positive and negative prompts of different lengths, padded with the empty prompt."""
    prompts, negatives = ["a cat", LONG, "a cat"], ["blurry-- (ugly)1.4", "", '("a","b","c").and()']
    reference = compel(both, truncate=False)
    with torch.no_grad():
        parts = [reference.build_conditioning_tensor(text) for text in prompts + negatives]
    expected = torch.cat(reference.pad_conditioning_tensors_to_same_length(parts)).numpy()
    positive, negative = both.encode(prompts, negatives, syntax="compel")
    assert_equal(positive, expected[:3])
    assert_equal(negative, expected[3:])


def test_clip_skip_under_compel(both: Both) -> None:
    """compel takes the layer before the last with the final norm; its empty prompt, too."""
    from compel import ReturnedEmbeddingsType

    kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED
    # compel reaches for text_model.final_layer_norm, which transformers 5 has one level higher
    encoder = both.theirs.text_encoder
    object.__setattr__(encoder, "text_model", encoder)
    reference = compel(both, truncate=False, returned_embeddings_type=kind)
    for prompt in ("a red++ apple", "a red- apple", LONG, '("a","b").and(1,0.5)'):
        assert_equal(both.encode(prompt, syntax="compel", clip_skip=1)[0], reference(prompt).numpy(), prompt)


@pytest.mark.parametrize("prompt", ["", "a red apple", "(a) [b] c++ \\(d", LONG, "it's <|endoftext|> 🍎"])
def test_plain_prompts_are_those_of_diffusers(both: Both, prompt: str) -> None:
    """No character means anything, and what is too long is cut off."""
    expected, unconditional = both.theirs.encode_prompt(prompt, "cpu", 1, True, "blurry, red")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", latentrt.PromptTruncatedWarning)
        positive, negative = both.encode(prompt, "blurry, red")
    assert_equal(positive, expected.detach().numpy())
    assert_equal(negative, unconditional.detach().numpy())


@pytest.mark.parametrize("prompt", [LONG, COMMAS, "w " * 151])
def test_plain_prompts_in_chunks(both: Both, prompt: str) -> None:
    """As compel cuts them."""
    assert_equal(both.encode(prompt, long_prompt="chunk")[0], compel(both, truncate=False)(prompt).numpy())


def test_clip_skip(both: Both) -> None:
    """Each layer's state under the final norm; the negative prompt keeps the last one."""
    encoder = both.theirs.text_encoder
    ids = both.theirs.tokenizer(["a red apple", "blurry"], padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        states = encoder(ids, output_hidden_states=True).hidden_states
        layers = [encoder.final_layer_norm(state).numpy() for state in states]
    for clip_skip in range(encoder.config.num_hidden_layers):
        positive, negative = both.encode("a red apple", "blurry", clip_skip=clip_skip)
        assert_equal(positive, layers[-1 - clip_skip][:1], f"clip_skip {clip_skip}")
        assert_equal(negative, layers[-1][1:])
    assert np.abs(layers[-1] - layers[-2]).max() > 1e-3


def a1111(both: Both, chunks: list[list[tuple[str, float]]]) -> Array:
    """A1111's rule: multiply, then restore the mean of every chunk; (1, 77 · k, width)."""
    tokenizer, outputs = both.theirs.tokenizer, []
    for chunk in chunks:
        parts = [(tokenizer(text, add_special_tokens=False).input_ids, weight) for text, weight in chunk]
        ids = [tokenizer.bos_token_id, *(id for part, _ in parts for id in part), tokenizer.eos_token_id]
        weights = [1.0, *(weight for part, weight in parts for _ in part)]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        weights += [1.0] * (77 - len(weights))
        with torch.inference_mode():
            z = both.theirs.text_encoder(torch.tensor([ids])).last_hidden_state.double()
            weighted = z * torch.tensor(weights, dtype=torch.float64)[None, :, None]
            outputs.append(weighted * (z.mean() / weighted.mean()))
    return torch.cat(outputs, dim=1).float().numpy()


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("", [[("", 1.0)]]),
        ("a red apple", [[("a red apple", 1.0)]]),
        ("a (red) apple", [[("a ", 1.0), ("red", 1.1), (" apple", 1.0)]]),
        ("a ((red:1.3)) [[apple]]", [[("a ", 1.0), ("red", 1.3 * 1.1), (" ", 1.0), ("apple", 1 / 1.1 / 1.1)]]),
        ("one (two BREAK", None),
        ("one BREAK two", [[("one", 1.0)], [("two", 1.0)]]),
        ("BREAK two (three:0.5)", [[("", 1.0)], [("two ", 1.0), ("three", 0.5)]]),
        (
            "w, " * 37 + "x y z",  # 74 + 3 tokens: what stands behind the last comma moves on
            [[("w, " * 37, 1.0)], [("x y z", 1.0)]],
        ),
        ("w " * 76, [[("w " * 75, 1.0)], [("w", 1.0)]]),
        ("w, " + "w " * 74, [[("w, " + "w " * 73, 1.0)], [("w", 1.0)]]),
        ("w " * 60 + ", (" + "v " * 20 + ":1.2)", [[("w " * 60 + ", ", 1.0)], [("v " * 20, 1.2)]]),
    ],
)
def test_a1111(both: Both, prompt: str, chunks: list[list[tuple[str, float]]] | None) -> None:
    """Brackets, BREAK, and chunks that end behind a comma among the last 20 tokens."""
    if chunks is None:
        with pytest.raises(latentrt.RequestError, match="BREAK inside brackets"):
            both.encode(prompt, syntax="a1111")
        return
    assert_equal(both.encode(prompt, syntax="a1111")[0], a1111(both, chunks))


def vectors(both: Both, count: int, seed: int = 5) -> torch.Tensor:
    """Embeddings (count, width) of the size that the vocabulary's have."""
    width = both.theirs.text_encoder.config.hidden_size
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed)) * 0.05


def write_diffusers_safetensors(path: Path, tensor: torch.Tensor) -> None:
    """``learned_embeds.safetensors`` under another name."""
    save_file({"<cat-toy>": tensor}, path)


def write_diffusers_bin(path: Path, tensor: torch.Tensor) -> None:
    """``learned_embeds.bin``."""
    torch.save({"<cat-toy>": tensor}, path)


def write_diffusers_legacy(path: Path, tensor: torch.Tensor) -> None:
    """The same by a torch before 1.6."""
    torch.save({"<cat-toy>": tensor}, path, _use_new_zipfile_serialization=False)


def write_a1111(path: Path, tensor: torch.Tensor) -> None:
    """A1111's dictionary."""
    tensor = torch.nn.Parameter(tensor)
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": "<cat-toy>", "step": 99}
    torch.save({**content, "sd_checkpoint": None, "sd_checkpoint_name": None}, path)


def write_a1111_legacy(path: Path, tensor: torch.Tensor) -> None:
    """A1111's dictionary by an old torch."""
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": "<cat-toy>", "step": 99}
    torch.save(content, path, _use_new_zipfile_serialization=False)


FORMATS = {
    "learned.safetensors": write_diffusers_safetensors,
    "learned.bin": write_diffusers_bin,
    "legacy.bin": write_diffusers_legacy,
    "a1111.pt": write_a1111,
    "legacy.pt": write_a1111_legacy,
}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_textual_inversions_as_diffusers_loads_them(
    both: Both, tmp_path: Path, name: str, count: int, dtype: torch.dtype
) -> None:
    """Every format that diffusers reads, with one vector and with several, in both prompts."""
    path = tmp_path / name
    FORMATS[name](path, vectors(both, count).to(dtype))
    prompt, negative = "a photo of <cat-toy>, on a <cat-toy> table", "not <cat-toy>"
    pipe = both.theirs
    before = pipe.text_encoder.get_input_embeddings().weight.detach().clone()
    size = len(pipe.tokenizer)
    pipe.load_textual_inversion(str(tmp_path), weight_name=name)
    try:
        expected, unconditional = pipe.encode_prompt(prompt, "cpu", 1, True, negative)
    finally:
        pipe.unload_textual_inversion()
        pipe.text_encoder.resize_token_embeddings(size)
        pipe.text_encoder.get_input_embeddings().weight.data = before
    positive, ours = both.encode(prompt, negative, inversions=[(path, None)])
    assert_equal(positive, expected.detach().numpy())
    assert_equal(ours, unconditional.detach().numpy())
    without, _ = both.encode(prompt)
    assert np.abs(without - positive).max() > 1e-3


def test_a_textual_inversion_inside_weights(both: Both, tmp_path: Path) -> None:
    """Its slots are weighted like words: the words whose vectors it repeats give the same conditioning."""
    ids = both.theirs.tokenizer("red apple", add_special_tokens=False).input_ids
    table = both.theirs.text_encoder.get_input_embeddings().weight.detach()
    save_file({"emb_params": table[ids].contiguous()}, tmp_path / "fruit.safetensors")
    inversions = [(tmp_path / "fruit.safetensors", None)]
    cases = {
        "plain": ("a <fruit> x", "a red apple x", "a Fruit x", "a red apple x"),
        "compel": ("a (<fruit> x)0.6", "a (red apple x)0.6", "a fruit++ x", "a (red apple)++ x"),
        "a1111": ("a (<fruit>:1.3) x", "a (red apple:1.3) x", "a [fruit] x", "a [red apple] x"),
    }
    for syntax, (first, same_as_first, second, same_as_second) in cases.items():
        ours = both.encode([first, second], [second, first], inversions=inversions, syntax=syntax)
        words = both.encode([same_as_first, same_as_second], [same_as_second, same_as_first], syntax=syntax)
        for one, other in zip(ours, words, strict=True):
            assert other is not None
            assert_equal(one, other, syntax)


def test_a_picture_from_a_long_prompt(emoji_pipe: latentrt.Pipeline) -> None:
    """Two and more chunks through the same U-Net engine, against diffusers with compel's embeddings."""
    from compel import Compel
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(EMOJI)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    reference = Compel(theirs.tokenizer, theirs.text_encoder, truncate_long_prompts=False)
    with torch.no_grad():
        parts = [reference(LONG), reference("blurry++")]
        positive, negative = reference.pad_conditioning_tensors_to_same_length(parts)
    assert positive.shape[1] > 77
    common = {"num_inference_steps": 4, "guidance_scale": 5.0}
    expected = theirs(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
        **common,
    ).images
    result = emoji_pipe(
        LONG, negative_prompt="blurry++", seed=7, sampler="ddim", output_type="latent", prompt_syntax="compel", **common
    )
    assert parity_of(result.latents, expected.numpy()).relative_error < 1e-3


def test_the_table_is_the_checkpoints(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    """Bit for bit, and the manifest describes it."""
    from transformers import CLIPTextModel

    record = json.loads((tiny_bundle / "bundle.json").read_text("utf-8"))["token_embeddings"]["text_encoder"]
    table = CLIPTextModel.from_pretrained(tiny_checkpoint / "text_encoder").get_input_embeddings().weight.detach()
    assert [record["rows"], record["width"]] == list(table.shape)
    np.testing.assert_array_equal(load_file(tiny_bundle / record["file"])[record["tensor"]], table.numpy())


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat withLora(x,1)",
        "withLora(x) a",
        "withLora ( x , 2. ) useLora(y-z_1, -2)",
        'withLora(x, .5) ("a","b").blend(1,1) useLora(y)',
        r'("a withLora(q,0.3) \"z\"","b").and()',
        "(a withLora(x, 0.5) c)1.2 d+",
        r'"a \t withLora(x , 1) b"+',
        "catwithLora(x)",
        "(catwithLora(x)) (a.withLora(y,1))",
        "a,withLora(x,1),b",
        "withLora(x)++ b",
        r"withLora\(x\)",
    ],
)
def test_compel_loras(prompt: str) -> None:
    """The same ones with the same weights as compel's own parser finds, and the same text around them."""
    from compel.prompt_parser import Blend as TheirBlend
    from compel.prompt_parser import PromptParser

    theirs = PromptParser().parse_conjunction(prompt)
    tree = prompt_from_compel(prompt)
    assert [(lora.name, lora.unet) for lora in tree.loras] == [(one.model, one.weight) for one in theirs.lora_weights]
    assert all(lora.unet == lora.text for lora in tree.loras)
    parts = [one for part in theirs.prompts for one in (part.prompts if isinstance(part, TheirBlend) else [part])]
    expected = [[(one.text, one.weight) for one in part.children] for part in parts] or [[("", 1.0)]]
    assert [[(one.text, one.weight) for one in text.fragments] for text in tree.texts] == expected
