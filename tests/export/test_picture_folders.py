"""Folders of models that are told of a picture become bundles."""

from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.conditioning import Task

TASKS = {
    "svd": Task.VIDEOS,
    "zero123": Task.VIEWS,
    "stable-zero123": Task.VIEWS,
    "instruct-pix2pix": Task.EDITS,
    "sd-image-variations": Task.VARIATIONS,
}


@pytest.mark.parametrize("family", TASKS)
def test_a_folder_becomes_a_bundle(picture_bundle: Callable[[str], Path], family: str) -> None:
    manifest = open_bundle(picture_bundle(family)).manifest

    assert manifest.family == family
    assert manifest.conditioning.task is TASKS[family]
