"""DeepCache on openvino: graphs that are cut as they are opened compute what the whole one and ort-cpu do."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest
from openvino_engines import (
    Beside,
    beside,
    changeable,
    changes_of,
    compiled,
    component_of,
    decibels,
    drawn_inputs,
    weights_of,
)
from shared import filled_once

from latentrt.engines.backends.openvino.backend import OpenVino
from latentrt.engines.backends.openvino.cut_graph import CutGraph
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.unet.deep_cache import branch_count, deep_feature
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, CachePart, CacheRole, Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.store import compiled_folder, read_engine

slow = pytest.mark.slow

# A product of an input that is added to another one, which is joined to a skip; each line as OpenVINO writes it
LAYERS = {
    "sample": ("Parameter", ()),
    "prompt": ("Parameter", ()),
    "deep": ("Multiply", ("sample", "prompt")),
    "join": ("Concat", ("deep", "sample")),
    "last": ("Convolution", ("join",)),
    "out": ("Result", ("last",)),
}


def xml(precision: str) -> bytes:
    """Of a graph as OpenVINO exports one."""
    numbers = {name: number for number, name in enumerate(LAYERS)}
    layers, edges = [], []
    for name, (kind, taken) in LAYERS.items():
        ports = "".join(
            f'\t\t\t\t<port id="{port}" precision="{precision}">\n\t\t\t\t\t<dim>-1</dim>\n\t\t\t\t\t<dim>8</dim>\n'
            "\t\t\t\t</port>\n"
            for port in range(len(taken))
        )
        layers.append(
            f'\t\t<layer id="{numbers[name]}" name="{name}" type="{kind}" version="opset1">\n\t\t\t<input>\n{ports}'
            "\t\t\t</input>\n\t\t</layer>\n"
        )
        edges += [
            f'\t\t<edge from-layer="{numbers[one]}" from-port="9" to-layer="{numbers[name]}" to-port="{port}" />\n'
            for port, one in enumerate(taken)
        ]
    body = f"\t<layers>\n{''.join(layers)}\t</layers>\n\t<edges>\n{''.join(edges)}\t</edges>\n"
    return f'<?xml version="1.0"?>\n<net name="one">\n{body}</net>\n'.encode()


def taken_by(net: Element) -> dict[str, list[str]]:
    """Of each layer the names of what it takes, in order."""
    names = {layer.attrib["id"]: layer.attrib["name"] for layer in net.iterfind("layers/layer")}
    taken: dict[str, list[str]] = {name: [] for name in names.values()}
    for edge in sorted(net.iterfind("edges/edge"), key=lambda one: one.attrib["to-port"]):
        taken[names[edge.attrib["to-layer"]]].append(names[edge.attrib["from-layer"]])
    return taken


def test_a_graph_that_keeps_returns_more() -> None:
    """The feature, in float32; white space makes room for it."""
    whole = {name: list(taken) for name, (_, taken) in LAYERS.items()}
    plain, rounded = (fromstring(CutGraph(xml(one)).keeping({"feature": "join"}).xml()) for one in ("FP32", "BF16"))
    assert taken_by(plain) == {**whole, "feature": ["deep"]}
    assert taken_by(rounded) == {**whole, "2/FP32": ["deep"], "feature": ["2/FP32"]}
    assert [one.attrib["destination_type"] for one in rounded.iter("data")] == ["f32"]
    (result,) = (layer for layer in plain.iter("layer") if layer.attrib["name"] == "feature")
    assert (result.attrib["type"], result.attrib["output_names"]) == ("Result", "feature")
    assert not {"\t", "\n"} & set(CutGraph(xml("BF16")).keeping({"feature": "join"}).xml().decode())


def test_a_shallow_graph_takes_the_feature() -> None:
    """And nothing below it."""
    plain, rounded = (fromstring(CutGraph(xml(one)).shallow("feature", "join").xml()) for one in ("FP32", "BF16"))
    above = {"sample": [], "last": ["join"], "out": ["last"], "feature": []}
    assert taken_by(plain) == {**above, "join": ["feature", "sample"]}
    assert taken_by(rounded) == {**above, "join": ["6/BF16", "sample"], "6/BF16": ["feature"]}
    assert [one.attrib for one in plain.iter("data")] == [{"shape": "?,8", "element_type": "f32"}]
    assert CutGraph(xml("FP32")).shallow("feature", "join").inputs == ("sample", "feature")


def test_a_graph_without_the_join_is_refused() -> None:
    """Also where a layer of that name joins nothing."""
    for name in ("other", "last"):
        with pytest.raises(EngineError, match=f"without the layer '{name}' that joins two planes"):
            CutGraph(xml("FP32")).shallow("feature", name)


@pytest.fixture(scope="module")
def cached(request: pytest.FixtureRequest, shared: Path) -> Callable[[str], Path]:
    """A bundle by its fixture's name, of which the U-Net has an engine for openvino. Do not write to it."""
    pytest.importorskip("openvino")

    def built(name: str) -> Path:
        family, _, fixture = name.partition(" ")
        source = request.getfixturevalue(fixture)(family) if fixture else request.getfixturevalue(name)

        def build(folder: Path) -> None:
            shutil.copytree(source, folder)
            compiled(component_of(folder, "unet"))

        return filled_once(shared / f"openvino-cached-{name.replace(' ', '-')}.bundle", build)

    return built


def taken(engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What an engine takes of some inputs."""
    return {name: array for name, array in inputs.items() if name in engine.spec.inputs}


def check_branch(both: Beside, shapes: Shapes, branch: int, bound: float) -> None:
    """What is kept, and what a shallow call makes of it with other inputs: on ort-cpu, too, from the same feature."""
    name = deep_feature(branch)
    parts = [CachePart(role=role, branch=branch) for role in CacheRole]
    engines = [[model.engine(replace(shapes, cached=part)) for part in parts] for model in (both.openvino, both.ort)]
    (keeps, shallow), (ort_keeps, ort_shallow) = engines
    # ort-cpu keeps the feature of a graph in fp16 as that, where OpenVINO computes in float32
    shapes_of = [{key: tensor.shape for key, tensor in one.spec.outputs.items()} for one in (keeps, ort_keeps)]
    assert (keeps.spec.inputs, shapes_of[0]) == (ort_keeps.spec.inputs, shapes_of[1])
    assert shallow.spec.inputs.keys() == ort_shallow.spec.inputs.keys()
    plain = both.openvino.engine(shapes)
    for batch in {1, 2, keeps.spec.batches[-1]}:
        before, now = (drawn_inputs(plain, batch, seed) for seed in (1, 2))
        whole = keeps.run(before)
        np.testing.assert_array_equal(whole["out_sample"], plain.run(before)["out_sample"])
        ort_whole = {key: array.astype(whole[key].dtype) for key, array in ort_keeps.run(before).items()}
        assert decibels(whole, ort_whole) > bound
        kept = {name: whole[name]}
        again = shallow.run({**taken(shallow, before), **kept})["out_sample"]
        np.testing.assert_array_equal(again, whole["out_sample"])
        found = shallow.run({**taken(shallow, now), **kept})
        given = {name: whole[name].astype(ort_shallow.spec.inputs[name].dtype)}
        assert decibels(found, ort_shallow.run({**taken(shallow, now), **given})) > bound
        assert decibels(found, plain.run(now)) < 60


@slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "bound"),
    [("tiny_bundle", 100.0), ("emoji_bundle", 100.0), ("sdxl family_bundle", 100.0), ("half_bundle", 60.0)],
)
def test_cut_graphs_are_those_of_ort_cpu(name: str, bound: float, threads: int, cached: Callable[[str], Path]) -> None:
    """Of every branch, of usual sizes and others, with added inputs and without."""
    with beside(component_of(cached(name), "unet"), threads) as both:
        first = both.component.manifest.profiles[0]
        other = Profile(width=first.width + 16, height=first.height + 32, batch=2)
        for branch in range(branch_count(both.component.structure)):
            for profile in (first, other):
                check_branch(both, Shapes(profile=profile), branch, bound)
            check_branch(both, Shapes(profile=first, added=frozenset(AddedInputs)), branch, bound)
            check_branch(both, Shapes(profile=first, added=frozenset({AddedInputs.CONTROL})), branch, bound)


@slow
@pytest.mark.parametrize(("name", "bound"), [("emoji_bundle", 100.0), ("int8_bundle", 55.0)])
@pytest.mark.filterwarnings("ignore:compiling ")
def test_changed_weights_change_both_graphs(name: str, bound: float, cached: Callable[[str], Path]) -> None:
    """In the place of constants; in int8, whose rest is bfloat16 here, compiled anew, and cut then."""
    part = component_of(cached(name), "unet")
    changes = changes_of(changeable(part)[::2])
    shapes = Shapes(profile=part.manifest.profiles[0])
    with beside(part, 2) as both:
        plain = both.openvino.engine(shapes)
        before = drawn_inputs(plain, 2)
        alone = plain.run(before)
        changed = both.openvino.changed(weights_of(part), changes)
        for model, expected in ((both.openvino, alone), (changed, changed.engine(shapes).run(before))):
            keeps, shallow = (model.engine(replace(shapes, cached=CachePart(role=role))) for role in CacheRole)
            whole = keeps.run(before)
            assert decibels({"out_sample": whole.pop("out_sample")}, expected) > bound
            assert decibels(shallow.run({**taken(shallow, before), **whole}), expected) > bound
        assert decibels(expected, alone) < 50
        changed.close()


@slow
def test_an_older_engine_says_what_to_do(cached: Callable[[str], Path], tmp_path: Path) -> None:
    """It has no record of joins; a build makes it again. So with one that is damaged."""
    bundle = shutil.copytree(cached("tiny_bundle"), tmp_path / "tiny.bundle")
    part = component_of(bundle, "unet")
    folder = compiled_folder(part, Backend.OPENVINO)
    held = read_engine(folder)
    older = held.model_copy(update={"files": {name: one for name, one in held.files.items() if name != "joins.json"}})
    assert [OpenVino().would_improve(part, one) for one in (held, older)] == [False, True]
    shapes = Shapes(profile=part.manifest.profiles[0])
    wanted = replace(shapes, cached=CachePart(role=CacheRole.KEEPS))
    model = COMPILERS[Backend.OPENVINO].open(part, folder, threads=1)
    (folder / "joins.json").write_text("{")
    with pytest.raises(EngineError, match=r"cannot read .*joins\.json.*build the bundle again"):
        model.engine(wanted)
    (folder / "joins.json").unlink()
    with pytest.raises(EngineError, match=r"without joins\.json, which deep_cache takes.*run latentrt build"):
        model.engine(wanted)
    engine = model.engine(shapes)
    assert engine.run(drawn_inputs(engine, 1))["out_sample"].shape[0] == 1
    model.close()
