"""PEFT's LoRA, DoRA and its kinds of LyCORIS against its own merged weights."""

from typing import Any

import numpy as np
import pytest

from latentrt.runtime.adapters.formulas.leaves import LeafOptions, formulas_from_leaves

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

nn = torch.nn

LAYERS = {
    "linear": lambda: nn.Linear(24, 16),
    "square": lambda: nn.Linear(16, 16),
    "convolution": lambda: nn.Conv2d(8, 12, 3, padding=1),
    "square convolution": lambda: nn.Conv2d(12, 12, 3, padding=1),
    "pointwise": lambda: nn.Conv2d(8, 12, 1),
    "embedding": lambda: nn.Embedding(30, 16),
}
NAMES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_B.bias": "lora_up.bias",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("linear", "LoraConfig", {}),
    ("linear", "LoraConfig", {"lora_bias": True}),
    ("linear", "LoraConfig", {"use_rslora": True}),
    ("convolution", "LoraConfig", {}),
    ("pointwise", "LoraConfig", {"lora_bias": True}),
    ("embedding", "LoraConfig", {}),
    ("linear", "LoraConfig", {"use_dora": True}),
    ("square", "LoraConfig", {"use_dora": True, "use_rslora": True}),
    ("convolution", "LoraConfig", {"use_dora": True}),
    ("square convolution", "LoraConfig", {"use_dora": True}),
    ("embedding", "LoraConfig", {"use_dora": True}),
    ("linear", "LoHaConfig", {}),
    ("convolution", "LoHaConfig", {"use_effective_conv2d": True}),
    ("linear", "LoKrConfig", {}),
    ("linear", "LoKrConfig", {"decompose_both": True, "decompose_factor": 2, "r": 2}),
    ("convolution", "LoKrConfig", {"use_effective_conv2d": True, "decompose_factor": 2, "r": 2}),
    ("convolution", "LoKrConfig", {"decompose_factor": 2, "r": 2}),
    ("linear", "IA3Config", {}),
    ("linear", "IA3Config", {"feedforward_modules": ["layer"]}),
    ("square convolution", "IA3Config", {}),
    ("square convolution", "IA3Config", {"feedforward_modules": ["layer"]}),
]


@pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")  # PEFT of its own bias
@pytest.mark.parametrize(("kind", "config_name", "keywords"), CASES, ids=str)
def test_the_weight_is_peft_s_merged_one(kind: str, config_name: str, keywords: dict[str, Any]) -> None:
    torch.manual_seed(7)
    model = nn.Module()
    model.layer = LAYERS[kind]()
    base = {name: value.detach().numpy().copy() for name, value in model.layer.named_parameters()}
    alpha = {"LoraConfig": {"lora_alpha": 6, "r": 4}, "IA3Config": {}}.get(config_name, {"alpha": 6, "r": 4})
    feedforward = {"feedforward_modules": []} if config_name == "IA3Config" else {}
    config = getattr(peft, config_name)(target_modules=["layer"], **{**alpha, **feedforward, **keywords})
    model = peft.inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
                if "magnitude" in name:
                    parameter.abs_().add_(0.5)
    leaves = {
        NAMES.get(name.removeprefix("layer."), name.removeprefix("layer.")): tensor.detach().numpy()
        for name, tensor in peft.get_peft_model_state_dict(model).items()
    }
    model.layer.merge()

    formulas = formulas_from_leaves(
        leaves,
        LeafOptions(
            alpha=getattr(config, "lora_alpha", getattr(config, "alpha", None)),
            rank=getattr(config, "r", None),
            rslora=getattr(config, "use_rslora", False),
            kind=config.peft_type.value,
            feedforward=bool(getattr(config, "feedforward_modules", None)),
        ),
    )

    merged = dict(model.layer.get_base_layer().named_parameters())
    for part, weight in base.items():
        changed = weight
        if part in formulas:
            formulas[part].check(weight.shape)
            changed = weight + formulas[part].change(weight)
            assert np.abs(changed - weight).max() > 1e-2  # or the case shows nothing
        np.testing.assert_allclose(changed, merged[part].detach().numpy(), rtol=2e-5, atol=1e-5)
