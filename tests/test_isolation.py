"""Who may import whom: the runtime runs without torch, and arrows between the rooms run one way."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
ROOMS = ("benchmarks", "engines", "export", "models", "runtime")
BUILDERS = ("torch", "diffusers", "transformers", "onnx", "onnxscript")
BACKENDS = ("tensorrt", "tensorrt_rtx", "onnxruntime", "cuda")
HEAVY = ("numpy", "PIL", "pydantic", "rich", "typer", "tokenizers", "safetensors")

# Refuses imports, as if the packages were not installed
BLOCK = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_blocked(blocked: tuple[str, ...], code: str) -> str:
    """Runs code in a fresh Python that lacks some packages; returns what it printed."""
    script = f"BLOCKED = {set(blocked)!r}\n{BLOCK}\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=HOUSE.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("room", ["runtime", "engines"])
def test_every_module_imports_without_torch_or_any_backend(room: str) -> None:
    """Each file of the room, in a process where none of those packages exists."""
    code = f"""
room = importlib.import_module("latentrt.{room}")
walked = pkgutil.walk_packages(room.__path__, "latentrt.{room}.")
names = [module.name for module in walked if not module.ispkg]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    files = [path for path in (HOUSE / room).rglob("*.py") if path.name != "__init__.py"]
    assert int(run_blocked((*BUILDERS, *BACKENDS, "ray"), code)) == len(files)


@pytest.mark.parametrize("module", ["latentrt", "latentrt.engines", "latentrt.engines.errors"])
def test_importing_the_package_loads_nothing(module: str) -> None:
    """Not even NumPy: ``import latentrt`` costs milliseconds."""
    blocked = set(BUILDERS + BACKENDS + HEAVY)
    loaded = run_blocked(
        (), f"import {module}\nprint(*sorted({{n.partition('.')[0] for n in sys.modules}} & {blocked}))"
    )
    assert loaded.split() == []


def test_draws_without_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    """A picture from a bundle, in a process where torch, diffusers, transformers and onnx do not exist."""
    code = f"""
import latentrt
with latentrt.open({str(tiny_bundle)!r}) as pipe:
    pipe("a cat", num_inference_steps=2, seed=1).save({str(tmp_path / "cat.png")!r})
"""
    run_blocked(BUILDERS, code)
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_renders_without_a_server(tiny_bundle: Path, tmp_path: Path) -> None:
    """A file of orders, in a process where no package of the extras serve and ray exists."""
    (tmp_path / "orders.jsonl").write_text('{"prompt": "a cat", "num_inference_steps": 1}\n')
    arguments = ["render", str(tiny_bundle), str(tmp_path / "orders.jsonl"), "-o", str(tmp_path / "out")]
    code = f"""
from latentrt.cli.app import main
try:
    main({arguments!r})
except SystemExit as exit:
    assert exit.code == 0
"""
    run_blocked((*BUILDERS, "fastapi", "starlette", "uvicorn", "prometheus_client", "anyio", "ray"), code)
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_prepares_control_pictures_without_torch() -> None:
    """Without any backend, too, and without OpenCV where Pillow will do."""
    code = """
import latentrt
from PIL import Image
print(latentrt.prepare.invert(Image.new("RGB", (8, 8))).getpixel((0, 0)))
"""
    assert run_blocked((*BUILDERS, *BACKENDS, "cv2"), code) == "(255, 255, 255)\n"


def test_drawing_without_loras_loads_nothing_of_them(tiny_bundle: Path) -> None:
    """A cold start without them is as it was before there were any."""
    code = f"""
import latentrt
with latentrt.open({str(tiny_bundle)!r}) as pipe:
    assert pipe.loras == ()
    pipe.lora_cache.size = 1
    for syntax in ("plain", "compel", "a1111"):
        pipe("a cat", num_inference_steps=1, seed=1, prompt_syntax=syntax)
    pipe(**pipe.encode("a cat"), num_inference_steps=1, seed=1)
print(*(name for name in sys.modules if "lora" in name and "tags" not in name or ".adapters" in name))
"""
    assert run_blocked(BUILDERS, code).split() == []


def test_drawing_without_nets_loads_nothing_of_them(tiny_bundle: Path) -> None:
    """Nothing of control nets, image prompts, a hires fix, wildcards, details, and other guidance."""
    code = f"""
import latentrt
from PIL import Image
image = Image.new("RGB", (32, 32))
with latentrt.open({str(tiny_bundle)!r}) as pipe:
    pipe("a cat", num_inference_steps=1, seed=1)
    pipe.inpaint("a cat", image=image, mask_image=image, num_inference_steps=1, seed=1)
words = ("addon", "control", "image_prompt", "unet.structure", "net_inputs", "wildcard", "template", "detail", "detect")
words += ("combiners", "guidance.settings", "hires", "regions", "freeu", "upscal", "deep_cache", "cached_graphs")
words += ("call.views", "clips")
print(*(name for name in sys.modules if name.startswith("latentrt.") and any(word in name for word in words)))
print(*(name for name in sys.modules if name.startswith("dynamicprompts")))
"""
    assert run_blocked(BUILDERS, code).split() == []


def test_draws_with_a_control_net_without_torch(tiny_bundle: Path, tiny_net: Path) -> None:
    """In a process where torch, diffusers, transformers and onnx do not exist."""
    code = f"""
import latentrt
from PIL import Image
with latentrt.open({str(tiny_bundle)!r}) as pipe:
    control = latentrt.Control({str(tiny_net)!r}, Image.new("RGB", (32, 32)))
    print(pipe("a cat", control=control, num_inference_steps=1, seed=1).metadata[0].control_nets[0].net)
"""
    assert run_blocked(BUILDERS, code) == "sd1-net\n"


def test_compiles_the_engines_of_a_bundle_without_torch(tiny_copy: Path) -> None:
    """``latentrt build BUNDLE`` on a machine that has only the runtime."""
    for plan in (tiny_copy / "engines").glob("*/model.onnx"):
        plan.unlink()
    code = f"from latentrt.cli.app import main\nmain(['build', {str(tiny_copy)!r}, '--json'])"
    assert json.loads(run_blocked(BUILDERS, code))["up_to_date"] is False
    assert len(list((tiny_copy / "engines").glob("*/model.onnx"))) == 4


@cache
def imported_by(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("engines", ("runtime", "export", "benchmarks", "models")),
        ("runtime", ("export", "benchmarks", "models")),
        ("export", ("runtime", "benchmarks")),
    ],
)
def test_arrows_run_one_way(room: str, others: tuple[str, ...]) -> None:
    """The runtime and the exporter do not know each other, and the engines know neither."""
    for path in (HOUSE / room).rglob("*.py"):
        forbidden = {name for name in imported_by(path) if name.split(".")[:2] in [["latentrt", o] for o in others]}
        assert not forbidden, path


def test_rooms_are_imported_by_their_full_names() -> None:
    """``import engines`` would work in this checkout alone."""
    for folder in ("latentrt", *ROOMS, "tests", "examples"):
        for path in (HOUSE / folder).rglob("*.py"):
            assert not {name.partition(".")[0] for name in imported_by(path)} & set(ROOMS), path


def test_no_module_needs_itself() -> None:
    """Imports at the top of modules make no circle, however long."""
    modules = {}
    for folder in ("latentrt", *ROOMS):
        for path in (HOUSE / folder).rglob("*.py"):
            name = ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")
            modules[name if folder == "latentrt" else f"latentrt.{name}"] = path
    needs = {name: imported_at_top(path) & modules.keys() for name, path in modules.items()}
    while ready := {name for name, others in needs.items() if not others}:
        needs = {name: others - ready for name, others in needs.items() if name not in ready}
    assert not needs


def imported_at_top(path: Path) -> set[str]:
    """What a file imports as it is imported itself."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names
