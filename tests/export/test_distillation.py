"""Models distilled to a few steps are known by names and metadata; a scheduler's habit is no proof."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_tiny_checkpoint
from single_files import ldm_tensors, save_single_file, save_tensors

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.distillation import Name, distillation_in
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_headers

NAMES = {
    "sdxl_lightning_4step_unet": "lightning",
    "lightning_4step": "lightning",
    "dreamshaperXL_v21LightningDPMSDE": "lightning",
    "realvisxlV40_v40LightningBakedvae": "lightning",
    "ByteDance/SDXL-Lightning": "lightning",
    "Hyper-SDXL-8steps": "hyper",
    "Hyper-SD15-4steps-lora-merged": "hyper",
    "ByteDance/Hyper-SD": "hyper",
    "juggernaut-xl-hyper": "hyper",
    "realvis_v5_hyper_8step": "hyper",
    "tianweiy/DMD2": "dmd2",
    "dmd2_sdxl_4step_unet_fp16": "dmd2",
    "bigLoveXL-DMD": "dmd2",
    "SimianLuo/LCM_Dreamshaper_v7": "lcm",
    "dreamshaper_8LCM": "lcm",
    "epicphotogasm-lcm": "lcm",
    "stabilityai/sdxl-turbo": "turbo",
    "sd_xl_turbo_1.0_fp16": "turbo",
    "sdxlturbo": "turbo",
    "DreamShaperXL_Turbo_v2": "turbo",
    "dreamshaperXLTurbo": "turbo",
    "/home/me/.cache/hub/models--stabilityai--sd-turbo/snapshots/b261bac6fd2cf515557d5d0707481eafa0485ec2": "turbo",
    "C:\\models\\sdxl-turbo\\unet": "turbo",
}
OTHERS = (
    "turbot",
    "turbocharged",
    "hyperrealism_v3",
    "HyperRealisticMix",
    "hyper-real-xl",
    "hyperdetail",
    "enlightning",
    "lightnings",
    "calcms",
    "/home/turbo/models/plain",
    "lightning/plain",
    "stable-diffusion-xl-base-1.0",
)


@pytest.mark.parametrize("text", NAMES)
def test_names(text: str) -> None:
    """As models are called on hubs and in folders."""
    found = distillation_in([Name("plain", "a"), Name(text, "b")])
    assert found is not None
    assert (found.distillation.name, found.name.origin) == (NAMES[text], "b")


@pytest.mark.parametrize("text", OTHERS)
def test_words_that_only_look_like_it(text: str) -> None:
    """And the names of people and of folders above."""
    assert distillation_in([Name(text, "a")]) is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's tiny folder, made once. Do not write to it."""
    root = tmp_path_factory.mktemp("distilled")

    def made(family: str) -> Path:
        folder = root / family / "plain"
        return folder if folder.exists() else save_tiny_checkpoint(folder, family)

    return made


def opened(path: Path, base: Path | None = None, **choices: Any) -> Checkpoint:
    """The checkpoint at a path."""
    return checkpoint_from_headers(str(path), Choices(base=None if base is None else str(base), **choices))


def drawn(checkpoint: Checkpoint) -> tuple[str, int, float, object]:
    """Sampler, steps, guidance and spacing."""
    defaults = checkpoint.family.defaults
    spacing = checkpoint.schedule().timestep_spacing
    return checkpoint.sampler, defaults.num_inference_steps, defaults.guidance_scale, spacing


# As their authors draw: model cards of SDXL-Lightning, Hyper-SD, DMD2, SDXL-Turbo; arXiv 2311.05556 for LCM
DEFAULTS: dict[str, tuple[str, str, tuple[str, int, float, object]]] = {
    "xl_lightning_4step": ("sdxl", "sdxl", ("euler", 4, 1.0, "trailing")),
    "xl-lightning": ("sdxl", "sdxl", ("euler", 4, 1.0, "trailing")),
    "Lightning_8Steps": ("sdxl", "sdxl", ("euler", 8, 1.0, "trailing")),
    "Hyper-SDXL-8steps": ("sdxl", "sdxl", ("ddim", 8, 1.0, "trailing")),
    "Hyper-SDXL-12steps-CFG": ("sdxl", "sdxl", ("ddim", 12, 5.0, "trailing")),
    "Hyper-SD15-2-steps": ("sd1", "sd1", ("ddim", 2, 1.0, "trailing")),
    "my_dmd2": ("sdxl", "sdxl", ("lcm", 4, 1.0, None)),
    "model-LCM": ("sd1", "sd1", ("lcm", 4, 1.0, None)),
    "sdxl-turbo": ("sdxl", "sdxl-turbo", ("euler_a", 1, 1.0, "trailing")),
    "xl_turbo_4step": ("sdxl", "sdxl-turbo", ("euler_a", 4, 1.0, "trailing")),
    "sd-turbo": ("sd2-inpaint", "sd2-inpaint", ("ddim", 30, 7.5, "leading")),
}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("form", ["file", "folder", "metadata"])
def test_defaults(form: str, name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    """The same from a file's name, a folder's, and what diffusers and modelspec keep; a line says so."""
    plain, family, expected = DEFAULTS[name]
    if form == "folder":
        found = opened(shutil.copytree(folders(plain), tmp_path / name))
    else:
        told = {"modelspec.title": name} if form == "metadata" else {}
        path = tmp_path / ("model.safetensors" if told else f"{name}.safetensors")
        found = opened(save_single_file(folders(plain), path, metadata=told), folders(plain))
    assert found.family.name == family
    if family == "sd2-inpaint":  # of which there is no such kind
        assert "distillation" not in found.decisions
        return
    assert drawn(found) == expected
    assert not found.guided or expected[2] > 1
    line = found.decisions["distillation"]
    assert f"{expected[1]} step" in line.value
    assert name in line.reason
    assert found.scheduler["beta_end"] == 0.012


def test_what_is_said(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Whether it is nothing but a name, and how its authors draw one step."""
    path = save_single_file(folders("sdxl"), tmp_path / "dmd2_1step.safetensors")
    line = opened(path, folders("sdxl")).decisions["distillation"]
    assert line.value == "dmd2: 1 step, without guidance by default"
    assert "nothing but the file's name, 'dmd2_1step'" in line.reason
    assert "timesteps=[399]" in line.reason
    x0 = save_single_file(folders("sdxl"), tmp_path / "sdxl_lightning_1step_x0.safetensors")
    assert opened(x0, folders("sdxl")).schedule().prediction_type == "sample"


def test_a_family_that_is_chosen_goes_before_names(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """The user knows better."""
    path = save_single_file(folders("sdxl"), tmp_path / "xl_lightning.safetensors")
    found = opened(path, folders("sdxl"), family="sdxl")
    assert drawn(found) == ("euler", 30, 5.0, "leading")
    assert "distillation" not in found.decisions


@pytest.mark.parametrize(("family", "turbo"), [("sdxl", "sdxl-turbo"), ("sd2", "sd-turbo")])
def test_trailing_timesteps_are_a_hint(family: str, turbo: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Which is said; the family stays. --family makes a turbo model of it."""
    folder = shutil.copytree(folders(family), tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    spaced = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **spaced}))
    found = opened(folder)
    assert found.family.name == family
    assert found.schedule().timestep_spacing == "trailing"
    assert found.family.defaults.num_inference_steps == 30
    assert found.guided
    assert found.decisions["distillation"].value == "none"
    assert f"--family {turbo} if it is" in found.decisions["distillation"].reason
    chosen = opened(folder, family=turbo)
    assert (chosen.family.name, chosen.guided) == (turbo, False)
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    assert "distillation" not in opened(folder).decisions


def test_a_teachers_scheduler_is_replaced(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Which merged and converted folders keep; one for few steps is kept, and all that concerns the training."""
    folder = shutil.copytree(folders("sdxl"), tmp_path / "xl-dmd2")
    path = folder / "scheduler" / "scheduler_config.json"
    config = {**json.loads(path.read_text()), "beta_end": 0.0125}
    path.write_text(json.dumps(config))
    found = opened(folder)
    assert found.sampler == "lcm"
    assert found.schedule().beta_end == 0.0125
    path.write_text(json.dumps({**config, "timestep_spacing": "trailing"}))
    assert drawn(opened(folder)) == ("euler", 4, 1.0, "trailing")


def test_a_u_net_and_its_base(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """A distilled U-Net beside its teacher; one without a name is of its base's kind, and that is said."""
    unet = {key: t for key, t in ldm_tensors(folders("sdxl")).items() if key.startswith("model.diffusion_model.")}
    path = save_tensors(unet, tmp_path / "sdxl_lightning_2step_unet.safetensors")
    assert drawn(opened(path, folders("sdxl"))) == ("euler", 2, 1.0, "trailing")
    nameless = save_tensors(unet, tmp_path / "tuned.safetensors")
    assert opened(nameless, folders("sdxl")).family.name == "sdxl"
    found = opened(nameless, folders("sdxl-turbo"))
    assert found.family.name == "sdxl-turbo"
    assert "the base: _name_or_path in model_index.json" in found.decisions["family"].reason
    own_folder = shutil.copytree(folders("sdxl") / "unet", tmp_path / "xl-lightning-4step" / "unet")
    assert drawn(opened(own_folder, folders("sdxl"))) == ("euler", 4, 1.0, "trailing")


def test_models_that_cannot_be_meant(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """LCM's own U-Nets keep their guidance, a turbo model predicts the noise, and the refiner refines."""
    for family, name in (("lcm-sd1", "my-lcm"), ("sdxl-refiner", "refiner-lightning")):
        found = opened(shutil.copytree(folders(family), tmp_path / name))
        plain = opened(folders(family))
        assert found.family is plain.family
        assert "distillation" not in found.decisions
    with pytest.raises(CheckpointError, match="expected one of"):
        opened(folders("sdxl"), family="sdxl-lightning")
    folder = shutil.copytree(folders("sd2"), tmp_path / "v-turbo")
    assert opened(folder).family.name == "sd2"
