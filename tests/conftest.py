"""Bundles that many tests share, built once per session."""

import gc
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
from shared import filled_once, no_preview_fitted, remembered_exports, shared_folder, traces_folder

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
# The models are too small for more, and processes that run beside each other would fight; torch reads it once
os.environ.setdefault("OMP_NUM_THREADS", "1")

import latentrt
from latentrt.models import EMBEDDED, EMOJI

# torch and its exporter leave a heap that takes half a second to look through, and nothing in it is garbage
gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves the slow ones out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``grid``, what shows nothing new is slow: all values of its parameters were shown before.

    ``most`` bounds what is left, evenly spread over the grid.
    """
    grids: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("grid"):
            grids.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in grids.values():
        shown: set[tuple[str, str]] = set()
        kept = []
        for item in cases:
            values = {(name, repr(value)) for name, value in item.callspec.params.items()}  # type: ignore[attr-defined]
            if values - shown:
                kept.append(item)
                shown |= values
        marker = cases[0].get_closest_marker("grid")
        most = marker.kwargs.get("most", len(kept)) if marker is not None else len(kept)
        spread = {kept[index * len(kept) // most].nodeid for index in range(min(most, len(kept)))}
        for item in cases:
            if item.nodeid not in spread:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """ONNX Runtime takes one thread, too, where nobody says how many."""
    from latentrt.engines.backends.ort_cpu import compile as ort_compile
    from latentrt.engines.backends.ort_cpu import model as ort_model

    chosen = ort_model.session_options

    @wraps(chosen)
    def options(level: Any, threads: int | None, *, packs: bool) -> Any:
        return chosen(level, threads or 1, packs=packs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort_model, "session_options", options)
        patch.setattr(ort_compile, "session_options", options)
        patch.setattr(ort_model, "physical_cores", lambda: 2)  # a thread for each half of a batch, on any machine
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium that the system has; the package playwright brings none.

    Its event loop runs in this thread as long as it is open, so no longer than a module.
    """
    driver = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    with driver.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of checkpoints and bundles, which every process of a run uses."""
    return shared_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def exports(shared: Path) -> Iterator[None]:
    """No module is exported twice, nor one of its structure traced, also not by later runs."""
    folder = shared / "exports"
    folder.mkdir(exist_ok=True)
    with remembered_exports(folder, traces_folder()):
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(family_checkpoint: Callable[[str], Path]) -> Path:
    """A random checkpoint of 32×32 pixels in diffusers layout."""
    return family_checkpoint("sd1")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, shared: Path) -> Path:
    """Its bundle with two profiles: two pictures at once, and a size that is not square. Do not write to it."""
    return filled_once(
        shared / "tiny.bundle",
        lambda folder: latentrt.build(tiny_checkpoint, folder, profiles=["32x32x2", "48x32"]),
    )


@pytest.fixture(scope="session")
def half_bundle(tiny_checkpoint: Path, shared: Path) -> Path:
    """The tiny checkpoint in fp16. Do not write to it."""

    def build(folder: Path) -> None:
        with no_preview_fitted():
            latentrt.build(tiny_checkpoint, folder, precision="fp16", profiles=["32x32x2"])

    return filled_once(shared / "half.bundle", build)


@pytest.fixture
def tiny_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to damage or to build over."""
    return shutil.copytree(tiny_bundle, tmp_path / "tiny.bundle")


@pytest.fixture(scope="session")
def planned_bundle(tiny_bundle: Path, shared: Path) -> Path:
    """The tiny bundle with plans of the stand-in for a GPU beside its engines for the CPU. Do not write to it."""
    from stand_ins import StandInRTX

    from latentrt.engines.backends.registry import COMPILERS
    from latentrt.engines.precision import Backend

    def build(folder: Path) -> None:
        shutil.copytree(tiny_bundle, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(COMPILERS, Backend.TENSORRT_RTX, StandInRTX())
            assert not latentrt.build(folder, backend="tensorrt-rtx").up_to_date

    return filled_once(shared / "stand-in.bundle", build)


@pytest.fixture(scope="session")
def tiny_upscaler(exports: None, shared: Path) -> Path:
    """The bundle of a random RRDBNet that enlarges four times, for tiles of 48x32 and of 32x32. Do not write to it."""
    from tiny_upscalers import require_spandrel, rrdb_state, saved

    require_spandrel()

    def build(folder: Path) -> None:
        source = saved(folder.with_name("rrdb-x4.pth"), rrdb_state())
        latentrt.build(source, folder, profiles=["32x32", "48x32"])

    return filled_once(shared / "tiny-x4.bundle", build)


@pytest.fixture(scope="session")
def onnx_upscaler_bundle(shared: Path) -> Path:
    """The bundle of an ONNX file that repeats each pixel twice, for tiles of 64x64. Do not write to it."""
    from tiny_upscalers import onnx_upscaler

    def build(folder: Path) -> None:
        latentrt.build(onnx_upscaler(folder.with_name("twice.onnx")), folder, profiles=["64x64"])

    return filled_once(shared / "twice.bundle", build)


@pytest.fixture(scope="session")
def emoji_bundle(exports: None, shared: Path) -> Path:
    """The embedded model's bundle. Do not write to it."""
    return filled_once(shared / "emoji.bundle", lambda folder: latentrt.build(EMBEDDED, folder))


@pytest.fixture(scope="session", autouse=True)
def _first_bundle(request: pytest.FixtureRequest) -> None:
    """The second process of a whole run builds another bundle than the first, for which it would wait."""
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" and len(request.session.items) > 1000:
        request.getfixturevalue("emoji_bundle")


@pytest.fixture(scope="session")
def int8_prompts(shared: Path) -> Path:
    """A file of three prompts to calibrate with, and lines to skip."""

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "prompts.txt").write_text("a cat\n\n  red apple \nan astronaut riding a horse\n", "utf-8")

    return filled_once(shared / "int8-prompts", write) / "prompts.txt"


@pytest.fixture(scope="session")
def int8_bundle(emoji_bundle: Path, int8_prompts: Path, shared: Path) -> Path:
    """The embedded model in int8, made of its bundle with two steps, a call and three pictures. Do not write to it."""
    from latentrt.quantization.settings import Effort

    def build(folder: Path) -> None:
        source = shutil.copytree(emoji_bundle, folder / "fp32.bundle")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))
            made = folder / "made" / "int8.bundle"
            latentrt.build(source, made, precision="int8", prompts=int8_prompts, quality=24.0)

    return filled_once(shared / "int8", build) / "made" / "int8.bundle"


@pytest.fixture(scope="session")
def pruned_bundle(tiny_bundle: Path, shared: Path) -> Path:
    """The tiny model with all layers pruned that can be, judged by one picture of two steps. Do not write to it."""
    from latentrt.quantization.settings import Effort

    def build(folder: Path) -> None:
        source = shutil.copytree(tiny_bundle, folder / "whole.bundle")
        (folder / "prompts.txt").write_text("a cat\n", "utf-8")
        made = folder / "pruned.bundle"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentrt.sparsity.settings.EFFORT", Effort(steps=2, pictures=1, calls=1))
            # What each costs is measured in a test of its own
            patch.setattr("latentrt.sparsity.pruner.layer_scores", lambda *those: dict.fromkeys(those[2], 0.0))
            with pytest.warns(UserWarning, match="zeros among the weights make no call faster on ort-cpu"):
                latentrt.build(source, made, sparsity="2:4", prompts=folder / "prompts.txt", quality=0.5)

    return filled_once(shared / "pruned", build) / "pruned.bundle"


@pytest.fixture(scope="session")
def wide_bundle(exports: None, shared: Path) -> Path:
    """The embedded model's bundle with a second, wider profile. Do not write to it."""
    return filled_once(
        shared / "wide.bundle", lambda folder: latentrt.build(EMBEDDED, folder, profiles=["64x64", "96x64"])
    )


@pytest.fixture(scope="session")
def masked_checkpoint(family_checkpoint: Callable[[str], Path]) -> Path:
    """The tiny checkpoint with a U-Net of nine input channels."""
    return family_checkpoint("sd1-inpaint")


@pytest.fixture(scope="session")
def masked_bundle(masked_checkpoint: Path, shared: Path) -> Path:
    """Its bundle. Do not write to it."""

    def build(folder: Path) -> None:
        with no_preview_fitted():
            latentrt.build(masked_checkpoint, folder, profiles=["32x32", "48x32x2"])

    return filled_once(shared / "inpaint.bundle", build)


@pytest.fixture(scope="session")
def family_checkpoint(exports: None, shared: Path) -> Callable[[str], Path]:
    """The tiny checkpoint of a family, by its name. Do not write to it."""
    from checkpoints import save_tiny_checkpoint

    @cache
    def saved(family: str) -> Path:
        return filled_once(shared / family, lambda folder: save_tiny_checkpoint(folder, family))

    return saved


@pytest.fixture(scope="session")
def family_bundle(
    family_checkpoint: Callable[[str], Path],
    request: pytest.FixtureRequest,
    shared: Path,
) -> Callable[[str], Path]:
    """A family's tiny checkpoint, built when it is first asked for. Do not write to it.

    No preview is fitted but for those of SD 1.x, which all tests share: it takes as long as the rest.
    """
    fixtures = {"sd1": "tiny_bundle", "sd1-inpaint": "masked_bundle"}

    def build(folder: Path) -> None:
        with no_preview_fitted():
            latentrt.build(family_checkpoint(folder.stem), folder, profiles=["32x32x2"])

    @cache
    def built(family: str) -> Path:
        if family in fixtures:
            return Path(request.getfixturevalue(fixtures[family]))
        return filled_once(shared / f"{family}.bundle", build)

    return built


@pytest.fixture(scope="session")
def picture_checkpoint(exports: None, shared: Path) -> Callable[[str], Path]:
    """The tiny checkpoint of a family that is told of a picture, by its name. Do not write to it."""
    from picture_checkpoints import SAVED

    @cache
    def saved(family: str) -> Path:
        return filled_once(shared / family, SAVED[family])

    return saved


@pytest.fixture(scope="session")
def picture_bundle(picture_checkpoint: Callable[[str], Path], shared: Path) -> Callable[[str], Path]:
    """Its bundle, of 32×32 pixels and a size that is not square; videos of 4 frames and of 3. Do not write to it."""

    def build(folder: Path) -> None:
        profiles = ["32x32x4f", "48x32x3f"] if folder.stem == "svd" else ["32x32x2", "48x32"]
        with no_preview_fitted():
            latentrt.build(picture_checkpoint(folder.stem), folder, profiles=profiles)

    @cache
    def built(family: str) -> Path:
        return filled_once(shared / f"{family}.bundle", build)

    return built


@pytest.fixture(scope="session")
def picture_pipe(picture_bundle: Callable[[str], Path]) -> Iterator[Callable[[str], latentrt.Pipeline]]:
    """That bundle, opened."""
    opened: list[latentrt.Pipeline] = []

    @cache
    def pipe(family: str) -> latentrt.Pipeline:
        opened.append(latentrt.open(picture_bundle(family), threads=1))
        return opened[-1]

    yield pipe
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def tiny_svd_checkpoint(picture_checkpoint: Callable[[str], Path]) -> Path:
    """Stable Video Diffusion in small. Do not write to it."""
    return picture_checkpoint("svd")


@pytest.fixture(scope="session")
def tiny_svd_bundle(picture_bundle: Callable[[str], Path]) -> Path:
    """Its bundle. Do not write to it."""
    return picture_bundle("svd")


@pytest.fixture(scope="session")
def tiny_zero123_checkpoint(picture_checkpoint: Callable[[str], Path]) -> Path:
    """Zero123 in small. Do not write to it."""
    return picture_checkpoint("zero123")


@pytest.fixture(scope="session")
def tiny_zero123_bundle(picture_bundle: Callable[[str], Path]) -> Path:
    """Its bundle. Do not write to it."""
    return picture_bundle("zero123")


@pytest.fixture(scope="session")
def net_checkpoint(family_checkpoint: Callable[[str], Path], shared: Path) -> Callable[[str], Path]:
    """A tiny control net for the tiny checkpoint of a family, in diffusers' folder. Do not write to it."""
    from tiny_nets import save_control_net

    @cache
    def saved(family: str) -> Path:
        return filled_once(shared / f"{family}.net", lambda folder: save_control_net(folder, family_checkpoint(family)))

    return saved


@pytest.fixture(scope="session")
def net_bundle(
    net_checkpoint: Callable[[str], Path], family_bundle: Callable[[str], Path], shared: Path
) -> Callable[[str], Path]:
    """Its bundle, built for the family's. Do not write to it."""

    @cache
    def built(family: str) -> Path:
        return filled_once(
            shared / f"{family}-net.bundle",
            lambda folder: latentrt.build(net_checkpoint(family), folder, for_bundle=family_bundle(family)),
        )

    return built


@pytest.fixture(scope="session")
def tiny_net(net_bundle: Callable[[str], Path]) -> Path:
    """The bundle of a control net for the tiny bundle. Do not write to it."""
    return net_bundle("sd1")


@pytest.fixture(scope="session")
def image_encoder(exports: None, shared: Path) -> Path:
    """The folder of a tiny image encoder. Do not write to it."""
    from tiny_image_prompts import save_image_encoder

    return filled_once(shared / "image-encoder", save_image_encoder)


@pytest.fixture(scope="session")
def adapter_file(family_checkpoint: Callable[[str], Path], shared: Path) -> Callable[[str, str], Path]:
    """A tiny IP-Adapter of a kind for the checkpoint of a family. Do not write to it."""
    from tiny_image_prompts import save_adapter_for

    @cache
    def saved(family: str, kind: str) -> Path:
        checkpoint = EMOJI if family == "emoji" else family_checkpoint(family)
        suffix = "safetensors" if kind == "plus" else "bin"
        folder = filled_once(
            shared / f"{family}-{kind}-adapter",
            lambda folder: save_adapter_for(folder / f"{kind}.{suffix}", checkpoint, kind),
        )
        return folder / f"{kind}.{suffix}"

    return saved


@pytest.fixture(scope="session")
def adapter_bundle(
    adapter_file: Callable[[str, str], Path],
    image_encoder: Path,
    family_bundle: Callable[[str], Path],
    request: pytest.FixtureRequest,
    shared: Path,
) -> Callable[[str, str], Path]:
    """Its bundle, built for the family's. Do not write to it."""

    @cache
    def built(family: str, kind: str) -> Path:
        base = request.getfixturevalue("emoji_bundle") if family == "emoji" else family_bundle(family)
        return filled_once(
            shared / f"{family}-{kind}.bundle",
            lambda folder: latentrt.build(
                adapter_file(family, kind), folder, for_bundle=base, image_encoder=image_encoder
            ),
        )

    return built


@pytest.fixture(scope="session")
def family_pipe(family_bundle: Callable[[str], Path]) -> Iterator[Callable[[str], latentrt.Pipeline]]:
    """A family's bundle, opened; one thread is enough for models so small."""
    opened: list[latentrt.Pipeline] = []

    @cache
    def pipe(family: str) -> latentrt.Pipeline:
        opened.append(latentrt.open(family_bundle(family), threads=1))
        return opened[-1]

    yield pipe
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def tiny_pipe(tiny_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The tiny bundle, opened."""
    with latentrt.open(tiny_bundle) as pipe:
        yield pipe


@pytest.fixture(scope="session")
def emoji_pipe(emoji_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The embedded model's bundle, opened."""
    with latentrt.open(emoji_bundle) as pipe:
        yield pipe


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs ``latentrt ARGUMENTS…`` in this process."""
    from latentrt.cli.app import main

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        written = capfd.readouterr()
        code = exit.value.code
        return Ran(status=code if isinstance(code, int) else 1, stdout=written.out, stderr=written.err)

    return run
