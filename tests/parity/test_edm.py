"""Models that were trained on EDM's noise levels draw what diffusers draws: Playground v2.5 and CosXL, in small."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import EDM_SCHEDULERS, DiffusersReference, reference_steps, scheduler_for
from parity.test_families import assert_equal, mask, picture
from shared import filled_once
from single_files import ldm_tensors, save_tensors

import latentrt
from latentrt.engines.bundle.records.manifests.manifest import PreviewRecord
from latentrt.engines.bundle.records.schedule_config import EdmLevels, ScheduleConfig
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Run, Update, denoise
from latentrt.runtime.sampling.samplers import Sampler

LEVELS = {"sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 0.7, "rho": 6.0}
TOLERANCE = 2e-5  # float32 on their side against float64 on ours
PLAYGROUND = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "prediction_type": "epsilon",
}
STATISTICS = {
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    "scaling_factor": 0.5,
}
COSXL = {
    "sigma_min": 0.002,
    "sigma_max": 120.0,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
}


def changed(file: Path, **settings: Any) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.fixture(scope="module")
def playground(family_checkpoint: Callable[[str], Path], shared: Path) -> Path:
    """The tiny SDXL model with the settings of Playground v2.5. Do not write to it."""

    def fill(folder: Path) -> None:
        shutil.copytree(family_checkpoint("sdxl"), folder)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(PLAYGROUND))
        changed(folder / "model_index.json", scheduler=["diffusers", PLAYGROUND["_class_name"]])
        changed(folder / "vae" / "config.json", **STATISTICS)

    return filled_once(shared / "playground", fill)


def built(checkpoint: Path, bundle: Path, base: Path | None = None) -> Path:
    """A bundle without a preview."""
    from latentrt.export import components

    preview = PreviewRecord(matrix=((0.1, 0.1, 0.1),) * 4, bias=(0.5, 0.5, 0.5), psnr=0.0)

    def build(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(components, "fit_preview", lambda *_: preview)
            latentrt.build(checkpoint, folder, profiles=["32x32x2"], base=base)

    return filled_once(bundle, build)


@pytest.fixture(scope="module")
def pipe(playground: Path, shared: Path) -> Iterator[latentrt.Pipeline]:
    """Ours."""
    with latentrt.open(built(playground, shared / "playground.bundle"), threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def theirs(playground: Path) -> DiffusersReference:
    """Diffusers on the same checkpoint.

    Its inpainting encodes pictures without the statistics that it decodes with (0.42.1), which draws what is kept in
    other colours; its image-to-image does not, and so ours does not.
    """
    reference = DiffusersReference(playground)
    encode, config = reference.inpaint._encode_vae_image, reference.inpaint.vae.config
    mean, deviation = (torch.tensor(s).view(1, 4, 1, 1) for s in (config.latents_mean, config.latents_std))

    def encoded(image: Any, generator: Any) -> Any:
        return (encode(image, generator) / config.scaling_factor - mean) * config.scaling_factor / deviation

    reference.inpaint._encode_vae_image = encoded
    return reference


def model(x: Array, timestep: float) -> Array:
    """A stand-in for the U-Net."""
    return np.tanh(0.8 * x + np.float32(timestep)).astype(np.float32)


@pytest.mark.parametrize("name", EDM_SCHEDULERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("curve", ["karras", "exponential"])
def test_every_step_of_a_solver(name: str, prediction: str, curve: str) -> None:
    """The sample after each call of the model, from the start and from the middle, and what the model is told."""
    config = ScheduleConfig(prediction_type=prediction, edm=EdmLevels(**LEVELS, sigma_spacing=curve))  # type: ignore[arg-type]
    settings = {**LEVELS, "sigma_schedule": curve, "prediction_type": prediction}
    sampler = Sampler(name=name)
    for steps, start in ((2, 0), (5, 0), (20, 0), (20, 13)):
        reference = scheduler_for(sampler, settings)
        reference.set_timesteps(steps)
        schedule = sampler.schedule(config, steps).started_at(start)
        assert schedule.initial_scale == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)
        told = [step.level.timestep for step in schedule.all_steps]
        np.testing.assert_allclose(told, reference.timesteps.numpy(), rtol=0, atol=2e-6)
        x = np.random.default_rng(1).standard_normal((2, 4, 6, 5), np.float32) * np.float32(schedule.initial_scale)
        expected = reference_steps(reference, sampler, x, start, model, seed=3)
        seen: list[Array] = []

        def keep(update: Update, seen: list[Array] = seen) -> Array:
            seen.append(update.x)
            return update.x

        noise = Noise(3, x.shape)
        run = Run(x, schedule, sampler.solver(config), noise.between, on_step=keep)
        denoise(run, lambda x, level: model(x, level.timestep))
        for ours, other in zip(seen, expected, strict=True):
            scale = np.abs(other).max()
            np.testing.assert_allclose(ours / scale, other / scale, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_churn(prediction: str) -> None:
    """Is carried over to the noisier sample, whatever the network predicts."""
    config = ScheduleConfig(prediction_type=prediction, edm=EdmLevels(**LEVELS))  # type: ignore[arg-type]
    sampler = Sampler(name="edm_euler", s_churn=20.0, s_noise=1.003)
    reference = scheduler_for(sampler, {**LEVELS, "prediction_type": prediction})
    reference.set_timesteps(6)
    schedule = sampler.schedule(config, 6)
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 5), np.float32) * np.float32(schedule.initial_scale)
    expected = reference_steps(reference, sampler, x, 0, model, seed=3)[-1]
    run = Run(x, schedule, sampler.solver(config), Noise(3, x.shape).between)
    ours = denoise(run, lambda x, level: model(x, level.timestep))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def compare(pipe: latentrt.Pipeline, theirs: DiffusersReference, sampler: str | None = None, **wishes: Any) -> None:
    """Draws on both sides, with the bundle's own sampler or another."""
    told = {"prompt": "a red apple", "negative_prompt": "blurry", "guidance_scale": 3.0, **wishes}
    expected = theirs.draw(sampler=sampler or pipe.manifest.defaults.sampler, seeds=7, size=(32, 32), steps=4, **told)
    draw: Any = pipe if "image" not in told else pipe.img2img
    if "mask_image" in told:
        draw, told = pipe.inpaint, {**told, "kept_pixels": "decoded"}
    ours = draw(told.pop("prompt"), seed=7, num_inference_steps=4, output_type="np", sampler=sampler, **told)
    assert_equal(ours, expected, str(sampler))


@pytest.mark.slow
def test_playground(pipe: latentrt.Pipeline, theirs: DiffusersReference) -> None:
    """From text, from a picture and with a mask, as its folder says and with other samplers."""
    assert pipe.manifest.defaults.sampler == "dpmpp_2m"
    compare(pipe, theirs)
    for sampler in ("edm_euler", "euler", "dpmpp_2m_sde", "dpmpp_3m"):
        compare(pipe, theirs, sampler)
    compare(pipe, theirs, image=picture(), strength=0.6)
    latents = np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)
    result = pipe.img2img("a", image=latents, strength=0.0, output_type="latent")
    np.testing.assert_array_equal(result.latents, latents)
    for strength in (0.6, 1.0):
        compare(pipe, theirs, image=picture(), mask_image=mask(), strength=strength)


def test_the_bundle_says_so(
    playground: Path, pipe: latentrt.Pipeline, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`inspect` names the noise levels; a bundle whose settings would be read otherwise now is not up to date."""
    from latentrt.building.plan import BundlePlan
    from latentrt.cli.tables.description import print_description
    from latentrt.describing import describe
    from latentrt.export.sources.source import checkpoint_from_model

    print_description(describe(shared / "playground.bundle"))
    assert "epsilon, EDM: sigma 0.002 to 80, karras, sigma_data 0.5" in capsys.readouterr().out
    manifest = pipe.manifest
    plan = BundlePlan(
        checkpoint=checkpoint_from_model(str(playground)),
        versions=manifest.exporter,
        precision=manifest.precision,
        kept_fp32=(),
        profiles=manifest.profiles,
        seamless=manifest.seamless,
    )
    assert plan.made(manifest)
    plain = manifest.latents.model_copy(update={"latents_mean": None})
    for changes in ({"schedule": ScheduleConfig()}, {"latents": plain}):
        assert not plan.made(manifest.model_copy(update=changes))


def test_what_edm_has_no_timesteps_for(pipe: latentrt.Pipeline) -> None:
    """Samplers and keywords that count timesteps are refused; every other sampler draws."""
    for told, reason in (
        ({"sampler": "lcm"}, "sampler 'lcm' for a model with EDM's noise levels.*choose one of ddim"),
        ({"sampler": Sampler(name="ddim", timestep_spacing="trailing")}, "timestep_spacing 'trailing'.*leave it out"),
        ({"timesteps": [900, 500]}, "timesteps .*leave it out"),
        ({"denoising_end": 0.5}, "which has no timesteps; use strength"),
    ):
        with pytest.raises(latentrt.RequestError, match=reason):
            pipe("a", **told)
    drawn = pipe("a", sampler="heun", num_inference_steps=2, seed=1, output_type="latent")
    assert np.isfinite(drawn.latents).all()


@pytest.mark.slow
def test_cosxl(family_checkpoint: Callable[[str], Path], shared: Path, tmp_path: Path) -> None:
    """One file with ComfyUI's tensors, against the scheduler of CosXL's authors over the same parts."""
    folder = family_checkpoint("sdxl")
    marks = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor([0.002])}
    file = save_tensors({**ldm_tensors(folder), **marks}, tmp_path / "cosxl.safetensors")
    theirs = DiffusersReference(folder)
    theirs.config = dict(COSXL)
    with latentrt.open(built(file, shared / "cosxl.bundle", folder), threads=1) as pipe:
        assert pipe.manifest.defaults.sampler == "edm_euler"
        compare(pipe, theirs)
        compare(pipe, theirs, "dpmpp_2m")
        compare(pipe, theirs, image=picture(), strength=0.6)
        compare(pipe, theirs, image=picture(), mask_image=mask(), strength=0.6)
