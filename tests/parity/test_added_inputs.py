"""Inputs added to exported U-Nets: left out they change nothing, given they do what diffusers does."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from parity.unet_variants import (
    Variant,
    assert_close,
    library_answer,
    neutral_inputs,
    opened_variants,
    random_inputs,
    without,
)

import latentrt
from latentrt.engines.backends.ort_cpu.compile import compile_onnx, group_norm_of
from latentrt.engines.backends.ort_cpu.model import OrtCpuModel, open_session, session_options
from latentrt.engines.bundle.unet.added_inputs import (
    KEYS,
    SCALES,
    VALUES,
    attended_levels,
    down_residual,
    feature,
    feature_planes,
    image_prompt_mask,
)
from latentrt.engines.bundle.unet.structure import unet_structure
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.editor import load_graph, serialized
from latentrt.engines.graphs.variants.variant import add_inputs
from latentrt.engines.shapes import AddedInputs
from latentrt.engines.spec import Array

FAMILIES = ("sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl", "emoji")
MORE = ("sd1-inpaint", "lcm-sd1", "sdxl-refiner", "sdxl-inpaint")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Variant]]:
    """By family and precision; opened when it is first asked for."""
    with opened_variants(request) as variants:
        yield variants


@pytest.mark.parametrize(
    "name",
    [
        "emoji",
        "sd1-fp16",
        "emoji-int8",
        *(pytest.param(name, marks=slow) for name in ("sd1", "sd2", "sdxl", *MORE)),
    ],
)
def test_left_out_they_change_nothing(name: str, variant: Callable[[str], Variant], tmp_path: Path) -> None:
    """To the last bit: beside an engine that was compiled without them, and beside neutral numbers."""
    unet = variant(name)
    compile_onnx(unet.component.onnx, tmp_path, group_norm=group_norm_of(unet.component))
    plain = OrtCpuModel.of_compiled(tmp_path, threads=2, halves=True).engine(
        unet.component.spec_of_any_batch(unet.shapes())
    )
    engine = unet.engine(*AddedInputs)
    for batch in (1, 3):
        inputs = random_inputs(plain, batch)
        expected = plain.run(inputs)
        for found in (engine.run(inputs), engine.run({**inputs, **neutral_inputs(engine, batch)})):
            np.testing.assert_array_equal(found["out_sample"], expected["out_sample"])
    plain.close()


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=slow) for name in MORE)])
def test_residuals_and_features_are_diffusers(name: str, variant: Callable[[str], Variant]) -> None:
    """Residuals alone, features alone, all but the mid block's feature, everything; each tensor has other numbers."""
    unet = variant(name)
    engine, library, structure = unet.engine(AddedInputs.CONTROL), unet.diffusers(), unet.component.structure
    last = feature(len(structure.down))
    kinds = {"residual": lambda name: "residual" in name, "feature": lambda name: "feature" in name}
    for batch, leaves_out in enumerate((kinds["residual"], kinds["feature"], lambda name: name == last), 1):
        inputs = random_inputs(engine, batch, scale=2.0)
        given = {name: array for name, array in inputs.items() if not leaves_out(name)}
        found = engine.run(given)["out_sample"]
        assert_close(found, library_answer(library, given, structure, {}))
        difference = found - engine.run(without(given, engine))["out_sample"]
        assert np.abs(difference).mean() > 0.02 * np.abs(found).mean()
    everything = random_inputs(engine, 2, scale=2.0)
    assert_close(engine.run(everything)["out_sample"], library_answer(library, everything, structure, {}))


class ImagePrompts:
    """Two random adapters of diffusers on a U-Net of its own, and what they are to an engine."""

    TOKENS = (2, 4)
    COMMON = 4  # tokens that are repeated share a softmax as if they were there once

    def __init__(self, unet: Variant) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

        torch.manual_seed(5)
        self.structure = unet.component.structure
        self.library = unet.diffusers()
        self.library.encoder_hid_proj = torch.nn.Identity()
        self.library.register_to_config(encoder_hid_dim_type="ip_image_proj")
        self.width = self.library.config.cross_attention_dim
        processors: dict[str, Any] = {name: AttnProcessor2_0() for name in self.library.attn_processors}
        layers = [f"{layer.scope}.processor" for layer in self.structure.cross_attentions]
        assert layers == [name for name in processors if "attn2" in name]  # in the order of the library's modules
        for index, layer in enumerate(self.structure.cross_attentions):
            row = IPAdapterAttnProcessor2_0(
                layer.width, self.width, self.TOKENS, [0.5 + 0.2 * index, 1.5 - 0.1 * index]
            )
            for weight in row.parameters():
                torch.nn.init.normal_(weight, std=0.5 * self.width**-0.5)
            processors[layers[index]] = row
        processors[layers[0]].scale[1] = 0.0  # skipped there
        self.library.set_attn_processor(dict(processors))  # which empties it
        self.rows = [processors[name] for name in layers]

    def drawn(self, batch: int, masked: bool, size: tuple[int, int]) -> tuple[dict[str, Array], dict[str, Any]]:
        """Other tokens for every sample: an engine's inputs, and diffusers' arguments beside the U-Net's own."""
        from diffusers.image_processor import IPAdapterMaskProcessor

        random = torch.Generator().manual_seed(batch)
        states = [torch.randn(batch, 1, tokens, self.width, generator=random) for tokens in self.TOKENS]
        masks = [(torch.rand(1, 1, 4, 4, generator=random) < 0.6).float() for _ in states]
        masks = [torch.nn.functional.interpolate(mask, (32, 32)) for mask in masks]

        def packed(kind: str) -> Array:
            prompts = []
            for index, state in enumerate(states):
                with torch.no_grad():
                    layers = [getattr(row, kind)[index](state) for row in self.rows]
                prompts.append(torch.cat(layers, -1).repeat(1, 1, self.COMMON // state.shape[2], 1))
            return torch.cat(prompts, 1).numpy()

        scales = np.array([row.scale for row in self.rows], np.float32).T
        inputs = {KEYS: packed("to_k_ip"), VALUES: packed("to_v_ip"), SCALES: np.tile(scales, (batch, 1, 1))}
        if masked:
            for level in attended_levels(self.structure):
                places = size[0] * size[1] // 4**level
                layers = [IPAdapterMaskProcessor.downsample(mask[:, 0], batch, places, 1)[..., 0] for mask in masks]
                inputs[image_prompt_mask(level)] = torch.stack(layers, 1).numpy()
        return inputs, {"image_embeds": states, "masks": masks if masked else None}

    def answer(self, inputs: Mapping[str, Array], given: Mapping[str, Any]) -> Array:
        """What diffusers answers to a U-Net's inputs, control's among them."""
        keywords = {} if given["masks"] is None else {"cross_attention_kwargs": {"ip_adapter_masks": given["masks"]}}
        return library_answer(self.library, inputs, self.structure, {"image_embeds": given["image_embeds"]}, **keywords)


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=slow) for name in MORE)])
def test_image_prompts_are_diffusers(name: str, variant: Callable[[str], Variant]) -> None:
    """Two adapters with scales of their own in every layer, with masks and without.

    The last call has residuals and features, too.
    """
    unet = variant(name)
    prompts = ImagePrompts(unet)
    engine = unet.engine(AddedInputs.CONTROL, AddedInputs.IMAGE_PROMPT, image_prompts=2, image_tokens=prompts.COMMON)
    size = unet.component.manifest.latents.size(unet.shapes().profile)
    for batch, masked, controlled in ((1, False, False), (2, True, False), (3, True, True)):
        inputs = random_inputs(engine, batch)
        own = (
            {name: array for name, array in inputs.items() if "image_prompt" not in name}
            if controlled
            else without(inputs, engine)
        )
        added, given = prompts.drawn(batch, masked, size)
        found = engine.run({**own, **added})["out_sample"]
        assert_close(found, prompts.answer(own, given))
        difference = found - engine.run(own)["out_sample"]
        assert np.abs(difference).mean() > 0.02 * np.abs(found).mean()


@pytest.mark.parametrize(("name", "bound"), [("sd1-fp16", 2e-3), ("emoji-int8", 0.06)])
def test_in_fewer_bits_they_do_the_same(name: str, bound: float, variant: Callable[[str], Variant]) -> None:
    """Everything at once, beside diffusers in fp32: no further from it than without."""
    unet = variant(name)
    prompts = ImagePrompts(unet)
    engine = unet.engine(AddedInputs.CONTROL, AddedInputs.IMAGE_PROMPT, image_prompts=2, image_tokens=prompts.COMMON)
    inputs = random_inputs(engine, 2, scale=0.5)
    own = {name: array for name, array in inputs.items() if "image_prompt" not in name}
    added, given = prompts.drawn(2, True, unet.component.manifest.latents.size(unet.shapes().profile))
    assert_close(engine.run({**own, **added})["out_sample"], prompts.answer(own, given), bound)
    plain = without(inputs, engine)
    assert_close(
        engine.run(plain)["out_sample"], library_answer(unet.diffusers(), plain, unet.component.structure, {}), bound
    )


def test_required_they_are_the_same(variant: Callable[[str], Variant]) -> None:
    """For backends that take no defaults: a graph over the same weights file, inputs of named dimensions."""
    unet = variant("sd1")
    engine = unet.engine(*AddedInputs, image_prompts=2, image_tokens=4)
    inputs = random_inputs(engine, 2, scale=0.5)
    graph = load_graph(unet.component.onnx)
    add_inputs(graph, unet.component.structure, tuple(AddedInputs), optional=False)
    options = session_options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, 1, packs=False)
    session = open_session(unet.component.onnx, options, graph=serialized(graph))
    shapes = {one.name: one.shape for one in session.get_inputs()}
    assert shapes.keys() == engine.spec.inputs.keys()
    assert not session.get_overridable_initializers()
    structure = unet.component.structure
    assert shapes[down_residual(2)] == ["batch", structure.entry, "height_1", "width_1"]
    assert shapes[KEYS][:3] == ["batch", "image_prompts", "image_tokens"]
    (found,) = session.run(["out_sample"], inputs)
    assert_close(found, engine.run(inputs)["out_sample"])


def test_who_compiled_without_onnx_gets_one_sentence(
    variant: Callable[[str], Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine draws as ever."""
    unet = variant("sd1")

    def missing(_: Path) -> None:
        raise ImportError("onnx_ir")

    monkeypatch.setattr("latentrt.engines.backends.ort_cpu.compile.load_graph", missing)
    compile_onnx(unet.component.onnx, tmp_path, added_to=unet.component.structure)
    model = OrtCpuModel.of_compiled(tmp_path, threads=2, halves=True)
    plain = model.engine(unet.component.spec_of_any_batch(unet.shapes()))
    assert plain.run(random_inputs(plain, 2)).keys() == {"out_sample"}
    with pytest.raises(
        EngineError,
        match=r"without inputs for control, freeu, image-prompt, perturbed-attention.*install latentrt\[export\]",
    ):
        model.engine(unet.component.spec_of_any_batch(unet.shapes(*AddedInputs)))
    model.close()


def test_a_graph_that_is_no_such_unet_is_refused(variant: Callable[[str], Variant]) -> None:
    """Not rewritten by half."""
    unet = variant("sd1")
    structure = unet.component.structure
    elsewhere = replace(structure.cross_attentions[0], scope="down_blocks.7.attentions.0.transformer_blocks.0.attn2")
    for wrong, which, said in (
        (replace(structure, down=structure.down[:1]), AddedInputs.CONTROL, "join 4 planes, expected 3"),
        (
            replace(structure, cross_attentions=(elsewhere,)),
            AddedInputs.IMAGE_PROMPT,
            "without the attention down",
        ),
    ):
        graph = load_graph(unet.component.onnx)
        with pytest.raises(EngineError, match=said):
            add_inputs(graph, wrong, [which])


def _without_mid_block(checkpoint: Path) -> Any:
    """The tiny U-Net without its mid block, as distilled models leave it out, with random weights."""
    import diffusers

    config = diffusers.UNet2DConditionModel.load_config(checkpoint, subfolder="unet")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel.from_config({**config, "mid_block_type": None})


def test_the_structure_of_a_unet_without_mid_block(family_checkpoint: Callable[[str], Path]) -> None:
    """What the first up block takes has a residual, and no feature."""
    weights = _without_mid_block(family_checkpoint("sd1")).state_dict()
    structure = unet_structure({name: tuple(tensor.shape) for name, tensor in weights.items()})
    assert structure.middle == structure.skips[-1]
    assert len(feature_planes(structure)) == len(structure.down) == 2
    assert {one.scope.split(".")[0] for one in structure.cross_attentions} == {"down_blocks", "up_blocks"}


@slow
def test_a_unet_without_mid_block_is_diffusers(
    family_checkpoint: Callable[[str], Path], exports: None, tmp_path: Path
) -> None:
    """It is built as any other, and the last skip has its own residual alone."""
    checkpoint = shutil.copytree(family_checkpoint("sd1"), tmp_path / "model")
    shutil.rmtree(checkpoint / "unet")
    _without_mid_block(family_checkpoint("sd1")).save_pretrained(checkpoint / "unet")
    latentrt.build(checkpoint, tmp_path / "model.bundle", profiles=["32x32x2"])
    unet = Variant(tmp_path / "model.bundle", checkpoint)
    engine = unet.engine(AddedInputs.CONTROL)
    inputs = random_inputs(engine, 2, scale=2.0)
    expected = library_answer(unet.diffusers(), inputs, unet.component.structure, {})
    assert_close(engine.run(inputs)["out_sample"], expected)
    unet.close()
