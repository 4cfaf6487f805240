"""What the configs of a model decide is read; what nothing here draws with is refused by its name."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from parity.reference import SCHEDULERS, reference_steps, scheduler_for
from single_files import ldm_tensors, ldm_vae, save_tensors

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.schedule_config import SigmaSpacing
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.checks.library_settings import constructor_settings
from latentrt.export.sources.checks.scheduler_settings import _KINDS, SchedulerReading, scheduler_reading
from latentrt.export.sources.families import FAMILIES
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_model
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler

FAMILY = {family.name: family for family in FAMILIES}
SCHEDULER, INDEX, UNET, VAE = (
    "scheduler/scheduler_config.json",
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
)
STATISTICS = {"latents_mean": [-1.5, 1.0, -1.25, 2.5], "latents_std": [8.5, 6.0, 6.5, 5.25]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny folder of a family. Do not write to it."""
    root = tmp_path_factory.mktemp("settings")

    def folder(family: str) -> Path:
        return root / family if (root / family).exists() else save_tiny_checkpoint(root / family, family)

    return folder


def changed(file: Path, **settings: Any) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def reading(name: str, family: str = "sd1", **settings: Any) -> SchedulerReading:
    """What a scheduler's config with these settings decides."""
    return scheduler_reading({"_class_name": name, **settings}, FAMILY[family])


# Settings of the classes that move no picture of ours, with why
_STILL = {
    "clip_sample_range": "clipping is refused",
    "dynamic_thresholding_ratio": "thresholding is refused",
    "sample_max_value": "thresholding is refused",
    "flow_shift": "flow matching is refused",
    "time_shift_type": "dynamic shifting is refused",
    "clip_sample": "the pipelines of SD 1.x turn it off",
    "timestep_type": "concerns velocities",
    "sigma_min": "ends of a curve of σ, of which there is none",
    "sigma_max": "ends of a curve of σ, of which there is none",
    "timestep_scaling": "the class of TCD does not use it",
}
_OTHER: dict[str, Any] = {
    "beta_schedule": "squaredcos_cap_v2",
    "trained_betas": [0.1] * 1000,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "final_sigmas_type": "sigma_min",
    "interpolation_type": "log_linear",
    "timestep_type": "continuous",
    "sigma_schedule": "exponential",
    "solver_order": 3,
    "disable_corrector": [0],
    "lambda_min_clipped": -5.1,
    "num_train_timesteps": 500,
}


def other(key: str, default: Any, name: str) -> Any:
    """A value that is not the default."""
    if key == "solver_type":
        return "bh1" if name == "UniPCMultistepScheduler" else "heun"
    if key == "timestep_spacing" and default == "trailing":
        return "leading"
    if key in _OTHER:
        return _OTHER[key]
    if isinstance(default, bool):
        return not default
    return "another" if isinstance(default, str) else 0.25 if default is None else default + 1


@pytest.mark.parametrize("name", _KINDS)
def test_every_setting_of_a_scheduler_is_read_or_refused(name: str) -> None:
    """The constructor's parameters, as the library lists them; by themselves all draw."""
    import diffusers

    kind = getattr(diffusers, name)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and key != "self"
    }
    known = constructor_settings("diffusers", f"schedulers/scheduling_{_KINDS[name].file}.py", name)
    assert dict(known) == defaults
    plain = reading(name)
    assert not plain.faults
    assert plain.options == {}
    of_class = scheduler_reading({**kind().config, "_class_name": name}, FAMILY["sd1"])
    assert (of_class.sampler, of_class.faults) == (plain.sampler, ())
    for key, default in defaults.items():
        moved = reading(name, **{key: other(key, default, name)})
        if moved == plain or (moved.schedule, moved.sampler, moved.options, moved.faults) == (
            plain.schedule,
            plain.sampler,
            plain.options,
            plain.faults,
        ):
            aliased = name == "DEISMultistepScheduler" and key == "solver_type"  # whose class takes heun for its own
            assert key in _STILL or aliased, f"{name} has {key}, which nobody reads"
        elif moved.faults:
            assert key in moved.faults[0]
    if plain.sampler != FAMILY["sd1"].defaults.sampler:
        row = SAMPLERS[plain.sampler]
        for key in _KINDS[name].options:
            if key in row.options:
                ours = tuple(default) if isinstance(default := defaults[key], list) else default
                assert row.options[key] == ours


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_becomes_the_sampler_of_its_name(name: str) -> None:
    """As the class saves itself; PNDM, which nobody chose, becomes the family's default."""
    reference = scheduler_for(name, {"beta_schedule": "scaled_linear"})
    found = scheduler_reading({**reference.config, "_class_name": type(reference).__name__}, FAMILY["sd1"])
    assert found.sampler == (FAMILY["sd1"].defaults.sampler if name == "pndm" else name)
    assert (dict(found.options), found.faults) == ({}, ())
    assert (found.schedule.get("edm") is not None) == (name == "edm_euler")


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "its scheduler is 'FlowMatchEulerDiscreteScheduler'"),
        ("CMStochasticIterativeScheduler", {"sigma_data": 0.5}, "its scheduler is 'CMStochasticIterativeScheduler'"),
        ("SASolverScheduler", {}, "its scheduler is 'SASolverScheduler'"),
        (["my", "Scheduler"], {}, "its scheduler is ['my', 'Scheduler']"),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "has use_flow_sigmas True, expected False"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "has thresholding True, expected False"),
        ("DPMSolverMultistepScheduler", {"solver_order": 1}, "has solver_order 1, expected 2 or 3"),
        ("DPMSolverMultistepScheduler", {"solver_order": "2"}, "has solver_order '2'"),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}, "has variance_type 'learned_range'"),
        ("DDPMScheduler", {"variance_type": "fixed_large"}, "has variance_type 'fixed_large', expected None or"),
        ("UniPCMultistepScheduler", {"solver_p": {"a": 1}}, "has solver_p {'a': 1}, expected None"),
        ("DPMSolverSinglestepScheduler", {"solver_order": 3}, "has solver_order 3, expected 2"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_max": 30.0}, "has sigma_max 30.0, expected null"),
        ("LMSDiscreteScheduler", {"use_karras_sigmas": True, "sigma_min": 0.1}, "has sigma_min 0.1, expected null"),
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "use_karras_sigmas and use_beta_sigmas, expected one",
        ),
        (
            "EulerDiscreteScheduler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            "has timestep_type 'continuous', expected 'discrete'",
        ),
        ("EDMEulerScheduler", {"prediction_type": "sample"}, "has prediction_type 'sample', expected epsilon or"),
        (None, {"sigma_data": 0.5}, "has sigma_data 0.5 and no _class_name"),
    ],
)
def test_what_no_sampler_draws_with_is_refused(name: Any, settings: dict[str, Any], fault: str) -> None:
    """With the setting and its value."""
    faults = reading(name, **settings).faults
    assert len(faults) == 1
    assert fault in faults[0]


def test_clipping_is_turned_off_by_the_pipelines_of_sd1_alone() -> None:
    """SDXL's clip where the config, or the class for want of one, says so."""
    assert not reading("DDIMScheduler", clip_sample=True).faults
    assert not reading("DDIMScheduler", "sdxl", clip_sample=False).faults
    for settings in ({"clip_sample": True}, {}):
        (fault,) = reading("DDIMScheduler", "sdxl", **settings).faults
        assert "has clip_sample True, the default of DDIMScheduler, expected False" in fault


def test_a_missing_setting_is_the_classs(saved: Callable[[str], Path]) -> None:
    """Its noise schedule, where the file says none; what it does not know is passed over, as diffusers does."""
    assert reading("LCMScheduler").schedule["beta_schedule"] == "scaled_linear"
    assert reading("PNDMScheduler").schedule["set_alpha_to_one"] is False
    assert "timestep_spacing" not in reading("EulerDiscreteScheduler").schedule
    found = reading("EulerDiscreteScheduler", sigma_data=0.5, use_flow_sigmas=False, clip_sample_range=1.0)
    assert (dict(found.passed_over), found.faults) == ({"sigma_data": 0.5}, ())


@pytest.mark.parametrize(
    ("name", "settings", "sampler", "options"),
    [
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "euler", {"sigma_spacing": "exponential"}),
        ("HeunDiscreteScheduler", {"use_beta_sigmas": True}, "heun", {"sigma_spacing": "beta"}),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "euler", {"interpolation_type": "log_linear"}),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "dpmpp_2m", {"sigma_spacing": "lu"}),
        ("DPMSolverMultistepScheduler", {"euler_at_final": True}, "dpmpp_2m", {"euler_at_final": True}),
        (
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
            "dpmpp_3m_k",
            {"algorithm_type": "sde-dpmsolver++"},
        ),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver", "solver_type": "heun", "final_sigmas_type": "sigma_min"},
            "dpmpp_2m",
            {"algorithm_type": "dpmsolver", "solver_type": "heun"},
        ),
        ("DPMSolverMultistepScheduler", {"solver_type": "bh2"}, "dpmpp_2m", {}),
        ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "dpmpp_2s", {"lower_order_final": True}),
        (
            "UniPCMultistepScheduler",
            {"solver_order": 3, "disable_corrector": [0, 1]},
            "unipc",
            {"solver_order": 3, "disable_corrector": (0, 1)},
        ),
        ("DEISMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}, "deis_k", {"solver_order": 3}),
        ("LCMScheduler", {"original_inference_steps": 100}, "lcm", {"original_inference_steps": 100}),
        ("DDIMParallelScheduler", {}, "ddim", {}),
    ],
)
def test_a_schedulers_wishes_are_its_samplers(
    name: str, settings: dict[str, Any], sampler: str, options: dict[str, Any]
) -> None:
    """And draw as the class does with them: the same sample after every step."""
    import diffusers
    import numpy as np

    from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
    from latentrt.runtime.sampling.noise import Noise
    from latentrt.runtime.sampling.run import Run, denoise

    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **settings}
    found = reading(name, **settings)
    assert (found.sampler, dict(found.options), found.faults) == (sampler, options, ())
    chosen, config = Sampler(name=found.sampler, **found.options), ScheduleConfig.model_validate(dict(found.schedule))
    reference = getattr(diffusers, name)(**settings, **({"clip_sample": False} if "DDIM" in name else {}))
    reference.set_timesteps(6)
    schedule = chosen.schedule(config, 6)
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 5), np.float32) * np.float32(schedule.initial_scale)

    def model(x: Any, timestep: float) -> Any:
        return np.tanh(0.8 * x + np.float32(timestep / 1000.0)).astype(np.float32)

    expected = reference_steps(reference, chosen, x, 0, model, seed=3)[-1]
    run = Run(x, schedule, chosen.solver(config), Noise(3, x.shape).between)
    ours = denoise(run, lambda x, level: model(x, level.timestep))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_euler_on_continuous_timesteps_is_edm() -> None:
    """Told ln(σ)/4 and a velocity on a curve of its own, it is EDM's with data of unit variance: the same run."""
    import diffusers
    import numpy as np

    from latentrt.engines.bundle.records.schedule_config import ScheduleConfig

    settings: dict[str, Any] = {
        "timestep_type": "continuous",
        "prediction_type": "v_prediction",
        "sigma_min": 0.002,
        "sigma_max": 120.0,
        "use_karras_sigmas": True,
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
    found = reading("EulerDiscreteScheduler", "sdxl", **settings)
    assert (found.sampler, dict(found.options), found.faults) == ("euler", {}, ())
    config = ScheduleConfig.model_validate(dict(found.schedule))
    assert config.edm is not None
    assert (config.edm.sigma_max, config.edm.sigma_data) == (120.0, 1.0)
    reference = diffusers.EulerDiscreteScheduler(**settings)
    reference.set_timesteps(8)
    schedule = Sampler(name="euler").schedule(config, 8)
    np.testing.assert_allclose(schedule.sigmas, reference.sigmas[:-1].numpy(), rtol=1e-5)
    np.testing.assert_allclose(schedule.timesteps, reference.timesteps.numpy(), atol=1e-5)
    assert schedule.initial_scale == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)
    x, output = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 0.3)
    reference.scale_model_input(x, reference.timesteps[0])
    theirs = reference.step(output, reference.timesteps[0], x).pred_original_sample
    ours = schedule.steps[0].level.denoised(schedule.prediction_type, output.numpy(), x.numpy())
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def in_folder(saved: Callable[[str], Path], tmp_path: Path, family: str, file: str, **settings: Any) -> Path:
    """A family's folder with changed settings."""
    folder = shutil.copytree(saved(family), tmp_path / "model")
    changed(folder / file, **settings)
    return folder


REFUSED = [
    ("sd1", VAE, {"shift_factor": 0.1159}, r"vae/config.json has shift_factor 0\.1159, expected null"),
    ("sd1", VAE, STATISTICS, "has latents_mean .* expected null: diffusers' pipelines of this kind know none; .*_std"),
    ("sdxl", VAE, {"latents_mean": [0.0, 0.0, 0.0, 1.0]}, r"has latents_mean \[.*\] alone, expected latents_mean and"),
    ("sdxl", VAE, {**STATISTICS, "latents_std": [1.0] * 3}, r"has latents_std \[1.0, 1.0, 1.0\], expected 4 numbers"),
    ("sdxl", VAE, {**STATISTICS, "latents_std": [1, 1, 1, 0]}, r"has latents_std .* expected numbers above 0"),
    ("sdxl", VAE, {**STATISTICS, "latents_mean": "zero"}, "has latents_mean 'zero', expected 4 numbers"),
    ("sd1", VAE, {"scaling_factor": 0}, "has scaling_factor 0, expected a number above 0"),
    ("sd1", VAE, {"scaling_factor": "0.18215"}, "has scaling_factor '0.18215', expected a number"),
    ("sd1", UNET, {"class_embed_type": "timestep"}, "has class_embed_type 'timestep', expected None"),
    ("sd1", UNET, {"encoder_hid_dim": 4096}, "has encoder_hid_dim 4096"),
    ("sd1", UNET, {"attention_type": "gated"}, "has attention_type 'gated', expected 'default'"),
    ("sd1", UNET, {"_class_name": "UNetMotionModel"}, "the U-Net is a UNetMotionModel, expected UNet2DConditionModel"),
    ("sd1", "text_encoder/config.json", {"model_type": "t5"}, "text_encoder/config.json has model_type 't5', expected"),
    ("sdxl", "text_encoder_2/config.json", {"eos_token_id": 7}, r"has eos_token_id 7, expected \d+, the tokenizer's"),
    ("sd1", "tokenizer/tokenizer_config.json", {"model_max_length": 50}, "has model_max_length 50, expected 77"),
    ("sd1", "tokenizer/tokenizer_config.json", {"padding_side": "left"}, "has padding_side 'left', expected 'right'"),
    ("sd1", SCHEDULER, {"use_flow_sigmas": True}, None),
    ("sd1", SCHEDULER, {"use_flow_sigmas": True, "_class_name": "DPMSolverMultistepScheduler"}, "has use_flow_sigmas"),
    ("sd1", SCHEDULER, {"_class_name": "FlowMatchHeunDiscreteScheduler"}, "scheduler is 'FlowMatchHeunDiscrete"),
    ("sd1", SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "has the scheduler PNDMScheduler, but .* is of EDMEuler"),
    (
        "sdxl",
        INDEX,
        {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]},
        "its scheduler is 'FlowMatchEulerDiscreteScheduler', expected one of DDIMScheduler.*change these settings",
    ),
]


@pytest.mark.parametrize(("family", "file", "settings", "reason"), REFUSED)
def test_a_folders_settings(
    family: str,
    file: str,
    settings: dict[str, Any],
    reason: str | None,
    saved: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Are refused before anything is loaded, in one sentence; None where the class does not know the setting."""
    folder = in_folder(saved, tmp_path, family, file, **settings)
    if reason is None:
        found = checkpoint_from_model(str(folder))
        assert found.sampler == found.family.defaults.sampler
        assert "use_flow_sigmas True" in found.decisions["settings"].value
        return
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint_from_model(str(folder))
    assert "\n" not in str(caught.value)


def test_settings_that_are_off_pass(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """Neutral values, and keys that the library's classes do not know, which are named."""
    folder = shutil.copytree(saved("sd1"), tmp_path / "model")
    changed(folder / VAE, shift_factor=0.0, latents_mean=None, latents_std=None, new=False)
    changed(folder / UNET, attention_type="default", class_embed_type=None, decay=0.9999)
    found = checkpoint_from_model(str(folder))
    assert found.decisions["settings"].value == "without unet decay 0.9999"
    assert (found.latents.latents_mean, found.latents.shift_factor) == (None, 0.0)


def test_a_file_of_playgrounds(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """Its statistics are its autoencoder's, whichever that is; its noise levels are those of its folder on the hub."""
    tensors = ldm_tensors(saved("sdxl"))
    mean, deviation = torch.tensor([-1.6574, 1.886, -1.383, 2.5155]), torch.tensor([8.4927, 5.9022, 6.5498, 5.2299])
    marks = {"edm_mean": mean.view(1, 4, 1, 1), "edm_std": deviation.view(1, 4, 1, 1)}
    base = Choices(base=str(saved("sdxl")))
    path = save_tensors({**tensors, **marks}, tmp_path / "playground.safetensors")
    found = checkpoint_from_model(str(path), base)
    config = found.schedule()
    assert config.edm is not None
    assert (config.edm.sigma_min, config.edm.sigma_max, config.edm.sigma_data, config.edm.rho) == (0.002, 80, 0.5, 7)
    assert (config.prediction_type, config.edm.sigma_spacing) == ("epsilon", SigmaSpacing.KARRAS)
    assert (found.family.name, found.sampler) == ("sdxl", "dpmpp_2m")
    assert "edm_mean" in found.decisions["prediction type"].reason
    assert found.latents.scaling_factor == 0.5
    assert found.latents.latents_mean == (-1.6574, 1.886, -1.383, 2.5155)
    assert found.latents.latents_std == (8.4927, 5.9022, 6.5498, 5.2299)
    assert "settings" not in found.decisions
    without = {key: tensor for key, tensor in tensors.items() if not key.startswith("first_stage_model.")}
    path = save_tensors({**without, **marks}, tmp_path / "without.safetensors")
    assert checkpoint_from_model(str(path), base).latents.latents_std == found.latents.latents_std
    path = save_tensors({**tensors, **marks, "edm_std": torch.zeros(4)}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=r"has edm_std \[0\.0, .* expected a latents_std for each of 4 channels"):
        checkpoint_from_model(str(path), base)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_file_of_cosxls(shape: tuple[int, ...], saved: Callable[[str], Path], tmp_path: Path) -> None:
    """As ComfyUI writes it: velocities, σ as it says, data of unit variance."""
    marks = {"edm_vpred.sigma_max": torch.full(shape, 90.0), "edm_vpred.sigma_min": torch.full(shape, 0.004)}
    base = Choices(base=str(saved("sdxl")))
    path = save_tensors({**ldm_tensors(saved("sdxl")), **marks}, tmp_path / "cosxl.safetensors")
    found = checkpoint_from_model(str(path), base)
    config = found.schedule()
    assert config.edm is not None
    assert (config.edm.sigma_min, config.edm.sigma_max, config.edm.sigma_data) == (0.004, 90.0, 1.0)
    assert (config.prediction_type, config.edm.sigma_spacing) == ("v_prediction", SigmaSpacing.EXPONENTIAL)
    assert (found.family.name, found.sampler) == ("sdxl", "edm_euler")
    assert found.latents.latents_mean is None
    path = save_tensors({**ldm_tensors(saved("sdxl")), **marks, "edm_vpred.sigma_max": torch.tensor(torch.nan)}, path)
    with pytest.raises(CheckpointError, match=r"has edm_vpred.sigma_max \[nan\], expected one number above 0"):
        checkpoint_from_model(str(path), base)


def test_a_replaced_autoencoder_keeps_the_statistics(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """A file has none and takes the model's; a folder with others is refused."""
    folder = in_folder(saved, tmp_path, "sdxl", VAE, **STATISTICS)

    def opened(vae: Path) -> Checkpoint:
        return checkpoint_from_model(str(folder), Choices(vae=str(vae)))

    from safetensors.torch import load_file

    weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    file = save_tensors(ldm_vae(weights), tmp_path / "vae.safetensors")
    space: LatentSpace = opened(file).latents
    assert (list(space.latents_mean or ()), list(space.latents_std or ())) == tuple(STATISTICS.values())
    other = shutil.copytree(folder / "vae", tmp_path / "vae")
    changed(other / "config.json", latents_mean=[0.0] * 4)
    with pytest.raises(CheckpointError, match=r"latents_mean \[0\.0.* expected \[-1\.5.* for which the U-Net was"):
        opened(other)


def test_the_class_is_the_one_in_the_index(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """As diffusers takes it, where the scheduler's own file names another that draws, too."""
    folder = in_folder(saved, tmp_path, "sd1", INDEX, scheduler=["diffusers", "EulerAncestralDiscreteScheduler"])
    assert checkpoint_from_model(str(folder)).sampler == "euler_a"
