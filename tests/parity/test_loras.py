"""Pictures with LoRAs and their relatives equal those of diffusers, peft and LyCORIS, which wrote the files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.lora_files import (
    ENCODERS,
    lycoris_network,
    parts_of,
    saved_by_diffusers,
    saved_by_lycoris,
    saved_by_peft,
)
from parity.reference import DiffusersReference, Reference
from safetensors.torch import load_file, save_file
from shared import filled_once

import latentrt
from latentrt.engines.spec import Array
from latentrt.models import EMBEDDED, EMOJI

PICTURE_PSNR, FP16_PSNR = 50.0, 40.0
EFFECT_PSNR = 45.0  # a LoRA that changes less would prove nothing
PROMPT, SEED, STEPS, GUIDANCE = "a red apple", 7, 4, 4.0
INK = EMOJI.parents[1] / "examples" / "loras"
FAMILIES = ("sd1", "sd2", "sdxl", "emoji")

Strengths = float | tuple[float, float]
"""Of U-Net and text encoders alike, or of one and the others."""


def psnr(one: Array, other: Array) -> float:
    """Of pixels in [0, 1]."""
    return -10 * float(np.log10(max(np.mean((one - other) ** 2), 1e-15)))


@dataclass
class Sides:
    """A model's pipeline and the diffusers pipelines of the same checkpoint; LoRAs in them last for one ``with``."""

    bundle: Path
    pipe: latentrt.Pipeline
    theirs: DiffusersReference
    size: tuple[int, int]

    @property
    def text(self) -> Any:
        """The diffusers pipeline from text."""
        return self.theirs.text

    def drawn_by_them(self) -> Reference:
        return self.theirs.draw(
            prompt=PROMPT, sampler="euler", seeds=SEED, size=self.size, steps=STEPS, guidance_scale=GUIDANCE
        )

    def drawn(self, loras: Mapping[str, Any] | None = None) -> latentrt.Result:
        return drawn_by(self.pipe, **({} if loras is None else {"loras": loras}))

    @cached_property
    def plain(self) -> Reference:
        """Theirs without a LoRA."""
        return self.drawn_by_them()

    @contextmanager
    def loaded(self, *paths: Path) -> Iterator[tuple[str, ...]]:
        """LoRAs in our pipeline; their names."""
        names = tuple(f"lora{number}" for number, _ in enumerate(paths))
        for name, path in zip(names, paths, strict=True):
            self.pipe.load_lora(path, name=name)
        try:
            yield names
        finally:
            self.pipe.unload_lora()

    def check(self, expected: Reference, strengths: Mapping[Path, Strengths]) -> latentrt.Result:
        """Our picture is theirs, and not the one without a LoRA; gone again, it is the one without."""
        with self.loaded(*strengths) as names:
            ours = self.drawn(dict(zip(names, strengths.values(), strict=True)))
        assert psnr(self.plain.pixels, expected.pixels) < EFFECT_PSNR
        assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR
        return ours

    @contextmanager
    def in_diffusers(self, strengths: Mapping[Path, Strengths]) -> Iterator[None]:
        """Files loaded by diffusers itself, with ``set_adapters``."""
        names, weights = [], []
        try:
            for number, (path, strength) in enumerate(strengths.items()):
                names.append(f"lora{number}")
                self.text.load_lora_weights(path.parent, weight_name=path.name, adapter_name=names[-1])
                self._with_magnitudes(path, names[-1])
                unet, text = strength if isinstance(strength, tuple) else (strength, strength)
                weights.append({"unet": unet, **dict.fromkeys(parts_of(self.text, ENCODERS), text)})
            if any(isinstance(strength, tuple) for strength in strengths.values()):
                self.text.set_adapters(names, weights)
            else:
                self.text.set_adapters(names, list(strengths.values()))
            yield
        finally:
            self.text.unload_lora_weights()

    def _with_magnitudes(self, path: Path, name: str) -> None:
        """Gives text encoders the magnitudes of a file of DoRA, which transformers (5.24) leaves at the norms of W."""
        tensors = load_file(path)
        for part, module in parts_of(self.text, ENCODERS).items():
            for layer_name, layer in module.named_modules():
                magnitude = tensors.get(f"{part}.{layer_name}.lora_magnitude_vector")
                if magnitude is not None:
                    layer.lora_magnitude_vector[name].weight.data.copy_(magnitude)

    def check_with_diffusers(self, strengths: Mapping[Path, Strengths]) -> latentrt.Result:
        with self.in_diffusers(strengths):
            expected = self.drawn_by_them()
        return self.check(expected, strengths)

    @contextmanager
    def changed(self, weights: Mapping[str, Mapping[str, torch.Tensor]]) -> Iterator[None]:
        """Their modules with other weights, by part and name."""
        kept = {part: {name: getattr(self.text, part).get_parameter(name).clone() for name in weights[part]}
                for part in weights}  # fmt: skip

        def put(values: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
            with torch.no_grad():
                for part, tensors in values.items():
                    for name, tensor in tensors.items():
                        getattr(self.text, part).get_parameter(name).copy_(tensor)

        put(weights)
        try:
            yield
        finally:
            put(kept)


def drawn_by(pipe: latentrt.Pipeline, **loras: Any) -> latentrt.Result:
    """Pixels and latents of one pipeline."""
    return pipe(
        PROMPT,
        sampler="euler",
        seed=SEED,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
        **loras,
    )


@pytest.fixture(scope="module")
def sides(
    request: pytest.FixtureRequest,
    family_pipe: Callable[[str], latentrt.Pipeline],
    family_bundle: Callable[[str], Path],
    family_checkpoint: Callable[[str], Path],
) -> Iterator[Callable[[str], Sides]]:
    """Both sides of a model."""

    @cache
    def both(family: str) -> Sides:
        if family == "emoji":
            bundle, pipe = (request.getfixturevalue(f"emoji_{what}") for what in ("bundle", "pipe"))
            return Sides(bundle, pipe, DiffusersReference(EMOJI), (64, 64))
        theirs = DiffusersReference(family_checkpoint(family))
        return Sides(family_bundle(family), family_pipe(family), theirs, (32, 32))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield both
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], Path]:
    """A new folder each time."""
    numbers = count()

    def made() -> Path:
        one = tmp_path / str(next(numbers))
        one.mkdir()
        return one

    return made


def cases(*kinds: str, often: Mapping[str, str]) -> Any:
    """Kinds for families; of each kind ``make test`` runs one family."""
    return pytest.mark.parametrize(
        ("family", "kind"),
        [
            pytest.param(family, kind, marks=() if often.get(kind) == family else pytest.mark.slow)
            for kind in kinds
            for family in FAMILIES
            if (kind, family) != ("boft", "emoji")  # whose 96 channels LyCORIS cannot cut into powers of two
        ],
    )


def families(*, often: str) -> Any:
    """All, of which ``make test`` runs one."""
    marked = [pytest.param(family, marks=() if family == often else pytest.mark.slow) for family in FAMILIES]
    return pytest.mark.parametrize("family", marked)


DIFFUSERS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "locon": {"convolutions": True},
    "dora": {"use_dora": True},
    "dora-conv": {"use_dora": True, "convolutions": True},
    "rslora": {"use_rslora": True, "alpha": 4.0},
    "patterns": {"rank_pattern": {"to_q": 2, "fc1": 6}, "alpha_pattern": {"to_v": 1.0}},
    "text": {"parts": ENCODERS, "alpha": 8.0},
    "unet": {"parts": ("unet",)},
}


@cases(*DIFFUSERS, often={"lora": "sd1", "dora": "sd1", "text": "sdxl"})
def test_files_of_diffusers(sides: Callable[[str], Sides], folder: Callable[[], Path], family: str, kind: str) -> None:
    """What ``save_lora_weights`` writes and ``load_lora_weights`` reads; alpha is not the rank."""
    both = sides(family)
    file = saved_by_diffusers(both.text, folder(), **DIFFUSERS[kind])
    both.check_with_diffusers({file: 1.0})
    if "dora" not in kind:  # at other weights peft rescales what it should leave alone
        both.check_with_diffusers({file: -1.5 if kind == "text" else 0.7})


@families(often="sd1")
@pytest.mark.slow
def test_sums_and_pairs_of_weights(sides: Callable[[str], Sides], folder: Callable[[], Path], family: str) -> None:
    """Two files at once, one of them against the other; U-Net and text encoders apart."""
    both = sides(family)
    first = saved_by_diffusers(both.text, folder(), seed=1)
    second = saved_by_diffusers(both.text, folder(), seed=11, convolutions=True, rank=2, alpha=4.0)
    both.check_with_diffusers({first: 0.8, second: -0.4})
    both.check_with_diffusers({first: (1.2, 0.3)})
    both.check_with_diffusers({first: (0.5, 1.0), second: (0.3, -0.2)})


@families(often="sd1")
def test_kohyas_files_in_diffusers(sides: Callable[[str], Sides], folder: Callable[[], Path], family: str) -> None:
    """LoRA and LoCon in kohya's names."""
    both = sides(family)
    network = lycoris_network(both.text, passed_over=["add_embedding"])  # which diffusers drops in such files
    file = saved_by_lycoris(network, folder() / "kohya.safetensors")
    both.check_with_diffusers({file: 0.8})


# Of a tiny SDXL's layers: diffusers' names and the original code's, by which kohya's scripts go for SDXL
ORIGINAL = {
    "conv_in": "input_blocks_0_0",
    "down_blocks_0_resnets_0": "input_blocks_1_0",
    "down_blocks_0_downsamplers_0_conv": "input_blocks_2_0_op",
    "down_blocks_1_resnets_0": "input_blocks_3_0",
    "down_blocks_1_attentions_0": "input_blocks_3_1",
    "mid_block_resnets_0": "middle_block_0",
    "mid_block_attentions_0": "middle_block_1",
    "mid_block_resnets_1": "middle_block_2",
    "up_blocks_0_resnets_0": "output_blocks_0_0",
    "up_blocks_0_attentions_0": "output_blocks_0_1",
    "up_blocks_0_resnets_1": "output_blocks_1_0",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
    "up_blocks_0_upsamplers_0": "output_blocks_1_2",
    "up_blocks_1_resnets_0": "output_blocks_2_0",
    "up_blocks_1_resnets_1": "output_blocks_3_0",
    "conv_out": "out_2",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
}
IN_RESNETS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


def original_name(name: str) -> str:
    """A tensor of kohya's file for a tiny SDXL in the original code's names."""
    stem, dot, leaf = name.partition(".")
    if not stem.startswith("lora_unet_"):
        return name
    path = stem.removeprefix("lora_unet_")
    (block,) = (block for block in ORIGINAL if path == block or path.startswith(f"{block}_"))
    rest = path.removeprefix(block).removeprefix("_")
    rest = IN_RESNETS.get(rest, rest)
    return f"lora_unet_{ORIGINAL[block]}{'_' if rest else ''}{rest}{dot}{leaf}"


def test_kohyas_files_of_sdxl_in_diffusers(sides: Callable[[str], Sides], folder: Callable[[], Path]) -> None:
    """In the original code's names; they draw bit for bit what the same file in diffusers' names draws."""
    both = sides("sdxl")
    network = lycoris_network(both.text, passed_over=["add_embedding"])
    file = saved_by_lycoris(network, folder() / "kohya.safetensors")
    original = file.with_name("original.safetensors")
    save_file({original_name(name): tensor for name, tensor in load_file(file).items()}, original)
    ours = both.check_with_diffusers({original: 0.8})
    with both.loaded(file) as (name,):
        np.testing.assert_array_equal(both.drawn({name: 0.8}).latents, ours.latents)


LYCORIS: Mapping[str, Mapping[str, Any]] = {
    "locon": {},
    "loha": {"algo": "loha"},
    "lokr": {"algo": "lokr", "factor": 4},
    "tucker-locon": {"use_tucker": True},
    "tucker-loha": {"algo": "loha", "use_tucker": True},
    "tucker-lokr": {"algo": "lokr", "factor": 4, "use_tucker": True},
    "dora": {"dora_wd": True},
    "dora-of-inputs": {"dora_wd": True, "wd_on_output": False},
    "loha-dora": {"algo": "loha", "dora_wd": True},
    "glora": {"algo": "glora"},
    "full": {"algo": "full", "train_norm": True},
    "oft": {"algo": "diag-oft"},
    "boft": {"algo": "boft"},
    "ia3": {"algo": "ia3"},
}


@cases(*LYCORIS, often={"loha": "emoji", "lokr": "sd1", "dora": "sd1"})
def test_files_of_lycoris(sides: Callable[[str], Sides], folder: Callable[[], Path], family: str, kind: str) -> None:
    """Against its own modules, as a trainer that samples runs them."""
    both = sides(family)
    network = lycoris_network(both.text, **LYCORIS[kind])
    network.apply_to(None, None, apply_text_encoder=True, apply_unet=True)
    try:
        file = saved_by_lycoris(network, folder() / "lycoris.safetensors")
        expected = both.drawn_by_them()
    finally:
        network.restore()
    both.check(expected, {file: 1.0})


@cases("loha", "lokr", "lora", often={"loha": "sdxl", "lokr": "sd1"})
def test_folders_of_peft(sides: Callable[[str], Sides], folder: Callable[[], Path], family: str, kind: str) -> None:
    """A folder a part; against peft's layers in the same modules."""
    import peft

    def config(targets: list[str]) -> Any:
        if kind == "lora":
            return peft.LoraConfig(r=4, lora_alpha=2, target_modules=targets)
        of_kind: Any = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}[kind]
        return of_kind(r=4, alpha=2, target_modules=targets)

    both = sides(family)
    saved = saved_by_peft(both.text, folder(), config, convolutions=True)
    with ExitStack() as stack:
        for part, module in parts_of(both.text).items():
            injected: Any = peft.PeftModel.from_pretrained(module, str(saved / part))
            stack.callback(injected.unload)
        expected = both.drawn_by_them()
    both.check(expected, {saved: 1.0})


def test_the_lora_of_the_examples(sides: Callable[[str], Sides]) -> None:
    """In kohya's form as diffusers reads it, and in PEFT's, of which the latents are the same."""
    both = sides("emoji")
    kohya = both.check_with_diffusers({INK / "ink.safetensors": 1.0})
    with both.loaded(INK / "ink") as (name,):
        np.testing.assert_array_equal(both.drawn({name: 1.0}).latents, kohya.latents)
    both.check_with_diffusers({INK / "ink.safetensors": 0.5})


def weights_in_float64(pipeline: Any, file: Path, strength: float) -> dict[str, dict[str, torch.Tensor]]:
    """W + w · (F(W) − W) for LoRA and DoRA in kohya's names.

    LoRA: F(W) = W + up·down · alpha / rank, where alpha 0 means the rank. DoRA: F(W) = m · V / ‖V‖ with V that sum, the
    norm over all axes but the one that m has.
    """
    tensors = {name: tensor.double() for name, tensor in load_file(file).items()}
    several = getattr(pipeline, "text_encoder_2", None) is not None
    changed: dict[str, dict[str, torch.Tensor]] = {}
    for part, module in parts_of(pipeline).items():
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te1" if several else "lora_te"}.get(part, "lora_te2")
        for name, parameter in module.named_parameters():
            path = name.removesuffix(".weight").replace(".", "_")
            path = path if part == "unet" or path.startswith("text_model_") else f"text_model_{path}"
            stem = f"{prefix}_{path}"
            if f"{stem}.lora_up.weight" not in tensors or not name.endswith(".weight"):
                continue
            up, down = tensors[f"{stem}.lora_up.weight"], tensors[f"{stem}.lora_down.weight"]
            scale = float(tensors[f"{stem}.alpha"]) / len(down) or 1.0
            weight = parameter.detach().double()
            new = weight + scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            magnitude = tensors.get(f"{stem}.dora_scale")
            if magnitude is not None:
                kept = 0 if magnitude.shape[0] == magnitude.numel() else 1
                axes = [axis for axis in range(new.ndim) if axis != kept]
                new = magnitude * new / new.square().sum(axes, keepdim=True).sqrt()
            changed.setdefault(part, {})[name] = weight + strength * (new - weight)
    assert sum(map(len, changed.values())) == sum(name.endswith(".alpha") for name in tensors)
    return changed


@pytest.mark.parametrize("strength", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@cases("alpha-0", "dora", "dora-of-inputs", often={"alpha-0": "sd1", "dora-of-inputs": "emoji"})
def test_what_diffusers_gets_wrong_in_float64(
    sides: Callable[[str], Sides], folder: Callable[[], Path], family: str, kind: str, strength: float
) -> None:
    """It drops ``dora_scale`` and makes nothing of alpha 0; LyCORIS means the rank by it."""
    both = sides(family)
    options = {} if kind == "alpha-0" else LYCORIS[kind]
    file = saved_by_lycoris(lycoris_network(both.text, **options), folder() / "kohya.safetensors")
    if kind == "alpha-0":
        tensors = {name: tensor * (not name.endswith(".alpha")) for name, tensor in load_file(file).items()}
        file = file.with_name("alpha.safetensors")
        save_file(tensors, file)
    with both.changed(weights_in_float64(both.text, file, strength)):
        expected = both.drawn_by_them()
    both.check(expected, {file: strength})


@families(often="sd1")
def test_without_it_nothing_is_left_of_it(
    sides: Callable[[str], Sides], folder: Callable[[], Path], family: str
) -> None:
    """None named, weight 0, unloaded: the bits of a pipeline that never saw one. A, then B, then A: the bits of A."""
    both = sides(family)
    with latentrt.open(both.bundle, threads=1) as fresh:
        never = drawn_by(fresh).latents
    first = saved_by_diffusers(both.text, folder(), seed=1, convolutions=True)
    second = saved_by_diffusers(both.text, folder(), seed=5, convolutions=True)
    with both.loaded(first) as (a,):
        alone = both.drawn({a: 0.9}).latents
    with both.loaded(first, second) as (a, b):
        np.testing.assert_array_equal(both.drawn().latents, never)
        seen = [both.drawn({name: 0.9}).latents for name in (a, b, a)]
        np.testing.assert_array_equal(seen[0], alone)
        np.testing.assert_array_equal(seen[2], alone)
        assert np.abs(seen[1] - alone).max() > 1e-2
        assert np.abs(alone - never).max() > 1e-2
        np.testing.assert_array_equal(both.drawn({a: 0.0, b: (0.0, 0.0)}).latents, never)
        np.testing.assert_array_equal(both.drawn({a: 0.9, b: 0.0}).latents, alone)
        together = both.drawn({a: 0.9, b: 0.4}).latents
        np.testing.assert_array_equal(both.drawn({b: 0.4, a: 0.9}).latents, together)
    np.testing.assert_array_equal(both.drawn().latents, never)


@families(often="sd1")
def test_in_half_precision(
    sides: Callable[[str], Sides],
    folder: Callable[[], Path],
    family_checkpoint: Callable[[str], Path],
    shared: Path,
    family: str,
) -> None:
    """A bundle in fp16 draws as the one in fp32 with the same LoRA."""
    both = sides(family)
    checkpoint = EMBEDDED if family == "emoji" else family_checkpoint(family)
    profiles = ["64x64" if family == "emoji" else "32x32x2"]
    half = filled_once(
        shared / ("half.bundle" if family == "sd1" else f"{family}-fp16.bundle"),  # the first is others', too
        lambda made: latentrt.build(checkpoint, made, precision="fp16", profiles=profiles),
    )
    file = saved_by_diffusers(both.text, folder(), convolutions=True)
    expected, ours, _ = _in_both(both, half, file)
    assert psnr(ours, expected) >= FP16_PSNR
    assert psnr(both.plain.pixels, expected) < FP16_PSNR


def test_in_eight_bits(sides: Callable[[str], Sides], int8_bundle: Path) -> None:
    """A bundle in int8, too: little is lost beyond what eight bits lose without a LoRA.

    The tests' bundle was searched with three pictures, so it loses much: 25 dB are left of this one, 21 with ink.
    """
    both = sides("emoji")
    expected, ours, never = _in_both(both, int8_bundle, INK / "ink.safetensors")
    assert psnr(ours, expected) >= psnr(never, both.plain.pixels) - 6
    assert psnr(both.plain.pixels, expected) < psnr(ours, expected) - 6


def _in_both(both: Sides, bundle: Path, file: Path) -> tuple[Array, Array, Array]:
    """Pictures with a LoRA of the fp32 bundle and of another one, and of that without it, also at weight 0."""
    with both.loaded(file) as (name,):
        expected = both.drawn({name: 0.8})
    with latentrt.open(bundle, threads=1) as pipe:
        never = drawn_by(pipe)
        pipe.load_lora(file, name="style")
        ours = drawn_by(pipe, loras={"style": 0.8})
        np.testing.assert_array_equal(drawn_by(pipe, loras={"style": 0.0}).latents, never.latents)
    return np.stack(expected.images), np.stack(ours.images), np.stack(never.images)
