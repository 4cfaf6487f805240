"""Whatever a user gets wrong: exit status 2, one line that says what to do, and nothing written."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

ROOT_HOUSE = Path(__file__).resolve().parents[2]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_size, stat.st_mtime_ns) if path.is_file() else (0, 0)
    return found


class Refusals:
    """A folder with everything that commands are tried on, and the check that one is refused."""

    def __init__(self, folder: Path, bundle: Path, checkpoint: Path, command: Callable[..., Any]) -> None:
        self.folder, self.command = folder, command
        self.places = {
            "bundle": shutil.copytree(bundle, folder / "ok.bundle"),
            "model": shutil.copytree(checkpoint, folder / "model"),
            "tmp": folder,
            "out": folder / "out.png",
            "new": folder / "new.bundle",
        }
        (folder / "empty").mkdir()
        (folder / "full").mkdir()
        (folder / "full" / "diary.txt").write_text("dear diary")
        (folder / "web").mkdir()
        (folder / "web" / "bundle.json").write_text('{"js": 1}')
        (folder / "web" / "main.js").write_text("// mine")
        (folder / "text.txt").write_text("no picture")
        (folder / "folder.png").mkdir()
        Image.new("RGB", (32, 32), "red").save(folder / "red.png")
        Image.effect_noise((64, 64), 90).save(folder / "cut.png")
        whole = (folder / "cut.png").read_bytes()
        (folder / "cut.png").write_bytes(whole[: len(whole) // 2])

    def __call__(self, arguments: str, *fragments: str) -> None:
        """Runs ``latentrt ARGUMENTS`` and checks the refusal; {names} stand for places."""
        words = [word.format(**self.places).replace("␣", " ") for word in arguments.split()]
        before = listing(self.folder)
        done = self.command(*words)
        check_refusal(done, *fragments)
        assert listing(self.folder) == before


def check_refusal(done: Any, *fragments: str) -> None:
    """Exit status 2, nothing on stdout, one line on stderr with the fragments in it."""
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("latentrt: ")
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.fixture
def refused(tmp_path: Path, tiny_bundle: Path, tiny_checkpoint: Path, command: Callable[..., Any]) -> Refusals:
    """The places and the check."""
    return Refusals(tmp_path, tiny_bundle, tiny_checkpoint, command)


MODELS = {
    "missing folder": ("build {tmp}/nowhere -o {new}", "nowhere", "expected a diffusers folder"),
    "no checkpoint": ("build {tmp}/full -o {new}", "model_index.json"),
    "a file": ("build {tmp}/text.txt -o {new}", "text.txt", "a text", "expected the weights"),
    "hub id offline": ("build nobody/nothing -o {new}", "nobody/nothing", "connection"),
    "not a hub id": ("build not␣a␣model -o {new}", "not a model"),
    "no output": ("build {model}", "-o DIR"),
    "unknown precision": ("build {model} -o {new} --precision fp12", "fp12", "fp32"),
    "unknown backend": ("build {model} -o {new} --backend abacus", "abacus", "ort-cpu"),
    "malformed profile": ("build {model} -o {new} --profile 32by32", "32by32", "512x512"),
    "empty profile": ("build {model} -o {new} --profile 0x32", "0x32"),
    "profile of no multiple": ("build {model} -o {new} --profile 34x32", "34x32", "multiples of 4"),
    "duplicate sizes": ("build {model} -o {new} --profile 32x32 --profile 32x32x2", "twice"),
    "destination with other files": ("build {model} -o {tmp}/full", "no bundle"),
    "destination with a bundle.json of others": ("build {model} -o {tmp}/web", "no bundle"),
    "bad hub id": ("build out/my..model -o {new}", "out/my..model"),
    "destination is a file": ("build {model} -o {tmp}/text.txt", "no bundle"),
    "destination through a file": ("build {model} -o {tmp}/text.txt/new.bundle", "text.txt"),
    "destination in /proc": ("build {model} -o /proc/new.bundle", "/proc/new.bundle"),
    "bundle and other output": ("build {bundle} -o {new}", "-o"),
    "bundle and unknown profile": ("build {bundle} --profile 64x64", "64x64", "32x32x2"),
}
REQUESTS = {
    "missing bundle": ("generate {tmp}/nowhere cat -o {out}", "nowhere", "latentrt build"),
    "no bundle": ("generate {tmp}/empty cat -o {out}", "bundle.json"),
    "a file as bundle": ("generate {tmp}/text.txt cat -o {out}", "text.txt"),
    "checkpoint as bundle": ("generate {model} cat -o {out}", "bundle.json"),
    "unknown sampler": ("generate {bundle} cat -o {out} --sampler euler_b", "euler_b", "euler_a"),
    "unknown backend": ("generate {bundle} cat -o {out} --backend gpu", "gpu", "ort-cpu"),
    "no steps": ("generate {bundle} cat -o {out} --steps 0", "0 steps", "1 to 999"),
    "too many steps": ("generate {bundle} cat -o {out} --steps 1001", "1001 steps", "1 to 999"),
    "negative steps": ("generate {bundle} cat -o {out} --steps -3", "-3"),
    "steps in words": ("generate {bundle} cat -o {out} --steps many", "--steps", "integer"),
    "NaN guidance": ("generate {bundle} cat -o {out} --guidance nan", "nan"),
    "infinite guidance": ("generate {bundle} cat -o {out} --guidance inf", "inf"),
    "negative guidance": ("generate {bundle} cat -o {out} --guidance -1", "-1"),
    "negative seed": ("generate {bundle} cat -o {out} --seed -1", "-1", "2^64"),
    "huge seed": ("generate {bundle} cat -o {out} --seed 18446744073709551616", "2^64"),
    "seeds that count past the last": ("generate {bundle} cat -o {out} --seed 18446744073709551615 --count 2", "2^64"),
    "a size without profile": ("generate {bundle} cat -o {out} --size 64x64", "64x64", "32x32x2, 48x32"),
    "a size turned round": ("generate {bundle} cat -o {out} --size 32x48", "32x48"),
    "malformed size": ("generate {bundle} cat -o {out} --size 32", "'32'"),
    "size with batch": ("generate {bundle} cat -o {out} --size 32x32x2", "--count"),
    "unknown prompt syntax": ("generate {bundle} cat -o {out} --prompt-syntax midjourney", "midjourney", "a1111"),
    "unknown long prompt": ("generate {bundle} cat -o {out} --long-prompt summarize", "summarize", "truncate, chunk"),
    "malformed prompt": ("generate {bundle} a␣(cat -o {out} --prompt-syntax compel", "at character 3: a ▸(cat", "\\("),
    "malformed negative prompt": ("generate {bundle} cat -n (b:1..2) -o {out} --prompt-syntax a1111", "(b:▸1..2)"),
    "clip skip of all layers": ("generate {bundle} cat -o {out} --clip-skip 2", "clip_skip 2", "0 to 1"),
    "negative clip skip": ("generate {bundle} cat -o {out} --clip-skip -1", "clip_skip -1"),
    "missing embedding": ("generate {bundle} cat -o {out} --textual-inversion {tmp}/no.pt", "no.pt", "does not exist"),
    "text as embedding": ("generate {bundle} cat -o {out} --textual-inversion {tmp}/text.txt", "text.txt", "pickle"),
    "no pictures": ("generate {bundle} cat -o {out} --count 0", "count 0"),
    "no threads": ("generate {bundle} cat -o {out} --threads 0", "0 threads"),
    "output without suffix": ("generate {bundle} cat -o {tmp}/picture", ".png"),
    "output of another kind": ("generate {bundle} cat -o {tmp}/picture.gif", ".png, .jpg"),
    "output in a missing folder": ("generate {bundle} cat -o {tmp}/nowhere/cat.png", "does not exist"),
    "output is a folder": ("generate {bundle} cat -o {tmp}/folder.png", "it is a folder"),
    "output through a file": ("generate {bundle} cat -o {tmp}/text.txt/cat.png", "is a file"),
    "output in /proc": ("generate {bundle} cat -o /proc/cat.png", "/proc/cat.png"),
    "text that is not UTF-8": ("generate {bundle} caf\udce9 -o {out}", "UTF-8"),
    "negative text that is not UTF-8": ("generate {bundle} cat -n caf\udce9 -o {out}", "UTF-8"),
    "no prompt": ("generate {bundle}", "PROMPT"),
    "nothing": ("generate", "DIR"),
    "unknown option": ("generate {bundle} cat --stesp 3", "--stesp"),
    "unknown command": ("draw {bundle} cat", "draw"),
    "inspect no bundle": ("inspect {tmp}/empty", "bundle.json"),
    "verify no bundle": ("verify {tmp}/empty", "bundle.json"),
    "demo through a file": ("demo -o {tmp}/text.txt", "text.txt"),
}
IMAGES = {
    "strength below 0": ("img2img {bundle} cat --image {tmp}/red.png --strength -1 -o {out}", "-1", "0 to 1"),
    "strength above 1": ("img2img {bundle} cat --image {tmp}/red.png --strength 1.5 -o {out}", "1.5"),
    "NaN strength": ("img2img {bundle} cat --image {tmp}/red.png --strength nan -o {out}", "nan"),
    "no image": ("img2img {bundle} cat -o {out}", "--image"),
    "missing image": ("img2img {bundle} cat --image {tmp}/nowhere.png -o {out}", "nowhere.png"),
    "text as image": ("img2img {bundle} cat --image {tmp}/text.txt -o {out}", "text.txt", "expected a picture"),
    "truncated image": ("img2img {bundle} cat --image {tmp}/cut.png --size 32x32 -o {out}", "cut.png", "truncated"),
    "folder as image": ("img2img {bundle} cat --image {tmp}/full -o {out}", "full"),
    "image of no profile's size": ("img2img {bundle} cat --image {tmp}/red.png --size 64x64 -o {out}", "64x64"),
}
CASES = {**MODELS, **REQUESTS, **{f"image: {key}": case for key, case in IMAGES.items()}}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line(refused: Refusals, case: str) -> None:
    """Each mistake that a line of arguments can hold."""
    refused(*CASES[case])


def damage_weights(model: Path, content: bytes | None) -> None:
    """Cuts the U-Net's weights short, or replaces them."""
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)


def put_nan(model: Path) -> None:
    """Makes one weight of the text encoder NaN."""
    from safetensors.numpy import load_file, save_file

    path = model / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("mlp.fc1.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


def remove_parts(model: Path) -> None:
    """Takes away two configs, weights and the tokenizer."""
    (model / "vae" / "config.json").unlink()
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(model / "scheduler")
    shutil.rmtree(model / "tokenizer")


def change_json(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def wrong_widths(model: Path) -> None:
    """Lets the text encoder's config contradict its weights."""
    change_json(model / "text_encoder" / "config.json", hidden_size=40)


DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated weights": (lambda m: damage_weights(m, None), ("unet/diffusion_pytorch_model.safetensors", "damaged")),
    "garbage weights": (lambda m: damage_weights(m, b"garbage" * 99), ("unet/diffusion_pytorch_model.safetensors",)),
    "empty weights": (lambda m: damage_weights(m, b""), ("unet/diffusion_pytorch_model.safetensors",)),
    "NaN weight": (put_nan, ("text_encoder", "NaN", "mlp.fc1.weight")),
    "missing parts": (
        remove_parts,
        ("vae/config.json", "vae/diffusion", "scheduler_config", "tokenizer"),
    ),
    "weights of other widths": (wrong_widths, ("text_encoder",)),
    "another pipeline": (
        lambda m: change_json(m / "model_index.json", _class_name="FluxPipeline"),
        ("FluxPipeline", "StableDiffusionPipeline"),
    ),
    "an inpainting U-Net": (lambda m: change_json(m / "unet" / "config.json", in_channels=9), ("in_channels 9",)),
    "unknown noise schedule": (
        lambda m: change_json(m / "scheduler" / "scheduler_config.json", beta_schedule="sigmoid"),
        ("beta_schedule", "sigmoid"),
    ),
    "config that is not JSON": (lambda m: (m / "unet" / "config.json").write_text("{") and None, ("unet/config.json",)),
    "config that is a list": (lambda m: (m / "vae" / "config.json").write_text("[]") and None, ("vae/config.json",)),
    "config without a key": (lambda m: (m / "vae" / "config.json").write_text("{}") and None, ("vae/config.json",)),
    "tokenizer that is not JSON": (
        lambda m: (m / "tokenizer" / "tokenizer.json").write_text("{") and None,
        ("tokenizer",),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint(refused: Refusals, damage: str) -> None:
    """Each fault of a checkpoint is named before anything is written."""
    spoil, fragments = DAMAGES[damage]
    spoil(refused.places["model"])
    refused.command = quiet_stages(refused.command)
    refused("build {model} -o {new}", *fragments)


@pytest.fixture
def writer() -> Iterator[Callable[[Path], None]]:
    """Another process that writes a bundle until the test ends."""
    processes = []

    def hold(bundle: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from latentrt.engines.files import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(bundle)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

    yield hold
    for process in processes:
        process.communicate()


@pytest.mark.parametrize("arguments", ["build {model} -o {bundle}", "build {bundle}"])
def test_a_bundle_that_another_build_is_writing(
    refused: Refusals, writer: Callable[[Path], None], arguments: str
) -> None:
    """Refused at once, with what to do; readers are not kept out."""
    writer(refused.places["bundle"])
    refused(arguments, "another build is writing", "wait")
    assert refused.command("inspect", refused.places["bundle"]).status == 0


def test_too_little_space_is_noticed_before_the_work(refused: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free space is compared with what the bundle may need."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1, used=1, free=2**20))
    refused("build {model} -o {new}", "1 MB free", "needs about")


class Limited:
    """``latentrt`` in a process of its own in which no file can grow beyond a limit, as on a full disk."""

    def __init__(self, limit: int, *launch: object) -> None:
        self._limit, self._launch = limit, launch

    def __call__(self, *arguments: object) -> SimpleNamespace:
        done = subprocess.run(
            [sys.executable, *map(str, self._launch), *map(str, arguments)],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, self._limit)),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        return SimpleNamespace(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def test_full_disk_while_writing_a_picture(refused: Refusals) -> None:
    """The picture that stood there stays."""
    refused.places["out"].write_bytes(b"an earlier picture")
    refused.command = Limited(500, "-m", "latentrt")
    refused("generate {bundle} cat --steps 1 -o {out}", "out.png")


# Bytes, and the stage whose file is the first that is larger
@pytest.mark.parametrize("limit", [100_000, 300_000, 700_000], ids=["tokenizer", "embeddings", "onnx"])
@pytest.mark.slow
def test_full_disk_while_exporting(refused: Refusals, limit: int) -> None:
    """Export fails in one line and leaves nothing."""
    refused.command = quiet_stages(Limited(limit, "-m", "latentrt"))
    refused("build {model} -o {new}", "new.bundle")


# Bytes: less than the U-Net's engine has, and than the decoder's, which is compiled before
@pytest.mark.parametrize("limit", [2_000_000, pytest.param(1_300_000, marks=pytest.mark.slow)])
def test_full_disk_while_compiling(refused: Refusals, tiny_bundle: Path, limit: int) -> None:
    """An engine that cannot be written fails the build, whose old bundle stays."""
    stub = ROOT_HOUSE / "tests" / "stub_export.py"
    refused.command = quiet_stages(Limited(limit, stub, tiny_bundle))
    refused("build {model} -o {bundle}", "cannot")


def quiet_stages(command: Callable[..., SimpleNamespace]) -> Callable[..., SimpleNamespace]:
    """A build that got some way has told what it decided and of its finished stages; leaves the line after them."""

    def run(*arguments: object) -> SimpleNamespace:
        done = command(*arguments)
        lines = [line for line in done.stderr.splitlines(keepends=True) if line[8:12] != " s  " and line[15:17] != ": "]
        return SimpleNamespace(status=done.status, stdout=done.stdout, stderr="".join(lines))

    return run


@pytest.mark.parametrize(
    "arguments",
    [["generate", "nowhere", "cat"], ["nonsense"], pytest.param(["build", "emoji"], marks=pytest.mark.slow)],
)
def test_refused_by_the_installed_command(tmp_path: Path, arguments: list[str]) -> None:
    """The same through ``python -m latentrt`` in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "latentrt", *arguments], cwd=tmp_path, capture_output=True, text=True)
    check_refusal(SimpleNamespace(status=done.returncode, stdout=done.stdout, stderr=done.stderr))
    assert list(tmp_path.iterdir()) == []
