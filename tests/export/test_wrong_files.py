"""Whatever is given by mistake is named for what it is, with what to do, before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from wrong_models import WRONG, Wrong

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checks.library_settings import constructor_settings
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_model

# To a build these are upscalers, damaged or incomplete (tests/export/test_upscalers.py)
_UPSCALERS = ("ONNX", "upscaler", "compact upscaler")
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "onnx")


def made(wrong: Wrong, folder: Path) -> Path:
    """The path that is given to the build."""
    path = folder / wrong.name
    wrong.make(path)
    return path / wrong.given if wrong.given else path


@pytest.mark.parametrize("mistake", WRONG)
def test_named_for_what_it_is(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with what it is and what to do; the libraries cannot be imported meanwhile."""
    wrong = WRONG[mistake]
    path = made(wrong, tmp_path)
    constructor_settings("diffusers", "schedulers/scheduling_pndm.py", "PNDMScheduler")  # read from its file, and kept
    for library in _LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_model(str(path), Choices())
    message = str(caught.value)
    for part in (*wrong.says, "; ", path.name):
        assert part in message
    assert "\n" not in message
    whole = not any(word in message for word in ("cut short", "empty", "web page", "server", "text that begins"))
    assert not (whole and "download it again" in message), message
    assert "download the model again, or" not in message


def test_torch_is_never_imported(tmp_path: Path) -> None:
    """Each of them through the command line, in one process of its own: status 2, one line, no torch."""
    paths, mistakes = [], {name: wrong for name, wrong in WRONG.items() if name not in _UPSCALERS}
    for number, wrong in enumerate(mistakes.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(str(made(wrong, folder)))
    code = f"""
import contextlib, io, json, sys
from latentrt.cli.app import main
said = []
for path in {paths!r}:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            main(["build", path, "-o", {str(tmp_path / "new.bundle")!r}])
        except SystemExit as exit:
            said.append([exit.code, errors.getvalue()])
print(json.dumps([said, sorted({{"torch", "diffusers", "transformers", "accelerate", "onnx"}} & sys.modules.keys())]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said, imported = json.loads(done.stdout)
    assert imported == []
    for (mistake, wrong), (status, line) in zip(mistakes.items(), said, strict=True):
        assert status == 2, mistake
        assert line.count("\n") == 1, line
        if mistake != "base is a bundle":  # which a build takes for what it is
            assert all(part in line for part in wrong.says), line
    assert not (tmp_path / "new.bundle").exists()
