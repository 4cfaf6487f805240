"""Every kind of LyCORIS against its own module: the layer's output with our weight, and with LyCORIS in between."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.leaves import LEAVES, LeafOptions, formulas_from_leaves

torch = pytest.importorskip("torch")
pytest.importorskip("lycoris")

nn = torch.nn


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with torch.no_grad():
        yield
    logging.disable(logging.NOTSET)


LINEAR: Callable[[], Any] = lambda: nn.Linear(24, 16)  # noqa: E731
SQUARE: Callable[[], Any] = lambda: nn.Linear(16, 16)  # noqa: E731
CONV: Callable[[], Any] = lambda: nn.Conv2d(8, 12, 3, padding=1)  # noqa: E731
POINTWISE: Callable[[], Any] = lambda: nn.Conv2d(8, 12, 1)  # noqa: E731

CASES: dict[str, tuple[str, str, Callable[[], Any], dict[str, Any]]] = {
    "lora": ("locon", "LoConModule", LINEAR, {}),
    "lora of a square": ("locon", "LoConModule", SQUARE, {}),
    "rslora": ("locon", "LoConModule", LINEAR, {"rs_lora": True}),
    "locon": ("locon", "LoConModule", CONV, {}),
    "locon of 1x1": ("locon", "LoConModule", POINTWISE, {}),
    "locon with mid": ("locon", "LoConModule", CONV, {"use_tucker": True}),
    "loha": ("loha", "LohaModule", LINEAR, {}),
    "loha of a convolution": ("loha", "LohaModule", CONV, {}),
    "loha with tucker": ("loha", "LohaModule", CONV, {"use_tucker": True}),
    "lokr of whole matrices": ("lokr", "LokrModule", LINEAR, {"full_matrix": True}),
    "lokr": ("lokr", "LokrModule", LINEAR, {"lora_dim": 2, "factor": 2}),
    "lokr of two pairs": ("lokr", "LokrModule", LINEAR, {"lora_dim": 1, "decompose_both": True}),
    "lokr of a convolution": ("lokr", "LokrModule", CONV, {"lora_dim": 2, "factor": 2}),
    "lokr of a whole convolution": ("lokr", "LokrModule", CONV, {"full_matrix": True}),
    "lokr with tucker": ("lokr", "LokrModule", CONV, {"lora_dim": 2, "factor": 2, "use_tucker": True}),
    "lokr, unbalanced": ("lokr", "LokrModule", LINEAR, {"lora_dim": 2, "unbalanced_factorization": True}),
    "full": ("full", "FullModule", LINEAR, {}),
    "full of a convolution": ("full", "FullModule", CONV, {}),
    "group norm": ("norms", "NormModule", lambda: nn.GroupNorm(4, 8), {}),
    "layer norm": ("norms", "NormModule", lambda: nn.LayerNorm(24), {}),
    "ia3": ("ia3", "IA3Module", LINEAR, {}),
    "ia3 of inputs": ("ia3", "IA3Module", LINEAR, {"train_on_input": True}),
    "ia3 of a convolution": ("ia3", "IA3Module", CONV, {}),
    "ia3 of a convolution's inputs": ("ia3", "IA3Module", CONV, {"train_on_input": True}),
    "glora": ("glora", "GLoRAModule", LINEAR, {}),
    "glora of a convolution": ("glora", "GLoRAModule", POINTWISE, {}),
    "oft": ("diag_oft", "DiagOFTModule", LINEAR, {}),
    "oft of a convolution": ("diag_oft", "DiagOFTModule", CONV, {"rescaled": True}),
    "oft, rescaled": ("diag_oft", "DiagOFTModule", LINEAR, {"rescaled": True}),
    "oft, constrained": ("diag_oft", "DiagOFTModule", LINEAR, {"constraint": 0.02}),
    "boft": ("boft", "ButterflyOFTModule", LINEAR, {}),
    "boft of a convolution": ("boft", "ButterflyOFTModule", CONV, {"lora_dim": 6, "rescaled": True}),
    "boft, constrained": ("boft", "ButterflyOFTModule", LINEAR, {"constraint": 0.02, "rescaled": True}),
    "dora": ("locon", "LoConModule", LINEAR, {"weight_decompose": True}),
    "dora of a square's outputs": ("locon", "LoConModule", SQUARE, {"weight_decompose": True}),
    "dora of inputs": ("locon", "LoConModule", LINEAR, {"weight_decompose": True, "wd_on_out": False}),
    "dora of a square's inputs": ("locon", "LoConModule", SQUARE, {"weight_decompose": True, "wd_on_out": False}),
    "dora of a convolution": ("locon", "LoConModule", CONV, {"weight_decompose": True, "use_tucker": True}),
    "dora of a convolution's inputs": ("locon", "LoConModule", CONV, {"weight_decompose": True, "wd_on_out": False}),
    "dora of loha": ("loha", "LohaModule", CONV, {"weight_decompose": True}),
    "dora of lokr": ("lokr", "LokrModule", LINEAR, {"lora_dim": 2, "weight_decompose": True, "wd_on_out": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_gives_what_it_gives_with_lycoris_in_between(case: str) -> None:
    file, name, make_layer, keywords = CASES[case]
    torch.manual_seed(7)
    layer = make_layer()
    weight, bias = (parameter.detach().numpy().copy() for parameter in (layer.weight, layer.bias))
    module = getattr(__import__(f"lycoris.modules.{file}", fromlist=[name]), name)(
        "adapter", layer, **{"multiplier": 1.0, "lora_dim": 4, "alpha": 2.0, **keywords}
    )
    for key, parameter in module.named_parameters():
        parameter.data.normal_(std=0.3)
        if key in ("dora_scale", "rescale"):
            parameter.data.abs_().add_(0.5)
    if name == "FullModule":
        module.apply_to()
    inputs = torch.randn(3, *((8, 5, 5) if weight.ndim > 2 or isinstance(layer, nn.GroupNorm) else weight.shape[-1:]))
    leaves = {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}
    assert set(leaves) <= LEAVES
    expected = module(inputs)

    formulas = formulas_from_leaves(leaves, LeafOptions())

    changed: dict[str, Array] = {"weight": weight, "bias": bias}
    for part, formula in formulas.items():
        formula.check(changed[part].shape)
        difference = formula.change(changed[part])
        assert difference.dtype == np.float32
        assert difference.shape == changed[part].shape
        assert np.abs(difference).max() > 1e-2  # or the case shows nothing
        changed[part] = changed[part] + difference
    ours = make_layer()
    ours.weight.data, ours.bias.data = (torch.from_numpy(changed[part]) for part in ("weight", "bias"))
    np.testing.assert_allclose(ours(inputs).numpy(), expected.numpy(), rtol=2e-5, atol=2e-5)
