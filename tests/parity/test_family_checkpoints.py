"""Every row of the registry has a tiny checkpoint, which is told from all others."""

from functools import partial
from pathlib import Path

import pytest
from checkpoints import TINY, save_tiny_checkpoint
from picture_checkpoints import SAVED

from latentrt.export.sources.families import FAMILIES
from latentrt.export.sources.family import Family
from latentrt.export.sources.source import checkpoint_from_model


def test_every_row_has_a_checkpoint() -> None:
    """A family without one could not be drawn in a test."""
    assert {family.name for family in FAMILIES} == TINY.keys() | SAVED.keys()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_checkpoint_is_of_its_family(family: Family, tmp_path: Path) -> None:
    """By its configs, and for Stable Zero123 its name."""
    save = SAVED.get(family.name, partial(save_tiny_checkpoint, family=family.name))
    checkpoint = checkpoint_from_model(str(save(tmp_path / family.name)))
    assert checkpoint.family is family
    assert checkpoint.parts.keys() == set(family.parts)
