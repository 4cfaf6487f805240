"""Files that the original tools write, for tiny models: each leads to the weights that the tool itself would have."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.adapter import Adapter
from latentrt.runtime.adapters.formats.bases import label_of_model
from latentrt.runtime.adapters.formats.files import adapter_from_path

diffusers = pytest.importorskip("diffusers")
lycoris = pytest.importorskip("lycoris")
peft = pytest.importorskip("peft")

# A pattern is for one component and is given for all
pytestmark = pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")

COMPONENTS = {"sd1": ("unet", "text_encoder"), "sdxl": ("unet", "text_encoder", "text_encoder_2")}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No logs, one seed."""
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    yield
    logging.disable(logging.NOTSET)


class Models(NamedTuple):
    """The modules of a checkpoint by component, and the shapes of their weights."""

    modules: dict[str, Any]
    weights: dict[str, dict[str, tuple[int, ...]]]


@pytest.fixture
def models(family_checkpoint: Callable[[str], Path]) -> Callable[[str], Models]:
    """A family's U-Net and text encoders."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    def load(family: str) -> Models:
        folder = family_checkpoint(family)
        classes = {"unet": diffusers.UNet2DConditionModel, "text_encoder": CLIPTextModel}
        modules, weights = {}, {}
        for component in COMPONENTS[family]:
            kind = classes.get(component, CLIPTextModelWithProjection)
            modules[component] = kind.from_pretrained(folder / component).requires_grad_(False)
            weights[component] = {
                named(component, name): tuple(tensor.shape) for name, tensor in modules[component].named_parameters()
            }
        return Models(modules, weights)

    return load


def named(component: str, name: str) -> str:
    """A weight's name as bundles have it: transformers 5 leaves ``text_model`` out."""
    own = component == "unet" or name.startswith(("text_model.", "text_projection."))
    return name if own else f"text_model.{name}"


def read(path: Path, models: Models) -> Adapter:
    """The adapter of a file or folder."""
    return adapter_from_path(path, "style", models.weights, label_of_model(models.weights))


def randomised(module: torch.nn.Module) -> None:
    """Gives whatever was added for training other values than those that change nothing."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            scale = 0.1 * float(parameter.detach().abs().mean()) + 0.01
            parameter.data += scale * torch.randn(parameter.shape)


def changed(adapter: Adapter, before: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Array]]:
    """All weights that an adapter changes, with their new values."""
    return {
        component: {
            name: before[component][name] + formula.change(before[component][name]) for name, formula in part.items()
        }
        for component, part in adapter.parts.items()
    }


def parameters(models: Models) -> dict[str, dict[str, Array]]:
    """Copies of all weights."""
    return {
        component: {
            named(component, name): tensor.detach().numpy().copy() for name, tensor in module.named_parameters()
        }
        for component, module in models.modules.items()
    }


def assert_same(
    adapter: Adapter, before: Mapping[str, Mapping[str, Array]], after: Mapping[str, Mapping[str, Array]]
) -> None:
    """What differs after the tool merged its adapter is what ours changes, and it changes likewise."""
    ours = changed(adapter, before)
    for component, weights in after.items():
        moved = {name for name, weight in weights.items() if not np.array_equal(weight, before[component][name])}
        assert moved
        assert moved <= ours[component].keys()
        for name in ours[component].keys() - moved:  # rotations of single numbers, for example
            np.testing.assert_allclose(ours[component][name], weights[name], rtol=0, atol=1e-6, err_msg=name)
        for name in moved:
            size = np.abs(weights[name] - before[component][name]).max()
            np.testing.assert_allclose(
                ours[component][name], weights[name], rtol=0, atol=2e-4 * size + 1e-6, err_msg=name
            )


TARGETS = {
    "unet": ["to_q", "to_k", "to_out.0", "ff.net.0.proj", "conv1", "proj_in"],
    "text": ["q_proj", "out_proj", "fc1"],
}


def lora_config(component: str, **options: Any) -> Any:
    """PEFT's, for a component."""
    targets = TARGETS["unet" if component == "unet" else "text"]
    return peft.LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": targets, **options})


def merged(models: Models, wrapped: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """The weights after PEFT merged its adapters into them."""
    after = {}
    for component, model in wrapped.items():
        whole = model.merge_and_unload()
        after[component] = {
            named(component, name): tensor.detach().numpy() for name, tensor in whole.named_parameters()
        }
    return after


LORA_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "DoRA": {"use_dora": True},
    "rsLoRA with patterns": {
        "use_rslora": True,
        "rank_pattern": {"to_q": 5},
        "alpha_pattern": {"attn1.to_k": 1, "fc1": 2},
    },
    "biases": {"lora_bias": True, "target_modules": ["ff.net.0.proj", "fc1"]},
    "modules to save": {"modules_to_save": ["conv_in", "final_layer_norm"]},
}


@pytest.mark.parametrize("options", LORA_OPTIONS)
@pytest.mark.parametrize("safe", [True, False])
def test_peft_folders(options: str, safe: bool, models: Callable[[str], Models], tmp_path: Path) -> None:
    """``save_pretrained`` into InvokeAI's folders, safetensors and pickles."""
    loaded = models("sd1")
    before = parameters(loaded)
    wrapped = {}
    for component, module in loaded.modules.items():
        wrapped[component] = peft.get_peft_model(module, lora_config(component, **LORA_OPTIONS[options]))
        randomised(wrapped[component])
        wrapped[component].save_pretrained(tmp_path / component, safe_serialization=safe)
    assert_same(read(tmp_path, loaded), before, merged(loaded, wrapped))


OTHER_PEFT: dict[str, Callable[[list[str]], Any]] = {
    "LoHa": lambda targets: peft.LoHaConfig(r=3, alpha=5, target_modules=targets, alpha_pattern={"to_q": 2}),
    "LoKr": lambda targets: peft.LoKrConfig(r=2, alpha=5, target_modules=targets, rank_pattern={"to_q": 3}),
    "(IA)³": lambda targets: peft.IA3Config(target_modules=targets, feedforward_modules=["ff.net.0.proj"]),
}


@pytest.mark.parametrize("kind", OTHER_PEFT)
def test_other_kinds_of_peft(kind: str, models: Callable[[str], Models], tmp_path: Path) -> None:
    """One folder for the U-Net."""
    loaded = models("sd1")
    before = parameters(loaded)
    module = peft.get_peft_model(loaded.modules["unet"], OTHER_PEFT[kind](TARGETS["unet"][:-1]))
    randomised(module)
    module.save_pretrained(tmp_path / "style")
    assert_same(read(tmp_path / "style", loaded), before, merged(loaded, {"unet": module}))


def peft_states(loaded: Models, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """PEFT's tensors and configs by component, as diffusers' training scripts take them; adapters are left in place."""
    states, configs = {}, {}
    for component, module in loaded.modules.items():
        # As add_adapter, which refuses releases of PEFT that diffusers was not tried with
        module.peft_config = {"default": lora_config(component, **options)}
        peft.inject_adapter_in_model(module.peft_config["default"], module)
        randomised(module)
        states[component] = peft.utils.get_peft_model_state_dict(module)
        configs[component] = module.peft_config["default"].to_dict()
    return states, configs


def merged_in_place(loaded: Models) -> dict[str, dict[str, Array]]:
    """The weights after diffusers' own adapters were merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    after: dict[str, dict[str, Array]] = {}
    for component, model in loaded.modules.items():
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
        weights = {
            name.replace(".base_layer", ""): tensor for name, tensor in model.named_parameters() if ".lora_" not in name
        }
        after[component] = {named(component, name): tensor.detach().numpy() for name, tensor in weights.items()}
    return after


PIPELINES = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("form", ["PEFT", "PEFT with its config", "diffusers", "kohya", "pickle"])
def test_diffusers(family: str, form: str, models: Callable[[str], Models], tmp_path: Path) -> None:
    """``save_lora_weights`` of the pipelines in three generations of names, and their conversion to kohya's."""
    from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya

    loaded = models(family)
    before = parameters(loaded)
    patterns = {"alpha_pattern": {"to_k": 12, "fc1": 1}} if form == "PEFT with its config" else {"lora_alpha": 3}
    states, configs = peft_states(loaded, **patterns)
    pipeline = getattr(diffusers, PIPELINES[family])
    names = {component: f"{component}_lora_layers" for component in states}
    if form == "PEFT with its config":
        metadata = {f"{component}_lora_adapter_metadata": config for component, config in configs.items()}
        pipeline.save_lora_weights(tmp_path, **{names[c]: state for c, state in states.items()}, **metadata)
    elif form == "kohya":
        flat = {f"{component}.{key}": tensor for component, state in states.items() for key, tensor in state.items()}
        save_file(convert_state_dict_to_kohya(flat), tmp_path / "kohya.safetensors")
    else:
        if form == "diffusers":
            states = {component: convert_state_dict_to_diffusers(state) for component, state in states.items()}
        layers = {names[component]: state for component, state in states.items()}
        pipeline.save_lora_weights(tmp_path, **layers, safe_serialization=form != "pickle")
    assert_same(read(tmp_path, loaded), before, merged_in_place(loaded))


# Merging, LyCORIS scales these twice, and once as it trains; the formulas' tests look at its training
SCALE_1 = {"network_alpha": 4, "conv_alpha": 4}
LYCORIS: dict[str, dict[str, Any]] = {
    "locon": {},
    "locon with mid, in bfloat16": {"use_tucker": True, "dtype": torch.bfloat16},
    "DoRA": {"dora_wd": True},
    "loha": {"algo": "loha", **SCALE_1},
    "lokr": {"algo": "lokr", "factor": 4, **SCALE_1},
    "lokr of whole matrices, in float16": {"algo": "lokr", "full_matrix": True, "dtype": torch.float16},
    "full with norms": {"algo": "full", "train_norm": True},
    "ia3": {"algo": "ia3"},
    "glora": {"algo": "glora"},
    "oft": {"algo": "diag-oft"},
    "boft": {"algo": "boft"},
}


# LyCORIS' own "full" names the time embedding's linears twice, and refuses itself
PRESET = """
enable_conv = true
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in", "conv_out", "time_embedding.linear_1"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
text_encoder_target_name = []
"""


@pytest.mark.parametrize("case", LYCORIS)
def test_lycoris_for_kohya(case: str, models: Callable[[str], Models], tmp_path: Path) -> None:
    """``save_weights`` of the network that kohya's scripts train, of U-Net and text encoder, merged by itself."""
    from lycoris.kohya import create_network

    loaded = models("sd1")
    before = parameters(loaded)
    (tmp_path / "preset.toml").write_text(PRESET)
    options = {"preset": str(tmp_path / "preset.toml"), "network_alpha": 2, **LYCORIS[case]}
    dtype = options.pop("dtype", None)
    trained = loaded.modules["text_encoder"], loaded.modules["unet"]
    network = create_network(1.0, 4, options.pop("network_alpha"), None, *trained, warn_on_unmatched=False, **options)
    network.apply_to(*trained, True, True)
    randomised(network)
    if dtype is not None:  # as the file will have it
        network.to(dtype).to(torch.float32)
    network.save_weights(tmp_path / "style.safetensors", dtype, {"ss_output_name": "style"})
    network.restore()
    with torch.no_grad():
        for module in network.loras:
            module.merge_to(1.0)
    adapter = read(tmp_path / "style.safetensors", loaded)
    assert_same(adapter, before, parameters(loaded))
    assert adapter.short_hash == adapter.metadata["sshs_model_hash"][:12]


def test_lycoris_for_any_model(models: Callable[[str], Models], tmp_path: Path) -> None:
    """``create_lycoris``, whose names begin otherwise, as a pickle and as safetensors."""
    loaded = models("sdxl")
    before = parameters(loaded)
    unet = loaded.modules["unet"]
    network = lycoris.create_lycoris(unet, 1.0, linear_dim=4, linear_alpha=2, warn_on_unmatched=False)
    network.apply_to()
    randomised(network)
    paths = (tmp_path / "style.safetensors", tmp_path / "style.pt")
    for path in paths:
        network.save_weights(path, None, {})
    network.restore()
    with torch.no_grad():
        network.merge_to(1.0)
    after = {"unet": parameters(loaded)["unet"]}
    for path in paths:
        assert_same(read(path, loaded), before, after)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("leaf", ["diff", "lora"])
def test_types_of_numbers(dtype: Any, leaf: str, models: Callable[[str], Models], tmp_path: Path) -> None:
    """All exactly, whether a tensor is small beside the weight or as large."""
    loaded = models("sd1")
    shape = loaded.weights["unet"]["conv_in.weight"]
    if leaf == "diff":
        diff = torch.randn(shape).to(dtype)
        tensors, expected = {"diff": diff}, diff.to(torch.float32)
    else:
        down, up = (torch.randn(size).to(dtype) for size in ((1, *shape[1:]), (shape[0], 1, 1, 1)))
        tensors = {"lora_down.weight": down, "lora_up.weight": up}
        expected = (up.to(torch.float32).reshape(-1, 1) @ down.to(torch.float32).reshape(1, -1)).reshape(shape)
    path = tmp_path / "x.safetensors"
    save_file({f"lora_unet_conv_in.{name}": tensor for name, tensor in tensors.items()}, path)
    adapter = read(path, loaded)
    change = adapter.parts["unet"]["conv_in.weight"].change(np.zeros(shape, np.float32))
    np.testing.assert_allclose(change, expected.numpy(), rtol=1e-6)
