"""How good pictures in eight bits are: their PSNR against what the fp32 engines draw."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.engine import Engine
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.engine_overrides import EngineOverrides
from latentrt.quantization.psnr import picture_psnr
from latentrt.quantization.quantization import QuantizableComponent, Quantization
from latentrt.quantization.settings import QuantizationSettings
from latentrt.quantization.timing import paired_ratios
from latentrt.runtime.pictures.autoencoder import pixels_from_latents
from latentrt.runtime.pipeline import Pipeline

TOLERANCE = 8.0  # dB that the worst picture may be below the mean that is required
_SAVED_AS = "references"


class Drawn(Protocol):
    """Which pictures a calibration set gives."""

    @property
    def calibration(self) -> CalibrationSet:
        """The set."""
        ...

    @property
    def pictures(self) -> int:
        """How many pictures of it are judged."""
        ...


class Judged(Protocol):
    """What is judged by pictures: a bundle in fp32, which pictures it draws, and what was drawn before."""

    @property
    def base(self) -> Bundle:
        """The bundle."""
        ...

    @property
    def settings(self) -> Drawn:
        """The pictures."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Results of a build that was killed."""
        ...

    @property
    def progress(self) -> Progress:
        """Receives the stages."""
        ...


@dataclass(frozen=True, kw_only=True)
class PictureQuality:
    """The PSNR of rounded pictures against fp32 ones, in dB."""

    mean: float
    worst: float
    worst_prompt: str

    def reaches(self, required: float) -> bool:
        """Whether the mean is that good and no picture is far from it."""
        return self.mean >= required and self.worst >= required - TOLERANCE


def quality_from_psnrs(quantization: Judged, psnrs: Array) -> PictureQuality:
    """Sums up the PSNR of every judged picture."""
    worst = int(np.argmin(psnrs))
    return PictureQuality(
        mean=float(np.mean(psnrs)),
        worst=float(psnrs[worst]),
        worst_prompt=quantization.settings.calibration.prompt_of(worst),
    )


@dataclass(frozen=True, kw_only=True)
class References:
    """What the fp32 engines drew: pictures (n, H, W, 3) float16 in [0, 1], and their latents (n, C, h, w)."""

    pictures: Array
    latents: Array


def reference_pictures(quantization: Judged, engines: OpenComponents[Bundle]) -> References:
    """Draws the pictures that other precisions are judged by; goes on where a killed calibration stopped."""
    saved, count = quantization.checkpoints.load(_SAVED_AS), quantization.settings.pictures
    pictures, latents = ([], []) if saved is None else (list(saved["pictures"]), list(saved["latents"]))

    def arrays() -> dict[str, Array]:
        return {"pictures": np.array(pictures), "latents": np.array(latents)}

    with (
        quantization.progress.stage("fp32 pictures"),
        quantization.checkpoints.autosaved(_SAVED_AS, arrays) as save_if_due,
    ):
        pipe = Pipeline(quantization.base, engines)
        for result in quantization.settings.calibration.judging(pipe, len(pictures), count):
            pictures.extend(np.array(result.images).astype(np.float16))
            latents.extend(result.latents)
            quantization.progress.phase(f"picture {len(pictures)} of {count}", len(pictures), count)
            save_if_due()
    return References(pictures=np.array(pictures), latents=np.array(latents))


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Draws with engines in eight bits and compares with the references; ``engines`` are the fp32 ones."""

    quantization: Quantization
    engines: OpenComponents[Bundle]
    references: References

    def decoder_psnrs(self, decoder: Engine) -> Iterator[float]:
        """The PSNR in dB of every picture that a decoder makes of the references' latents."""
        manifest = self.quantization.base.manifest
        exact = self.engines.engine(VAE_DECODER, Shapes(profile=manifest.profiles[0]))
        for latents in self.references.latents:
            decoded, expected = (pixels_from_latents(one, manifest.latents, latents[None]) for one in (decoder, exact))
            yield picture_psnr(decoded, expected)

    def unet_psnrs(self, unet: Engine, *, overrides: Mapping[str, Engine]) -> Iterator[float]:
        """The PSNR in dB of every picture that is drawn with a U-Net and with the overrides of other components."""
        pipe = Pipeline(self.quantization.base, EngineOverrides(self.engines, {**overrides, UNET: unet}))
        results = self.quantization.settings.calibration.judging(pipe, 0, len(self.references.pictures))
        pictures = (np.asarray(picture) for result in results for picture in result.images)
        yield from map(picture_psnr, pictures, self.references.pictures)

    def ratios(self, part: QuantizableComponent, engine: Engine) -> Array:
        """The times of a component's calls, with guidance where it has it, over those of its fp32 engine: pairs."""
        base, pairs = self.quantization.base, self.quantization.settings.effort.pairs
        profile = base.manifest.profiles[0]
        rows = base.manifest.components[part.name].batch_per_picture
        inputs = next(probe.inputs for probe in base.probes(part.name) if probe.profile == profile)
        guided = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in inputs.items()}
        exact = self.engines.engine(part.name, Shapes(profile=profile, chunks=base.manifest.chunks(part.name, inputs)))

        def report(done: int) -> None:
            self.quantization.progress.phase(f"timed {done} of {pairs}", done, pairs)

        return paired_ratios(engine, exact, guided, pairs, report)


@contextmanager
def compiled_graph(part: QuantizableComponent, folder: Path, settings: QuantizationSettings) -> Iterator[Engine]:
    """The graph in a folder as an engine on this CPU, of the backend that judges; it lasts as long as the block."""
    compiler, component = COMPILERS[settings.judged_on], part.quantized(folder, settings.precision)
    (target,) = compiler.targets(())
    with TemporaryDirectory(dir=folder, prefix=".engine-") as compiled:
        compiler.compile(component, target, Path(compiled), None)
        with closing(compiler.open(component, Path(compiled), threads=None)) as model:
            engine = model.engine(Shapes(profile=component.manifest.profiles[0]))
            with closing(engine):
                yield engine
