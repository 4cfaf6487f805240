"""Every row of the registry has a tiny checkpoint, which is told from all others."""

from pathlib import Path

import pytest
from checkpoints import TINY, save_tiny_checkpoint

from latentrt.export.sources.families import FAMILIES
from latentrt.export.sources.family import Family
from latentrt.export.sources.source import checkpoint_from_model


def test_every_row_has_a_checkpoint() -> None:
    """A family without one could not be drawn in a test."""
    assert {family.name for family in FAMILIES} == TINY.keys()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_checkpoint_is_of_its_family(family: Family, tmp_path: Path) -> None:
    """By its configs alone."""
    checkpoint = checkpoint_from_model(str(save_tiny_checkpoint(tmp_path / "model", family.name)))
    assert checkpoint.family is family
    assert checkpoint.parts.keys() == {row.part for row in family.text_encoders} | {"unet", "vae"}
