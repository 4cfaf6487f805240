"""Manifests that were edited: a changed value is refused, another layout of the same values is not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latentrt
from latentrt.describing import describe
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import BundleError
from latentrt.engines.store.store import engine_folders, read_engine
from latentrt.verifying import verify


def edit(path: Path, pattern: str, replacement: str) -> None:
    """Changes one place of a file as somebody at an editor would."""
    text, count = re.subn(pattern, replacement, path.read_text("utf-8"), count=1)
    assert count == 1
    path.write_text(text, "utf-8")


EDITS = {
    "a beta": (r'"beta_start": [\d.]+', '"beta_start": 0.002'),
    "the scale of latents": (r'"scaling_factor": [\d.]+', '"scaling_factor": 0.2'),
    "what the U-Net predicts": (r'"prediction_type": "epsilon"', '"prediction_type": "v_prediction"'),
    "a default": (r'"num_inference_steps": \d+', '"num_inference_steps": 3'),
    "a digit at the end": (r'"beta_end": ([\d.]+)', r'"beta_end": \g<1>1'),
    "the seal": (r'"seal": "[0-9a-f]{8}', '"seal": "00000000'),
    "the seal cut off": (r'(?s),\s*"seal": .*', "\n}\n"),
    "another kind of seal": (r'"seal": "[0-9a-f]+"', '"seal": "no \\\\u00e9 digest"'),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_value_is_refused(tiny_copy: Path, case: str) -> None:
    """Whoever would draw with it says what was got and expected, and what to do."""
    path = tiny_copy / "bundle.json"
    edit(path, *EDITS[case])
    with pytest.raises(BundleError) as refused:
        open_bundle(tiny_copy)
    message = str(refused.value)
    assert re.search(r"bundle\.json' (was edited|has no seal) \(got .*, expected .*\)", message)
    assert "undo the edit or build the bundle again" in message


def test_every_use_refuses_and_inspect_says_so(tiny_copy: Path, command: Callable[..., Any]) -> None:
    """Opening, building and verifying; the values are shown as they are."""
    path = tiny_copy / "bundle.json"
    before = path.read_text("utf-8")
    assert "seal" not in command("inspect", tiny_copy).stdout
    edit(path, *EDITS["a beta"])
    (tiny_copy / "tokenizer" / "tokenizer.json").unlink()
    for use in (latentrt.open, latentrt.build):
        with pytest.raises(BundleError, match="was edited"):
            use(tiny_copy)
    with pytest.raises(BundleError, match=r"bundle\.json was edited .*; tokenizer/tokenizer\.json is missing; build"):
        verify(tiny_copy)
    shown = command("inspect", tiny_copy)
    assert shown.status == 0
    assert "seal       broken: bundle.json was edited" in shown.stdout
    assert "0.002" in shown.stdout
    described = json.loads(command("inspect", tiny_copy, "--json").stdout)
    assert described["seal"]["intact"] is False
    assert described["seal"]["expected"] in before
    assert all(engine["seal"]["intact"] for engine in described["engines"])


def _indented_otherwise(text: str) -> str:
    return json.dumps(json.loads(text), indent=4, ensure_ascii=False)


LAYOUTS: dict[str, Callable[[str], str]] = {
    "Windows' line ends": lambda text: text.replace("\n", "\r\n"),
    "another indentation": _indented_otherwise,
    "one line": lambda text: json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False),
    "a mark at the start": lambda text: "\ufeff" + text,
    "no last line end": str.rstrip,
    "blank lines at the end": lambda text: text + "\n\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_values_in_another_layout(tiny_copy: Path, layout: str) -> None:
    """What editors and git do to a file that somebody only looked at."""
    path = tiny_copy / "bundle.json"
    manifest = open_bundle(tiny_copy).manifest
    path.write_bytes(LAYOUTS[layout](path.read_text("utf-8")).encode())
    assert open_bundle(tiny_copy).manifest == manifest


def test_an_edited_engine(tiny_copy: Path, command: Callable[..., Any]) -> None:
    """Is not run, is named by verify and by inspect, and is made again."""
    folder = next(folder for folder in engine_folders(tiny_copy) if read_engine(folder).component == "unet")
    edit(folder / "engine.json", r'"size": \d+', '"size": 1')
    with pytest.raises(BundleError, match=r"engine\.json' was edited .*build the bundle again"):
        latentrt.open(tiny_copy)
    with pytest.raises(BundleError, match=rf"engines/{folder.name}/engine\.json was edited"):
        verify(tiny_copy)
    row = next(row for row in describe(tiny_copy)["engines"] if row["key"] == folder.name)
    assert (row["seal"]["intact"], row["fits_this_machine"]) == (False, False)
    assert "no, edited" in command("inspect", tiny_copy).stdout
    assert not latentrt.build(tiny_copy).up_to_date
    latentrt.open(tiny_copy).close()
