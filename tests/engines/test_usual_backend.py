"""No remedy names a backend that would refuse the bundle in its turn."""

from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.usual_backend import or_on_cpu, or_ort_cpu, usual_backend_of
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.quantization import recipe as recipes
from latentrt.engines.precision import Backend, Precision

MADE = {
    "fp32": (Precision.FP32, (), Backend.ORT_CPU),
    "fp16": (Precision.FP16, (), Backend.ORT_CPU),
    "bf16": (Precision.BF16, (), Backend.OPENVINO),
    "int8 for ort-cpu": (Precision.INT8, (Recipe.W8, Recipe.U8S8), Backend.ORT_CPU),
    "int8 for openvino": (Precision.INT8, (Recipe.W8, Recipe.U8S8_INPUTS), Backend.OPENVINO),
    "int8 for GPUs": (Precision.INT8, (Recipe.S8S8,), Backend.TENSORRT_RTX),
    "fp8": (Precision.FP8, (Recipe.E4M3,), Backend.TENSORRT_RTX),
}


def manifest(precision: Precision, quantized: tuple[Recipe, ...]) -> Any:
    """What is asked of a bundle; its first component has no recipe."""
    records = [None, *(SimpleNamespace(recipe=recipe) for recipe in quantized)]
    components = {str(index): SimpleNamespace(quantization=record) for index, record in enumerate(records)}
    return SimpleNamespace(precision=precision, components=components)


@pytest.mark.parametrize("made", MADE)
def test_the_usual_backend_takes_it(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does the one that a remedy names; where no CPU has the kernels it names none."""
    monkeypatch.setattr(recipes, "cpu_sums_widely", lambda: True)
    precision, quantized, expected = MADE[made]
    bundle = manifest(precision, quantized)
    assert usual_backend_of(bundle) is expected
    for recipe in quantized:
        recipes.check_recipe(recipe, expected)
    on_cpu = expected in (Backend.ORT_CPU, Backend.OPENVINO)
    assert or_on_cpu(bundle) == (f", or open the bundle with the backend {expected}" if on_cpu else "")
    assert or_ort_cpu(bundle, "choose") == (", or choose ort-cpu" if expected is Backend.ORT_CPU else "")


@pytest.mark.parametrize("recipe", Recipe)
@pytest.mark.parametrize("backend", Backend)
def test_what_a_recipe_is_for(recipe: Recipe, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused is told of backends that take it, and of a build that there is."""
    monkeypatch.setattr(recipes, "cpu_sums_widely", lambda: True)
    takers = set()
    for other in Backend:
        try:
            recipes.check_recipe(recipe, other)
            takers.add(other)
        except RequestError:
            continue
    assert takers
    if backend in takers:
        return
    with pytest.raises(RequestError) as caught:
        recipes.check_recipe(recipe, backend)
    told = str(caught.value)
    expected, _, remedy = told.partition("expected ")[2].partition(";")
    assert {Backend(name) for name in expected.split(" or ")} == takers
    if f"--backend {backend}" in remedy:
        recipes.recipe_for(backend, recipe.numbers.precision)


def test_an_engine_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Of a bundle whose recipe the backend has not: the refusal, instead of a build that would be refused."""
    from latentrt.engines.store import store

    bundle = manifest(Precision.INT8, (Recipe.U8S8_INPUTS,))
    component: Any = Component(root=tmp_path, manifest=bundle, name="0")
    told = store._refused_recipe(component, Backend.ORT_CPU)
    assert told is not None
    assert "expected openvino" in told
    assert store._refused_recipe(component, Backend.OPENVINO) is None
