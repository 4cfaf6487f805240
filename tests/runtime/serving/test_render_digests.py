"""The digest of an order: what changes it, and what does not."""

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_loras import save_tiny_lora

from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.render.order_line import OrderLine, outcome_from_row
from latentrt.runtime.serving.render.reading import OrdersError, lines_from_text
from latentrt.runtime.serving.render.shard import Shard, shard_from_text

CAT: Mapping[str, Any] = {"prompt": "a cat", "seed": 1, "guidance_scale": 7}


@pytest.fixture
def catalog(tiny_bundle: Path, tmp_path: Path) -> Catalog:
    """The tiny model, two LoRAs, wildcards, and a picture beside them."""
    loras = {name: tmp_path / f"{name}.safetensors" for name in ("ink", "my style")}
    for seed, path in enumerate(loras.values()):
        save_tiny_lora(path, tiny_bundle, seed=seed)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "animal.txt").write_text("cat\ndog\n")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "black.png")
    return Catalog(models={"tiny": tiny_bundle}, loras=loras, wildcards=tmp_path / "cards")


def read(catalog: Catalog, folder: Path, *orders: Mapping[str, Any] | str) -> list[OrderLine]:
    """The lines of a file."""
    text = "\n".join(order if isinstance(order, str) else json.dumps(order) for order in orders)
    return lines_from_text(text, "orders 'x'", folder, catalog)


def test_what_decides_nothing_changes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    """Ids, places, the order and form of what is said, defaults, LoRAs that are not named, where a picture lies."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "same.png").write_bytes((tmp_path / "black.png").read_bytes())
    alike = (
        CAT,
        {"id": "one", **dict(reversed(CAT.items()))},
        '{"guidance_scale": 7.0, "seed": 1, "prompt": "a \\u0063at"}',
        {**CAT, "model": "tiny", "image": None, "wildcards": False},
    )
    assert len({line.digest for line in read(catalog, tmp_path, *alike)}) == 1
    alone = Catalog(models=catalog.models)
    assert read(alone, Path("/"), CAT)[0].digest == read(catalog, tmp_path, CAT)[0].digest
    moved = [{**CAT, "image": name} for name in ("black.png", "deeper/same.png", str(tmp_path / "black.png"))]
    assert len({line.digest for line in read(catalog, tmp_path, *moved)}) == 1


def test_what_decides_the_picture_changes_it(catalog: Catalog, tmp_path: Path, half_bundle: Path) -> None:
    """What an order says, the contents of the files that it names, and the model."""
    tagged = {**CAT, "prompt": "a cat <lora:my style:0.5>", "prompt_syntax": "a1111"}
    orders = (
        CAT,
        {**CAT, "seed": 2},
        {**CAT, "loras": {"ink": 0.5}},
        {**CAT, "loras": {"ink": 0.6}},
        tagged,
        {**CAT, "image": "black.png"},
        {**CAT, "image": "black.png", "strength": 0.5},
        {**CAT, "wildcards": True},
    )
    first = [line.digest for line in read(catalog, tmp_path, *orders)]
    assert len(set(first)) == len(orders)
    for path, changed in (("ink.safetensors", {2, 3}), ("my style.safetensors", {4})):
        save_tiny_lora(tmp_path / path, catalog.models["tiny"], seed=9)
        second = [line.digest for line in read(catalog, tmp_path, *orders)]
        assert {index for index in range(len(orders)) if first[index] != second[index]} == changed
        first = second
    half = Catalog(models={"tiny": half_bundle})
    assert read(half, tmp_path, CAT)[0].digest != first[0]


def test_a_file_that_changes_between_two_runs_is_another_picture(catalog: Catalog, tmp_path: Path) -> None:
    """Of the same name, in one process."""
    order = {**CAT, "image": "black.png"}
    (before,) = read(catalog, tmp_path, order)
    Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(tmp_path / "black.png")
    (after,) = read(catalog, tmp_path, order)
    assert before.digest != after.digest


def test_seeds_are_the_same_in_every_run(catalog: Catalog, tmp_path: Path) -> None:
    """Equal orders without one get different ones, other lines between them change none, and a given one is kept."""
    bare = {"prompt": ["a cat", "a dog"], "num_images_per_prompt": 2}
    first, second = read(catalog, tmp_path, bare, bare)
    seeds = first.request["seed"]
    assert len({*seeds, *second.request["seed"]}) == 8
    assert first.pictures == 4
    lines = read(catalog, tmp_path, CAT, {**bare, "id": "one"}, {**CAT, "seed": 5}, {**bare, "id": "two"})
    assert [line.digest for line in (lines[1], lines[3])] == [first.digest, second.digest]
    (given,) = read(catalog, tmp_path, {**bare, "seed": seeds})
    assert given.digest == first.digest


def test_all_faults_come_at_once(catalog: Catalog, tmp_path: Path) -> None:
    """By line; a file without orders has none."""
    with pytest.raises(OrdersError, match=r"of which 2 of 3 cannot be drawn.*\(line 1\).*\(line 4\)") as told:
        read(catalog, tmp_path, "{", "", CAT, {**CAT, "loras": {"ash": 1}})
    assert sorted(told.value.faults) == [1, 4]
    with pytest.raises(RequestError, match="without an order"):
        read(catalog, tmp_path, "", " ")


def test_rows_come_back(catalog: Catalog, tmp_path: Path) -> None:
    """Lines and outcomes, through JSON."""
    inline = b64encode((tmp_path / "black.png").read_bytes()).decode()
    (line,) = read(catalog, tmp_path, {**CAT, "id": 3, "image": inline})
    assert OrderLine(**json.loads(json.dumps(line.row))) == line
    outcome = line.outcome(files=("a.png",), seeds=(1,), seconds=0.5)
    assert outcome_from_row(json.loads(json.dumps(outcome.row))) == outcome


def test_shards_divide_what_there_is() -> None:
    """Evenly, and all of it."""
    parts = [shard_from_text(f"{index}/3") for index in (1, 2, 3)]
    assert sorted(item for part in parts for item in part.of(range(10))) == list(range(10))
    assert [len(part.of(range(10))) for part in parts] == [4, 3, 3]
    assert (Shard().journal_name, parts[1].journal_name) == ("journal.jsonl", "journal-2-of-3.jsonl")
