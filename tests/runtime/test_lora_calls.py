"""LoRAs in a pipeline and its calls: what is loaded, named, refused, remembered, and said in metadata."""

import json
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.accelerators import accelerator_in
from latentrt.runtime.adapters.block_weights import block_weights
from latentrt.runtime.adapters.loaded import own_name, trigger_words
from latentrt.runtime.call.request import request_from_options
from latentrt.runtime.call.workflow import Workflow
from latentrt.runtime.pictures.picture_file import settings_from_parameters

COMMON: dict[str, Any] = {"num_inference_steps": 1, "seed": 1, "output_type": "latent"}


@pytest.fixture(scope="module")
def files(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two LoRAs for U-Net and text encoder, and one for each alone."""
    folder = tmp_path_factory.mktemp("loras")
    save_tiny_lora(folder / "style.safetensors", tiny_bundle, seed=1, metadata={"ss_output_name": "My Style v1"})
    save_tiny_lora(folder / "hero.safetensors", tiny_bundle, seed=2)
    save_tiny_lora(folder / "words.safetensors", tiny_bundle, seed=3, components=("text_encoder",))
    save_tiny_lora(folder / "look.safetensors", tiny_bundle, seed=4, components=("unet",))
    return folder


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path, files: Path) -> Iterator[latentrt.Pipeline]:
    """A pipeline with all of them. Do not load into it, nor unload."""
    with latentrt.open(tiny_bundle, threads=1, lora_cache=8) as pipe:
        for path in sorted(files.glob("*.safetensors")):
            pipe.load_lora(path)
        yield pipe


def drawn(pipe: latentrt.Pipeline, prompt: str | list[str] = "a cat", **more: Any) -> Array:
    return pipe(prompt, **{**COMMON, **more}).latents


def changes(one: Array, other: Array) -> bool:
    return bool(np.abs(one - other).max() > 1e-3)


def test_loading_and_unloading(tiny_bundle: Path, files: Path) -> None:
    """Loaded is not used; named is; unloaded is gone, bit for bit; names are the files' or one's own."""
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        plain = drawn(pipe)
        assert pipe.loras == ()
        assert pipe.load_lora(files / "style.safetensors") == "style"
        assert pipe.load_lora(str(files / "hero.safetensors"), name=" the hero ") == "the hero"
        np.testing.assert_array_equal(drawn(pipe), plain)
        np.testing.assert_array_equal(drawn(pipe, loras={}), plain)
        np.testing.assert_array_equal(drawn(pipe, loras={"style": 0, "the hero": (0, 0.0)}), plain)
        style, hero = drawn(pipe, loras={"style": 0.8}), drawn(pipe, loras={"the hero": -1.5})
        both = drawn(pipe, loras={"the hero": -1.5, "style": 0.8})
        assert all(changes(one, other) for one, other in ((style, plain), (hero, plain), (both, style), (both, hero)))
        np.testing.assert_array_equal(drawn(pipe, loras={"style": 0.8}), style)
        assert [(one.name, one.file) for one in pipe.loras] == [
            ("style", "style.safetensors"),
            ("the hero", "hero.safetensors"),
        ]
        assert [one.settings for one in pipe.loras] == [{}, {}]
        with pytest.raises(RequestError, match=r"LoRA 'style' is loaded already, from 'style\.safetensors'"):
            pipe.load_lora(files / "hero.safetensors", "style")
        pipe.unload_lora("style")
        with pytest.raises(RequestError, match=r"got LoRA 'style', expected one that is loaded \('the hero'\)"):
            drawn(pipe, loras={"style": 0.8})
        with pytest.raises(RequestError, match="got LoRA 'style', expected one that is loaded"):
            pipe.unload_lora(["the hero", "style"])
        assert len(pipe.loras) == 1
        pipe.unload_lora()
        assert pipe.loras == ()
        np.testing.assert_array_equal(drawn(pipe), plain)
        for refused in (lambda: pipe.unload_lora("style"), lambda: drawn(pipe, loras={"style": 1})):
            with pytest.raises(RequestError, match="and none is; load it with load_lora"):
                refused()


def test_a_bad_file_changes_nothing(tiny_bundle: Path, files: Path, tmp_path: Path) -> None:
    """The name stays free."""
    (tmp_path / "style.safetensors").write_bytes((files / "style.safetensors").read_bytes()[:-9])
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        for bad in (tmp_path / "style.safetensors", tmp_path / "nowhere.safetensors", 5, "", None):
            with pytest.raises(RequestError, match="; "):
                pipe.load_lora(bad)  # type: ignore[arg-type]
        assert pipe.loras == ()
        assert pipe.load_lora(files / "style.safetensors") == "style"


WEIGHTS: dict[str, tuple[Any, Any]] = {
    "a pair": ((0.8, 0.8), 0.8),
    "a list": ([0.8, 0.8], 0.8),
    "NumPy's numbers": ((np.float32(0.5), np.int64(1)), (0.5, 1)),
    "components": ({"unet": 0.8, "text_encoder": 0.3}, (0.8, 0.3)),
    "a component": ({"text_encoder": 0.3}, (1.0, 0.3)),
    "all blocks": ({"unet": {"down": 0.8, "mid": 0.8, "up": 0.8}, "text_encoder": 0.8}, 0.8),
    "each block": (
        {"unet": {"down": {"block_0": 0.5}, "mid": [0.5], "up": {"block_1": [0.5, 0.5]}}, "text_encoder": 0.5},
        0.5,
    ),
    "no blocks": ({"unet": {}}, 1),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_ways_to_say_a_weight(loaded: latentrt.Pipeline, name: str) -> None:
    """What means the same draws the same."""
    one, other = WEIGHTS[name]
    pictures = [drawn(loaded, loras={"style": weight}) for weight in (one, other)]
    np.testing.assert_allclose(*pictures, rtol=0, atol=1e-5)


def test_weights_reach_their_components(loaded: latentrt.Pipeline) -> None:
    """A pair's first number the U-Net alone, its second the text encoder; blocks the attentions in them."""
    plain = drawn(loaded)
    for name, of_unet, of_text in (("words", False, True), ("look", True, False), ("style", True, True)):
        assert changes(drawn(loaded, loras={name: (1, 0)}), plain) is of_unet
        assert changes(drawn(loaded, loras={name: (0, 1)}), plain) is of_text
    off = {"down": 0, "mid": 0, "up": 0}
    np.testing.assert_array_equal(drawn(loaded, loras={"look": {"unet": off}}), plain)
    seen = [drawn(loaded, loras={"look": {"unet": {**off, side: 1}}}).tobytes() for side in off]
    seen += [drawn(loaded, loras={"look": {"unet": {**off, "up": {"block_1": [1, 0]}}}}).tobytes()]
    assert len({plain.tobytes(), *seen}) == 1 + len(seen)


REFUSED: dict[str, tuple[Any, str]] = {
    "a text": ("style", r"got loras 'style', expected weights by name; write loras=\{'style': 0\.8\}"),
    "a list": (["style"], "expected weights by name"),
    "unknown": ({"stile": 1}, r"'style', 'words'\); did you mean 'style'\?"),
    "no name": ({3: 1}, "got LoRA 3, expected one that is loaded"),
    "not a number": ({"style": "much"}, "got 'much' as weight of LoRA 'style', expected a number, a pair"),
    "None": ({"style": None}, "got None as weight"),
    "True": ({"style": True}, "got True as weight"),
    "NaN": ({"style": float("nan")}, "got nan as weight of LoRA 'style', expected a finite number"),
    "infinite": ({"style": (1, float("inf"))}, "got inf as weight"),
    "three": ({"style": (1, 2, 3)}, "got 3 numbers as weight of LoRA 'style'"),
    "twice": ({"style": 1, "My Style v1": 1}, "got LoRA 'style' twice in loras"),
    "another component": (
        {"style": {"vae": 1}},
        "got 'vae' in the weight of LoRA 'style', expected some of unet, text_e",
    ),
    "blocks without a component": ({"style": {"down": 1}}, r"write \{'unet': \{'down': …\}\}"),
    "a side": (
        {"style": {"unet": {"left": 1}}},
        "got 'left' in the weight of LoRA 'style', expected some of down, mid",
    ),
    "a block without attentions": ({"style": {"unet": {"down": {"block_7": 1}}}}, "got 'block_7' for down"),
    "too many for a block": ({"style": {"unet": {"up": {"block_1": [1, 2, 3]}}}}, "got 3 weights for up.block_1"),
    "NaN in a block": ({"style": {"unet": {"mid": float("nan")}}}, "expected finite numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(loaded: latentrt.Pipeline, name: str) -> None:
    """In a sentence, before anything is drawn."""
    given, message = REFUSED[name]
    for call in (loaded, loaded.encode):
        with pytest.raises(RequestError, match=message) as refused:
            call("a cat", loras=given)  # type: ignore[operator]
        assert "; " in str(refused.value)
        assert "\n" not in str(refused.value)


def test_blocks_of_larger_models() -> None:
    """diffusers' own example, on the blocks of SD 1.x and of SDXL; lists for every block of a side, too."""
    counts = {("down", 1): 2, ("down", 2): 2, ("up", 0): 3, ("up", 1): 3}
    names = [f"{side}_blocks.{b}.attentions.{a}.proj_in.bias" for (side, b), n in counts.items() for a in range(n)]
    found = dict(block_weights({"down": 2, "up": {"block_0": 4, "block_1": [5, 6, 7]}}, names, "x"))
    assert {name: weight for name, weight in found.items() if ".attentions." in name} == {
        **{f"down_blocks.{b}.attentions.{a}.": 2 for b in (1, 2) for a in (0, 1)},
        **{f"up_blocks.0.attentions.{a}.": 4 for a in range(3)},
        **{f"up_blocks.1.attentions.{a}.": 5 + a for a in range(3)},
    }
    assert found["up_blocks.1.resnets.2."] == 7
    assert found["up_blocks.1.upsamplers.0."] == 5
    assert dict(block_weights({"down": [2, 3]}, names, "x"))["down_blocks.2.attentions.1."] == 3
    with pytest.raises(RequestError, match="middle block has no attention"):
        block_weights({"mid": 1}, names, "x")
    with pytest.raises(RequestError, match=r"got 'block_0' for down .* \(block_1, block_2\)"):
        block_weights({"down": {"block_0": 1}}, names, "x")


PROMPTS: dict[str, tuple[str, str, Any]] = {
    "a1111": ("a1111", "a cat <lora:style:0.8>", {"style": 0.8}),
    "a1111, two weights": ("a1111", "<lyco:style:0.8:0.5>a cat", {"style": (0.5, 0.8)}),
    "a1111, two LoRAs": ("a1111", "a cat<lora:hero:1><lora:style:0.8>", {"style": 0.8, "hero": 1}),
    "the name in the file": ("a1111", "a cat <lora:My Style v1:0.8>", {"style": 0.8}),
    "compel": ("compel", "a cat withLora(style, 0.8)", {"style": 0.8}),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_ask_for_loras(loaded: latentrt.Pipeline, name: str) -> None:
    """As if the call had named them; the text is read without them."""
    syntax, prompt, loras = PROMPTS[name]
    asked = drawn(loaded, [prompt] * 2, prompt_syntax=syntax)
    np.testing.assert_array_equal(asked, drawn(loaded, ["a cat"] * 2, prompt_syntax=syntax, loras=loras))
    assert changes(asked, drawn(loaded, ["a cat"] * 2))


REFUSED_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"prompt": "<lora:stile:1>"}, r"expected one that is loaded \('hero', .*did you mean 'style'"),
    "in both places": ({"prompt": "<lora:style:1>", "loras": {"style": 1}}, "named in the prompt and in loras"),
    "under two names": ({"prompt": "<lora:style:1><lora:My Style v1:1>"}, "named in the prompt twice"),
    "negative": ({"prompt": "a", "negative_prompt": "<lora:style:1>"}, "got LoRA 'style' in a negative prompt"),
    "different sets": ({"prompt": ["<lora:style:1>", "b"]}, r"\('style'; prompt 2: none\).*in calls of their own"),
    "different weights": ({"prompt": ["<lora:style:1>", "<lora:style:0.5>"]}, "different LoRAs or weights"),
}


@pytest.mark.parametrize("name", REFUSED_PROMPTS)
def test_refused_prompts(loaded: latentrt.Pipeline, name: str) -> None:
    """In a sentence, before anything is drawn."""
    given, message = REFUSED_PROMPTS[name]
    with pytest.raises(RequestError, match=message):
        loaded(**given, prompt_syntax="a1111", **COMMON)


def test_second_prompts_ask_too(family_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Of two text encoders; each may have a weight of its own. What the tag leaves is what is encoded and pooled."""
    bundle = family_bundle("sdxl")
    components = ("text_encoder", "text_encoder_2")
    save_tiny_lora(tmp_path / "both.safetensors", bundle, components=components)
    with latentrt.open(bundle, threads=1) as pipe:
        pipe.load_lora(tmp_path / "both.safetensors")
        plain = pipe.encode("a cat")["prompt_embeds"]
        both, first, second = (
            pipe.encode("a cat", loras={"both": {"text_encoder": one, "text_encoder_2": other}})["prompt_embeds"]
            for one, other in ((1, 1), (1, 0), (0, 1))
        )
        width = pipe._additions.text_encoders[0].embeddings.width
        np.testing.assert_array_equal(first[..., width:], plain[..., width:])
        np.testing.assert_array_equal(second[..., :width], plain[..., :width])
        np.testing.assert_array_equal(first[..., :width], both[..., :width])
        np.testing.assert_array_equal(second[..., width:], both[..., width:])
        assert changes(both[..., :width], plain[..., :width])
        assert changes(both[..., width:], plain[..., width:])
        for prompts in (("a <lora:both:1>", "b"), ("a", "b<lora:both:1>"), ("a <lora:both:1>", "b <lora:both:1>")):
            asked = pipe.encode(prompts[0], prompt_2=prompts[1], prompt_syntax="a1111")
            named = pipe.encode("a", prompt_2="b", prompt_syntax="a1111", loras={"both": 1})
            assert asked.keys() == named.keys()
            for name, value in asked.items():
                np.testing.assert_array_equal(value, named[name])  # type: ignore[literal-required]
        with pytest.raises(RequestError, match="different weights in the prompts of a picture"):
            pipe.encode("a <lora:both:1>", prompt_2="b <lora:both:0.5>", prompt_syntax="a1111")
        pooled = pipe.encode("a cat withLora(both, 0.5)", prompt_syntax="compel")["pooled_prompt_embeds"]
        named = pipe.encode("a cat ", prompt_syntax="compel", loras={"both": 0.5})
        np.testing.assert_array_equal(pooled, named["pooled_prompt_embeds"])


@pytest.mark.parametrize(
    ("syntax", "prompt", "begin"),
    [
        ("plain", "a <lora:style:1>", "<lora:"),
        ("compel", "a <lyco:style:1>", "<lyco:"),
        ("a1111", "a withLora(style)", "withLora("),
    ],
)
def test_loras_in_another_syntax_are_text(loaded: latentrt.Pipeline, syntax: str, prompt: str, begin: str) -> None:
    """And a warning says so."""
    with pytest.warns(UserWarning, match=f"a prompt has {begin[:-1]}.*takes for text; set prompt_syntax="):
        loaded(prompt, prompt_syntax=syntax, **COMMON)


def test_encoded_prompts(loaded: latentrt.Pipeline) -> None:
    """Encoding takes the weights of text encoders; drawing from what it gives, those of the U-Net."""
    whole = drawn(loaded, loras={"style": 0.8})
    embeds = loaded.encode("a cat", loras={"style": 0.8})
    np.testing.assert_array_equal(loaded(**embeds, loras={"style": 0.8}, **COMMON).latents, whole)
    np.testing.assert_array_equal(loaded(**embeds, loras={"style": (0.8, 0.1)}, **COMMON).latents, whole)
    np.testing.assert_array_equal(
        loaded.encode("a cat", loras={"look": 1})["prompt_embeds"], loaded.encode("a cat")["prompt_embeds"]
    )
    for idle in ({"words": 1}, {"style": (0, 1)}):
        with pytest.warns(UserWarning, match="changes the text encoder alone, and the prompts were encoded before"):
            loaded(**embeds, loras=idle, **COMMON)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del embeds["negative_prompt_embeds"]
        encoded_here = loaded(**embeds, negative_prompt="a dog", loras={"words": 1}, **COMMON).latents
    assert changes(encoded_here, loaded(**embeds, negative_prompt="a dog", **COMMON).latents)


def parameters(pipe: latentrt.Pipeline, prompt: str, **more: Any) -> str:
    return pipe(prompt, **{**COMMON, **more}).metadata[0].parameters()


def test_metadata(loaded: latentrt.Pipeline) -> None:
    """A1111's hashes and tags, so that it draws with them; what a tag cannot say is there as the keyword takes it."""
    short = {one.name: one.short_hash for one in loaded.loras}
    assert all(len(one) == 12 for one in short.values())
    told = settings_from_parameters(parameters(loaded, "a cat", loras={"style": 0.8, "hero": (1, 0.5), "look": 0}))
    assert told["Prompt"] == "a cat <lora:style:0.8> <lora:hero:0.5:1>"
    assert told["Lora hashes"] == f"style: {short['style']}, hero: {short['hero']}"
    assert "Lora weights" not in told
    written = "a cat <lora:style:0.8>"
    told = settings_from_parameters(parameters(loaded, written, prompt_syntax="a1111", loras={"hero": -1}))
    assert told["Prompt"] == f"{written} <lora:hero:-1>"
    told = settings_from_parameters(parameters(loaded, "a withLora(style, 0.8)", prompt_syntax="compel"))
    assert (told["Prompt"], told["Lora hashes"]) == ("a withLora(style, 0.8)", f"style: {short['style']}")
    blocks = {"style": {"unet": {"down": 0.5, "up": {"block_1": (0, np.float32(1))}}, "text_encoder": 0.25}}
    told = settings_from_parameters(parameters(loaded, "a cat", loras=blocks))
    assert told["Prompt"] == "a cat <lora:style:0.25:1>"
    again = json.loads(told["Lora weights"])
    np.testing.assert_array_equal(drawn(loaded, loras=again), drawn(loaded, loras=blocks))
    told = settings_from_parameters(parameters(loaded, "a cat"))
    assert not {"Lora hashes", "Lora weights"} & told.keys()


def test_names_and_words_of_files(tmp_path: Path) -> None:
    """A file's own name, or its folder's or repository's; trigger words where a trainer wrote some."""
    snapshot = tmp_path / "models--latent--lcm-lora-sdv1-5" / "snapshots" / ("0a" * 20)
    snapshot.mkdir(parents=True)
    (tmp_path / "peft style").mkdir()
    assert own_name(tmp_path / "Style v1.5.safetensors") == "Style v1.5"
    assert own_name(tmp_path / "a:b<c>=d.pt") == "a_b_c__d"
    assert own_name(snapshot / "pytorch_lora_weights.safetensors") == "lcm-lora-sdv1-5"
    assert own_name(tmp_path / "peft style") == "peft style"
    assert own_name(tmp_path / "peft style" / "adapter_model.safetensors") == "peft style"
    assert own_name(snapshot / "style.safetensors") == "style"
    assert trigger_words({}) == ()
    assert trigger_words({"modelspec.trigger_phrase": "zorp, a moebius style"}) == ("zorp", "a moebius style")
    counts = {"10_zorp": {"zorp": 12, " cat": 7}, "1_reg": {"cat": 3}}
    folders = {"10_zorp": {"n_repeats": 10, "img_count": 12}, "1_reg": {"n_repeats": 1, "img_count": 5}}
    kohya = {"ss_tag_frequency": json.dumps(counts), "ss_dataset_dirs": json.dumps(folders)}
    assert trigger_words(kohya) == ("zorp",)
    for broken in ("[", "[]", "3", '{"10_zorp": 3}', '{"10_zorp": {"zorp": []}}', "[" * 100_000):
        assert trigger_words({**kohya, "ss_tag_frequency": broken}) == ()


def test_bad_names(tiny_bundle: Path, files: Path) -> None:
    """Those that a tag could not hold, and what is no text."""
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        for name in ("", "  ", "a:b", "a=b", "<a>", "a\nb", 3, ["a"], "\ud800"):
            with pytest.raises(RequestError, match="; "):
                pipe.load_lora(files / "style.safetensors", name)  # type: ignore[arg-type]
        assert pipe.loras == ()


def test_threads_with_different_sets(tiny_bundle: Path, files: Path) -> None:
    """Every picture is of its own set, while others draw, load and unload."""
    sets: list[dict[str, Any]] = [{}, {"style": 1}, {"hero": 1}, {"style": 0.5, "hero": (1, 0)}]
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        for name in ("style", "hero"):
            pipe.load_lora(files / f"{name}.safetensors")
        expected = [drawn(pipe, loras=one).tobytes() for one in sets]
        assert len(set(expected)) == len(sets)
        seen: list[list[bytes]] = [[] for _ in sets]

        def draw(index: int) -> None:
            seen[index] += [drawn(pipe, loras=sets[index]).tobytes() for _ in range(4)]

        threads = [threading.Thread(target=draw, args=(index,)) for index in range(len(sets))]
        for thread in threads:
            thread.start()
        for _ in range(5):
            pipe.load_lora(files / "look.safetensors")
            pipe.unload_lora("look")
        for thread in threads:
            thread.join()
    assert seen == [[one] * 4 for one in expected]


def test_a_call_keeps_what_it_began_with(tiny_bundle: Path, files: Path) -> None:
    """A callback that unloads a LoRA does not change the picture."""
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_lora(files / "style.safetensors")
        expected = drawn(pipe, loras={"style": 1}, num_inference_steps=2)
        told = drawn(
            pipe, loras={"style": 1}, num_inference_steps=2, callback_on_step_end=lambda *_: pipe.unload_lora()
        )
        np.testing.assert_array_equal(told, expected)
        assert pipe.loras == ()


def test_the_cache(tiny_bundle: Path, files: Path) -> None:
    """How many sets stay ready is chosen as the bundle is opened, and later; their memory is told."""
    with latentrt.open(tiny_bundle, threads=1, lora_cache=1) as pipe:
        assert (pipe.lora_cache.size, pipe.lora_cache.bytes) == (1, 0)
        pipe.load_lora(files / "look.safetensors")
        drawn(pipe, loras={"look": 1})
        one = pipe.lora_cache.bytes
        assert one > 0
        drawn(pipe, loras={"look": 0.5})
        assert pipe.lora_cache.bytes == one
        pipe.lora_cache.size = 2
        drawn(pipe, loras={"look": 1})
        assert pipe.lora_cache.bytes == 2 * one
        pipe.lora_cache.clear()
        assert pipe.lora_cache.bytes == 0
        with pickle.loads(pickle.dumps(pipe)) as other:
            assert other.lora_cache.size == 1
    for bad in (-1, 1.5, True):
        with pytest.raises(RequestError, match="; "):
            latentrt.open(tiny_bundle, threads=1, lora_cache=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("loras", r"give it to the call, as pipe\(prompt, loras=…\)"),
        ("lora_cache", "pipe.lora_cache.size = 4"),
        ("load_lora_weights", "load LoRAs with load_lora"),
        ("set_adapters", "loras={'style': 0.8}"),
        ("unload_lora_weights", "use unload_lora"),
    ],
)
def test_what_is_written_otherwise_elsewhere(loaded: latentrt.Pipeline, name: str, advice: str) -> None:
    """Attributes that would change nothing, and diffusers' methods, are refused with what does the same."""
    with pytest.raises(RequestError, match=advice):
        setattr(loaded, name, {"style": 0.8})
    with pytest.raises(RequestError, match=r"loras=\{'style': 0.8\}"):
        loaded("a cat", cross_attention_kwargs={"scale": 0.5})  # type: ignore[call-arg]


def test_pickles(tiny_bundle: Path, files: Path, tmp_path: Path, family_bundle: Callable[[str], Path]) -> None:
    """A pipeline takes its LoRAs along, whatever becomes of their files."""
    path = tmp_path / "style.safetensors"
    path.write_bytes((files / "style.safetensors").read_bytes())
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_lora(path)
        path.unlink()
        expected = drawn(pipe, loras={"style": 1})
        with pickle.loads(pickle.dumps(pipe)) as other:
            assert [one.name for one in other.loras] == ["style"]
            np.testing.assert_array_equal(drawn(other, loras={"style": 1}), expected)


ACCELERATORS = {
    "lcm-lora-sdv1-5": ("LCM-LoRA", "lcm"),
    "LCM_LoRA_Weights_SD15": ("LCM-LoRA", "lcm"),
    "lcmlora": ("LCM-LoRA", "lcm"),
    "AnimateLCM_sd15_t2v_lora": ("LCM-LoRA", "lcm"),
    "sdxl_lightning_4step_lora": ("Lightning", "euler"),
    "SDXL-Lightning-8steps": ("Lightning", "euler"),
    "Hyper-SD15-1step-lora": ("Hyper-SD", "tcd"),
    "Hyper-SDXL-8steps-CFG-lora": ("Hyper-SD", "ddim"),
    "hyper_sdxl_12step": ("Hyper-SD", "ddim"),
    "dmd2_sdxl_4step_lora_fp16": ("DMD2", "lcm"),
    "sd_xl_turbo_lora_v1-64dim": ("Turbo", "euler_a"),
    "SD15 Turbo LoRA": ("Turbo", "euler_a"),
    "TCD-SDXL-LoRA": ("TCD", "tcd"),
    "pcm_sd15_smallcfg_2step_converted": ("PCM", "ddim"),
    "pcm_sdxl_lcmlike_lora_converted": ("PCM", "lcm"),
    "flash-sdxl": ("Flash", "lcm"),
}
NONE = ("style", "lightning_mage", "blue lightning", "turbo granny", "hyperrealism", "hyperdetail v2", "lcmaze", "atcd")


def test_accelerators_are_known_by_name() -> None:
    """Those that people share; not what is called so for what it draws."""
    for name, (label, sampler) in ACCELERATORS.items():
        found = accelerator_in(["", name])
        assert found is not None, name
        assert label in found.label
        assert found.samplers[0] == sampler
    assert [name for name in NONE if accelerator_in([name]) is not None] == []


@pytest.fixture(scope="module")
def accelerated(
    tiny_bundle: Path, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[latentrt.Pipeline]:
    """A pipeline with files of these names. Do not load into it, nor unload."""
    folder = tmp_path_factory.mktemp("accelerators")
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        for name in ACCELERATORS:
            path = folder / f"{name}.safetensors"
            path.write_bytes((files / "look.safetensors").read_bytes())
            pipe.load_lora(path)
        yield pipe


@pytest.mark.parametrize("name", ACCELERATORS)
def test_the_advice_for_an_accelerator_fits_it(accelerated: latentrt.Pipeline, name: str) -> None:
    """Other settings are named in one line, and what it says to do draws none."""

    def checked(**options: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            request_from_options(
                accelerated.manifest,
                "a cat",
                options,
                Workflow.TEXT,
                additions=accelerated._additions,
            )
        return [str(one.message) for one in caught]

    (message,) = checked(loras={name: 1}, num_inference_steps=60, guidance_scale=9.5)
    assert f"LoRA {name!r} is a" in message
    assert "sampler dpmpp_2m_k and 60 steps and guidance 9.5; draw with " in message
    advice = eval(f"dict({message.rpartition('draw with ')[2]})", {"latentrt": latentrt})
    (settings,) = [lora.settings for lora in accelerated.loras if lora.name == name]
    assert checked(loras={name: 1}, **advice) == checked(loras={name: 1}, **settings) == []
    assert checked(loras={name: 0}) == checked() == []
    both = dict.fromkeys(ACCELERATORS, 1)
    assert len(checked(loras=both)) == 1


def test_metadata_tell_of_accelerators(tiny_bundle: Path, tmp_path: Path) -> None:
    """Whatever the file is called; so does the name that it is given."""
    save_tiny_lora(tmp_path / "a.safetensors", tiny_bundle, metadata={"modelspec.title": "SDXL Lightning 4-step"})
    save_tiny_lora(tmp_path / "b.safetensors", tiny_bundle, metadata={"ss_output_name": "my_lcm_v2"})
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_lora(tmp_path / "a.safetensors")
        pipe.load_lora(tmp_path / "b.safetensors")
        pipe.load_lora(tmp_path / "b.safetensors", "dmd2")
        assert [one.accelerator for one in pipe.loras] == ["Lightning LoRA", "LCM-LoRA", "LCM-LoRA"]


def test_spacing_counts(tiny_bundle: Path, files: Path, tmp_path: Path) -> None:
    """Lightning needs Euler with trailing timesteps; Karras's sigmas are another sampler."""
    path = tmp_path / "sdxl_lightning_4step.safetensors"
    path.write_bytes((files / "look.safetensors").read_bytes())
    common: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 0.0, "seed": 1, "output_type": "latent"}
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_lora(path, "fast")
        for sampler, fault in (
            ("euler", "the call has (leading|linspace) timesteps;"),
            ("euler_k", "the call has sampler euler_k;"),
            (latentrt.Sampler(name="euler", timestep_spacing="trailing", sigma_spacing="karras"), "timesteps;"),
        ):
            with pytest.warns(UserWarning, match=fault) as warned:
                pipe("a cat", sampler=sampler, loras={"fast": 1}, **common)
            assert [Path(one.filename) for one in warned] == [Path(__file__)]


def test_a_file_that_is_no_lora(tiny_bundle: Path, tmp_path: Path) -> None:
    """Nothing of it is kept."""
    save_file({"emb_params": np.zeros((2, 64), np.float32)}, tmp_path / "words.safetensors")
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        with pytest.raises(RequestError, match=r"words\.safetensors"):
            pipe.load_lora(tmp_path / "words.safetensors")
        assert pipe.loras == ()
