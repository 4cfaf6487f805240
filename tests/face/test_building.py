"""Builds that are killed, that meet each other or that come out wrong never leave half a bundle."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_export import stub_exporter

import latentrt
from latentrt.building.packages import export_packages
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.checks.probes import read_probes, write_probes
from latentrt.engines.bundle.records.manifests.manifest import PreviewRecord
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.errors import CheckpointError
from latentrt.verifying import verify

STUB = Path(__file__).resolve().parents[1] / "stub_export.py"


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def start(*arguments: object) -> subprocess.Popen[str]:
    """A Python process with its input and its output piped."""
    command = [sys.executable, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def check_old_bundle(bundle: Path) -> None:
    """The bundle is whole and opens."""
    open_bundle(bundle).check_all()
    latentrt.open(bundle).close()


@pytest.mark.slow
def test_killed_at_any_moment_the_old_bundle_stays(tiny_bundle: Path, tiny_copy: Path, tiny_checkpoint: Path) -> None:
    """SIGKILL at six random moments of a build over a bundle; the next build succeeds and clears up."""
    arguments = (STUB, tiny_bundle, "build", tiny_checkpoint, "-o", tiny_copy)
    begin = time.perf_counter()
    assert start(*arguments).wait() == 0
    length = time.perf_counter() - begin
    moments = random.Random(0)
    for _ in range(6):
        process = start(*arguments)
        time.sleep(moments.uniform(0.25, 1.0) * length)
        process.kill()
        process.communicate()
        check_old_bundle(tiny_copy)
    assert start(*arguments).wait() == 0
    assert names(tiny_copy.parent) == [tiny_copy.name]
    verify(tiny_copy)


@pytest.mark.parametrize("stage", ["text_encoder: trace", "vae_encoder: trace"])
@pytest.mark.slow
def test_killed_while_torch_exports(tiny_copy: Path, tiny_checkpoint: Path, stage: str) -> None:
    """The same in the middle of a real export: two seconds into a stage."""
    code = f"""
import os, signal, threading
from contextlib import contextmanager
import latentrt

class Killer:
    @contextmanager
    def stage(self, name):
        if name == {stage!r}:
            threading.Timer(1.0, os.kill, (os.getpid(), {int(signal.SIGKILL)})).start()
        yield

latentrt.build({str(tiny_checkpoint)!r}, {str(tiny_copy)!r}, profiles=["32x32x3"], progress=Killer())
"""
    process = start("-c", code)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert f".{tiny_copy.name}.building" in names(tiny_copy.parent)
    check_old_bundle(tiny_copy)


def test_of_two_builds_at_once_one_is_refused(tiny_bundle: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The one that came later, at once; the other one succeeds."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(STUB.parent)!r})
from stub_export import compare_nothing, stub_exporter
source, model, output = map(Path, sys.argv[1:])

def wait(root):
    print("exported", flush=True)
    sys.stdin.read()

sys.modules["latentrt.export.components"] = stub_exporter(source, wait)
compare_nothing()
from latentrt.cli.app import main
main(["build", str(model), "-o", str(output)])
"""
    output = tmp_path / "new.bundle"
    first = start("-c", code, tiny_bundle, tiny_checkpoint, output)
    assert first.stdout is not None
    assert first.stdout.readline() == "exported\n"
    second = start("-c", code, tiny_bundle, tiny_checkpoint, output)
    assert "another build is writing" in second.communicate()[1]
    assert second.returncode == 2
    _, message = first.communicate()
    assert first.returncode == 0, message
    assert names(tmp_path) == [output.name]
    verify(output)


def spoil_probe(root: Path) -> None:
    """Changes what torch answered for the VAE decoder, as if its ONNX came out wrong."""
    path = root / "probes" / "vae_decoder.safetensors"
    probes = read_probes(path)
    for probe in probes:
        probe.outputs["sample"][...] += np.float32(0.01)
    write_probes(path, probes)


def test_a_wrong_component_fails_the_build(
    tiny_bundle: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate names the component, and nothing is left."""
    stub: Any = stub_exporter(tiny_bundle)
    export = stub.export_components

    def wrong(checkpoint: Any, root: Path, *rest: Any) -> Any:
        manifest = export(checkpoint, root, *rest)
        spoil_probe(root)
        return manifest.model_copy(update={"files": record_files(root, manifest.files)})

    stub.export_components = wrong
    monkeypatch.setitem(sys.modules, "latentrt.export.components", stub)
    with pytest.raises(latentrt.ParityError, match=r"vae_decoder \(fp32\) differs"):
        latentrt.build(tiny_checkpoint, tmp_path / "new.bundle")
    assert names(tmp_path) == []


def test_a_module_that_changes_before_it_is_traced_fails_the_build(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real exporter: torch answers, one weight changes, the graph no longer repeats the answer."""
    from latentrt.export import component_exports, components

    trace = component_exports.export_onnx

    def spoiled(module: Any, example: Any, graph: Any, folder: Path, islands: Any) -> Any:
        if folder.name == "unet":
            raise AssertionError("the build should have failed at the text encoder")
        if folder.name == "text_encoder":
            next(module.parameters()).data.mul_(1.01)
        return trace(module, example, graph, folder, islands)

    # Leaves the other components out, to save their time
    preview = PreviewRecord(matrix=((0.0, 0.0, 0.0),) * 4, bias=(0.0, 0.0, 0.0), psnr=0.0)

    monkeypatch.setattr(component_exports, "export_onnx", spoiled)
    monkeypatch.setattr(components, "_export_autoencoder", lambda run: ([], preview))
    monkeypatch.setattr(components, "_export_unet", lambda run, prompts, pictures: None)
    with pytest.raises(latentrt.ParityError, match="text_encoder"):
        latentrt.build(tiny_checkpoint, tmp_path / "new.bundle")
    assert names(tmp_path) == []


def test_verify_finds_an_engine_that_computes_something_else(tiny_copy: Path) -> None:
    """Files that are whole but wrong: the probes say otherwise."""
    spoil_probe(tiny_copy)
    manifest = open_bundle(tiny_copy).manifest
    spoiled = manifest.model_copy(update={"files": record_files(tiny_copy, manifest.files)})
    write_manifest(tiny_copy / "bundle.json", spoiled)
    with pytest.raises(latentrt.ParityError, match="vae_decoder"):
        verify(tiny_copy)


def test_an_unchanged_model_is_not_built_again(tiny_copy: Path, tiny_checkpoint: Path) -> None:
    """Same files, profiles and versions."""
    before = (tiny_copy / "bundle.json").stat().st_mtime_ns
    assert latentrt.build(tiny_checkpoint, tiny_copy, profiles=["32x32x2", "48x32"]).up_to_date
    assert (tiny_copy / "bundle.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("arguments", ["build", "inspect", "verify"])
def test_json_is_one_object_on_stdout(command: Callable[..., Any], tiny_copy: Path, arguments: str) -> None:
    """Progress goes to stderr."""
    import json

    done = command(arguments, tiny_copy, "--json")
    assert done.status == 0
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["bundle"] == str(tiny_copy)


def test_json_of_pictures_and_samplers(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """Paths, seeds and settings of every picture; the names of every sampler."""
    import json

    done = command(
        "generate", tiny_bundle, "ein Käse", "--count", 3, "--seed", 5, "--steps", 2, "-o", tmp_path / "a.png", "--json"
    )
    pictures = json.loads(done.stdout)["pictures"]
    assert [picture["seed"] for picture in pictures] == [5, 6, 7]
    assert [Path(picture["path"]).name for picture in pictures] == ["a-0.png", "a-1.png", "a-2.png"]
    assert names(tmp_path) == ["a-0.png", "a-1.png", "a-2.png"]
    listed = json.loads(command("samplers", "--json").stdout)["samplers"]
    assert "euler_a" in [row["name"] for row in listed]


def test_output_for_people(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """Without --json: tables and sentences, exit status 0."""
    assert "dpmpp_2m_k" in command("samplers").stdout
    assert "unet" in command("inspect", tiny_bundle).stdout
    done = command("generate", tiny_bundle, "cat", "--steps", 1, "--seed", 4, "-o", tmp_path / "a.png")
    assert "seed 4" in done.stdout
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.slow
def test_a_link_to_a_bundle_stays_a_link(tiny_copy: Path, tiny_checkpoint: Path) -> None:
    """A build through a link replaces what it points to, and another spelling meets the same lock."""
    link = tiny_copy.with_name("link")
    link.symlink_to(tiny_copy)
    assert start(STUB, tiny_copy, "build", tiny_checkpoint, "-o", link).wait() == 0
    assert link.is_symlink()
    assert open_bundle(link).manifest.profiles == open_bundle(tiny_copy).manifest.profiles
    assert [path.name for path in tiny_copy.parent.iterdir() if path.name.startswith(".")] == []


def test_building_without_the_exporter_says_what_to_install(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The lean install names the missing package and the extra."""
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
from latentrt.cli.app import main
main(["build", {str(tiny_checkpoint)!r}, "-o", {str(tmp_path / "new.bundle")!r}])
"""
    process = start("-c", code)
    _, message = process.communicate()
    assert process.returncode == 2
    assert "latentrt[export]" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "extra"), [("spandrel", "upscale"), ("diffusers", "export")])
def test_a_missing_package_is_named_with_its_extra(package: str, extra: str) -> None:
    """Upscalers of weights need one of their own."""
    with pytest.raises(CheckpointError, match=rf"package {package}, .* install latentrt\[{extra}\]"), export_packages():
        raise ModuleNotFoundError(name=package)
