"""Conducts quantization: draws to see what flows, chooses ranges and nodes, and judges the pictures."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import numpy as np

from latentrt.engines.backends.ort_cpu.compile import compile_onnx
from latentrt.engines.backends.ort_cpu.model import DATA_FILE, OrtCpuEngine, OrtCpuModel, group_norm_of
from latentrt.engines.backends.ort_cpu.model import version as onnxruntime_version
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.component_record import QuantizationRecord, QuantizedNodeRecord
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.bundle.noise_schedule import alphas_cumprod_from_config
from latentrt.engines.bundle.schedule_config import PredictionType
from latentrt.engines.engine import Engine
from latentrt.engines.errors import ParityError, RequestError
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.observe import Observations, ObservingEngine
from latentrt.engines.graphs.quantization.ranges import InputChoice, choose_inputs, output_ranges
from latentrt.engines.graphs.quantization.recipe import Range, Recipe
from latentrt.engines.graphs.quantization.sensitivity import RecordedCall, sensitivities
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, EngineSpec
from latentrt.engines.store.components import OpenComponents
from latentrt.int8.calibration import Drawn, Kept, Replaced, check_prompts
from latentrt.runtime.pictures.autoencoder import pixels_from_latents
from latentrt.runtime.pipeline import Pipeline

QUALITY = 30.0  # dB
# Nodes in floating point: none first, then ever more
_KEPT = (0, 4, 8, 16, 32, 64, 128, 256, 512)
# Of the weights that may stay in floating point without a second thought, so that the file stays below 0.3 of fp32's,
# and at most: beyond that it would be int8 by name alone
_CHEAP, _MOST = 0.04, 0.5
_SAVE_EVERY = 20.0  # seconds
_LEAST_ALPHA = 2.0**-24  # of schedules that end without signal, as diffusers has it
EXACT = 99.0  # dB of equal pictures
_BELOW = 8.0  # dB that the worst picture may be below the quality asked for
_ABOVE = 10.0  # dB: of the error that pictures may have, the decoder may make a tenth


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is drawn.

    ``steps`` at most per picture: a longer schedule visits the same noise levels, only closer together. ``pictures``
    that judge, at least. ``calls`` that sensitivity is measured at; with none all nodes score 0.
    """

    steps: int = 20
    pictures: int = 32
    calls: int = 4


EFFORT = Effort()


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """What is asked of a quantization.

    ``quality`` is the mean PSNR in dB that int8 pictures shall have against those of the fp32 engine; the worst may be
    8 dB below.
    """

    recipe: Recipe
    drawn: Drawn
    effort: Effort
    quality: float = QUALITY

    def made(self, record: QuantizationRecord | None) -> bool:
        """Whether a component became int8 by these settings."""
        return record is not None and (record.recipe, record.prompts_sha256, record.quality, record.tool) == (
            self.recipe,
            self.drawn.sha256,
            self.quality,
            _tool(),
        )

    @property
    def pictures(self) -> int:
        """How many pictures judge."""
        return max(self.effort.pictures, len(self.drawn.prompts))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The PSNR of int8 pictures against fp32 ones, in dB."""

    mean: float
    worst: float
    worst_prompt: str

    def reaches(self, quality: float) -> bool:
        """Whether the mean is so good and no picture is far from it."""
        return self.mean >= quality and self.worst >= quality - _BELOW


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A component that shall become int8: its graph in fp32."""

    component: Component
    weights: OnnxWeights
    nodes: tuple[QuantizableNode, ...]
    spec: EngineSpec

    @property
    def name(self) -> str:
        return self.component.name

    def sized(self, nodes: Sequence[QuantizableNode]) -> float:
        """The share of the weights that some nodes have."""
        return sum(node.parameters for node in nodes) / sum(node.parameters for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """How a part's tensors are rounded, by name, and what each node's rounding costs, by path."""

    inputs: Mapping[str, InputChoice]
    outputs: Mapping[str, Range]
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class _References:
    """What the fp32 engines drew: pictures (n, H, W, 3) float16, and their latents (n, C, h, w)."""

    pictures: Array
    latents: Array


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The nodes that stay in floating point, and how good the pictures are; None and the best if they never are."""

    floating: list[QuantizableNode] | None
    judged: Judged
    quality: float

    @property
    def told(self) -> str:
        """What was reached, and what was asked for."""
        return (
            f"reached a mean of {self.judged.mean:.1f} dB (worst {self.judged.worst:.1f} dB) against the fp32 engine, "
            f"expected {self.quality:g} dB and no picture {_BELOW:g} dB below"
        )


class Quantizer:
    """One bundle's U-Net, and decoder, on their way to int8; what was drawn, scored and judged is kept in ``work``."""

    def __init__(
        self, base: Bundle, settings: QuantizationSettings, kept: Sequence[str], work: Path, progress: Progress
    ) -> None:
        """Reads the graphs.

        Args:
            base: a bundle with its U-Net in fp32 and engines for the CPU.
            settings: what is asked for.
            kept: components that shall stay as they are.
            work: a folder for what shall survive the process.
            progress: receives the stages.

        Raises:
            RequestError: a base whose U-Net is not fp32, or prompts without tokens.
        """
        precision = base.manifest.components[UNET].precision
        if precision is not Precision.FP32:
            raise RequestError(
                f"got a bundle whose U-Net is {precision}, expected fp32 to make int8 of; build from the model"
            )
        check_prompts(base, settings.drawn.prompts)
        self._base, self._settings, self._progress = base, settings, progress
        self._unet, self._decoder = self._part(UNET), None
        wide = base.manifest.components[VAE_DECODER].precision is Precision.FP32
        if VAE_DECODER in settings.recipe.components and VAE_DECODER not in kept and wide:
            self._decoder = self._part(VAE_DECODER)
        self._parts = [part for part in (self._unet, self._decoder) if part is not None]
        told = {
            "base": base.manifest.model_dump(mode="json", include={"files", "schedule", "defaults", "conditioning"}),
            "profile": str(base.manifest.profiles[0]),
            "drawn": settings.drawn.sha256,
            "effort": str(settings.effort),
            "parts": [part.name for part in self._parts],
            "made by": [3, np.__version__, _tool()],
        }
        self._kept = Kept(work / "calibration", told)

    def run(self, root: Path, finish: Callable[[Path], None]) -> dict[str, QuantizationRecord]:
        """Writes int8 graphs and says, by component, how good they are.

        A decoder that is not good enough stays as it is, with a warning: pictures are drawn without it, too.

        Args:
            root: every component has a folder in it, for ``model.onnx`` and its weights.
            finish: what is done to every graph before it is judged.

        Raises:
            ParityError: the quality asked for is not reached with half of the U-Net's weights in floating point.
        """
        quality, records = self._settings.quality, {}
        with ExitStack() as opened:
            components = opened.enter_context(closing(OpenComponents(self._base, Backend.ORT_CPU, threads=None)))
            seen = self._observe(components)
            choices = {part.name: self._choices(part, seen[part.name]) for part in self._parts}
            references = self._references(components)
            replaced: dict[str, Engine] = {}  # what the U-Net's pictures are drawn with
            kept = f"judged-{UNET}-{self._settings.recipe}"
            if self._decoder is not None:
                part, folder = self._decoder, root / VAE_DECODER
                judge = partial(self._decoded, components, references)
                name = f"judged-{VAE_DECODER}-{self._settings.recipe}"
                found = self._search(part, choices[VAE_DECODER], folder, finish, judge, quality + _ABOVE, name)
                if found.floating is None:
                    warnings.warn(f"{VAE_DECODER} stays in fp32, since its int8 pictures {found.told}", stacklevel=2)
                    shutil.rmtree(folder)
                else:
                    records[VAE_DECODER] = self._record(part, choices[VAE_DECODER], found)
                    replaced[VAE_DECODER] = opened.enter_context(self._engine(part, folder))
                    kept += f"-{len(found.floating)}"
            judge = partial(self._drawn, components, references, replaced)
            found = self._search(self._unet, choices[UNET], root / UNET, finish, judge, quality, kept)
            if found.floating is None:
                raise ParityError(f"int8 pictures {found.told}; ask for less with --quality, or build in fp16 or fp32")
            records[UNET] = self._record(self._unet, choices[UNET], found)
        return records

    def _part(self, name: str) -> _Part:
        component = Component(root=self._base.root, manifest=self._base.manifest, name=name)
        weights = OnnxWeights(component.onnx)
        return _Part(
            component=component,
            weights=weights,
            nodes=weights.quantizable(),
            spec=component.spec_of_any_batch(Shapes(profile=self._base.manifest.profiles[0])),
        )

    def _observe(self, components: OpenComponents) -> dict[str, Observations]:
        """Draws every prompt with engines that watch themselves."""
        drawn, saved = self._settings.drawn, self._kept.load("observed")
        done = int(saved["pictures"]) if saved is not None else 0
        observations = {
            part.name: Observations() if saved is None else Observations.from_arrays(_of(part.name, saved))
            for part in self._parts
        }
        decoded = VAE_DECODER in observations
        last, total = monotonic(), len(drawn.prompts)

        def save() -> None:
            arrays = {
                f"{name}:{key}": array for name, seen in observations.items() for key, array in seen.arrays().items()
            }
            self._kept.save("observed", {**arrays, "pictures": np.array(done)})

        with self._progress.stage("int8: calibrate"), ExitStack() as opened:
            engines = {
                part.name: opened.enter_context(
                    ObservingEngine(
                        part.weights, part.nodes, part.spec, observations[part.name], self._recorded(part.name)
                    )
                )
                for part in self._parts
            }
            for finished in drawn.calibrating(
                Pipeline(self._base, Replaced(components, engines)), done, decoded=decoded
            ):
                done = finished
                self._progress.phase(f"picture {done} of {total}", done, total)
                if monotonic() - last > _SAVE_EVERY:
                    save()
                    last = monotonic()
            save()
        return observations

    def _recorded(self, name: str) -> list[int]:
        """The runs that sensitivity is measured at: all over the first picture's schedule, or over the pictures."""
        drawn, calls = self._settings.drawn, self._settings.effort.calls
        runs = drawn.steps if name == UNET else -(-len(drawn.prompts) // self._base.manifest.profiles[0].batch)
        return sorted({part * runs // calls for part in range(calls)})

    def _calls(self, name: str, observations: Observations) -> list[RecordedCall]:
        """The calls that sensitivity is measured at.

        Each weighs as the part of the schedule that it stands for does; of a decoder, all the same.
        """
        if name != UNET:
            count = len(observations.calls)
            return [RecordedCall(inputs=call, weight=count**-0.5) for call in observations.calls]
        schedule = self._base.manifest.schedule
        bars = alphas_cumprod_from_config(schedule)
        calls = sorted(observations.calls, key=lambda call: -float(call["timestep"][0]))
        last = len(bars) - 1
        indices = [min(max(round(float(call["timestep"][0])), 0), last) for call in calls]
        alphas = [max(float(bars[index]), _LEAST_ALPHA) for index in indices]
        ratios = [*(((1.0 - bar) / bar) ** 0.5 for bar in alphas), 0.0]
        velocity = schedule.prediction_type is PredictionType.V_PREDICTION
        return [
            RecordedCall(inputs=call, weight=(ratios[i] - ratios[i + 1]) * (alphas[i] ** 0.5 if velocity else 1.0))
            for i, call in enumerate(calls)
        ]

    def _choices(self, part: _Part, observations: Observations) -> _Choices:
        tensors = len({node.input for node in part.nodes})
        inputs = {}
        with self._progress.stage(f"{part.name}: ranges"):
            for name, choice in choose_inputs(part.weights, part.nodes, observations, self._settings.recipe):
                inputs[name] = choice
                self._progress.phase(f"tensor {len(inputs)} of {tensors}", len(inputs), tensors)
        outputs = output_ranges(part.nodes, observations, self._settings.recipe)
        scores = self._score(part, inputs, outputs, self._calls(part.name, observations))
        return _Choices(inputs=inputs, outputs=outputs, scores=scores)

    def _score(
        self,
        part: _Part,
        inputs: Mapping[str, InputChoice],
        outputs: Mapping[str, Range],
        calls: Sequence[RecordedCall],
    ) -> dict[str, float]:
        """Every node's score by its path."""
        if not calls:
            return dict.fromkeys((node.path for node in part.nodes), 0.0)
        name = f"scores-{part.name}-{self._settings.recipe}"
        saved = self._kept.load(name) or {}
        scores = {path: float(score) for path, score in saved.items()}
        todo = [node for node in part.nodes if node.path not in scores]
        if not todo:
            return scores
        last = monotonic()
        with self._progress.stage(f"{part.name}: sensitivity"):
            measured = sensitivities(
                part.weights, todo, inputs, outputs, self._settings.recipe, calls, output=next(iter(part.spec.outputs))
            )
            for node, score in measured:
                scores[node.path] = score
                self._progress.phase(f"node {len(scores)} of {len(part.nodes)}", len(scores), len(part.nodes))
                if monotonic() - last > _SAVE_EVERY:
                    self._kept.save(name, {path: np.array(value) for path, value in scores.items()})
                    last = monotonic()
        self._kept.save(name, {path: np.array(value) for path, value in scores.items()})
        return scores

    def _references(self, components: OpenComponents) -> _References:
        """What the fp32 engines make of the prompts."""
        saved, count = self._kept.load("references"), self._settings.pictures
        pictures, latents = ([], []) if saved is None else (list(saved["pictures"]), list(saved["latents"]))
        last = monotonic()

        def save() -> None:
            self._kept.save("references", {"pictures": np.array(pictures), "latents": np.array(latents)})

        with self._progress.stage("int8: fp32 pictures"):
            pipe = Pipeline(self._base, components)
            for drawn in self._settings.drawn.judging(pipe, len(pictures), count):
                pictures.extend(np.array(drawn.images).astype(np.float16))
                latents.extend(drawn.latents)
                self._progress.phase(f"picture {len(pictures)} of {count}", len(pictures), count)
                if monotonic() - last > _SAVE_EVERY:
                    save()
                    last = monotonic()
        save()
        return _References(pictures=np.array(pictures), latents=np.array(latents))

    def _search(
        self,
        part: _Part,
        choices: _Choices,
        folder: Path,
        finish: Callable[[Path], None],
        judge: Callable[[Engine], Iterator[float]],
        quality: float,
        kept: str,
    ) -> _Found:
        """Leaves ever more of the worst nodes in floating point until the pictures are good enough.

        What is found is in ``folder``; figures are kept under the name ``kept``.
        """
        order = worst_first(part.nodes, choices.scores)
        figures = self._kept.load(kept) or {}
        reached: list[Judged] = []
        for count in _KEPT:
            floating = order[:count]
            if count > len(order) or part.sized(floating) > _MOST:
                break
            known = figures.get(str(count))
            judged = None if known is None else self._judged(known)
            if judged is None or judged.reaches(quality):
                with self._progress.stage(f"{part.name}: int8 with {count} of {len(order)} nodes in floating point"):
                    left = {node.name for node in floating}
                    chosen = [node for node in part.nodes if node.name not in left]
                    write_quantized(
                        part.weights, chosen, choices.inputs, choices.outputs, self._settings.recipe, folder
                    )
                    finish(folder)
                    if judged is None:
                        figures[str(count)] = self._figures(part, folder, judge)
                        self._kept.save(kept, figures)
                        judged = self._judged(figures[str(count)])
            if judged.reaches(quality):
                return _Found(floating=floating, judged=judged, quality=quality)
            reached.append(judged)
        return _Found(floating=None, judged=max(reached, key=lambda one: one.mean), quality=quality)

    def _figures(self, part: _Part, folder: Path, judge: Callable[[Engine], Iterator[float]]) -> Array:
        """Every picture's PSNR in dB with a graph."""
        figures: list[float] = []
        with self._engine(part, folder) as engine:
            for figure in judge(engine):
                figures.append(figure)
                self._progress.phase(f"picture {len(figures)}", len(figures), self._settings.pictures)
        return np.array(figures)

    @contextmanager
    def _engine(self, part: _Part, folder: Path) -> Iterator[Engine]:
        """A graph, compiled for this CPU while it lasts."""
        with TemporaryDirectory(dir=folder, prefix=".engine-") as compiled:
            parameters = (folder / DATA_FILE).stat().st_size // 4
            compile_onnx(folder / "model.onnx", Path(compiled), parameters, group_norm=group_norm_of(part.component))
            with OrtCpuEngine(OrtCpuModel.of_compiled(Path(compiled), threads=None), part.spec) as engine:
                yield engine

    def _decoded(self, components: OpenComponents, references: _References, engine: Engine) -> Iterator[float]:
        """The PSNR of every picture that a decoder makes of the same latents."""
        scale, exact = (
            self._base.manifest.latents,
            components.engine(VAE_DECODER, Shapes(profile=self._base.manifest.profiles[0])),
        )
        for latents in references.latents:
            yield picture_psnr(*(pixels_from_latents(decoder, scale, latents[None]) for decoder in (engine, exact)))

    def _drawn(
        self, components: OpenComponents, references: _References, replaced: Mapping[str, Engine], engine: Engine
    ) -> Iterator[float]:
        """The PSNR of every picture that is drawn with a U-Net and what else is replaced."""
        pipe = Pipeline(self._base, Replaced(components, {**replaced, UNET: engine}))
        drawn = self._settings.drawn.judging(pipe, 0, len(references.pictures))
        pictures = (np.asarray(picture) for result in drawn for picture in result.images)
        yield from map(picture_psnr, pictures, references.pictures)

    def _judged(self, figures: Array) -> Judged:
        worst = int(np.argmin(figures))
        return Judged(
            mean=float(np.mean(figures)),
            worst=float(figures[worst]),
            worst_prompt=self._settings.drawn.prompt_of(worst),
        )

    def _record(self, part: _Part, choices: _Choices, found: _Found) -> QuantizationRecord:
        left = {node.name for node in found.floating or ()}
        settings, judged = self._settings, found.judged
        return QuantizationRecord(
            recipe=settings.recipe,
            tool=_tool(),
            quality=found.quality,
            source_sha256=part.component.onnx_sha256,
            prompts_sha256=settings.drawn.sha256,
            prompts=len(settings.drawn.prompts),
            steps=settings.drawn.steps,
            pictures=settings.pictures,
            psnr_mean=judged.mean,
            psnr_worst=judged.worst,
            worst_prompt=judged.worst_prompt,
            nodes={
                node.path: QuantizedNodeRecord(
                    int8=node.name not in left,
                    score=choices.scores[node.path],
                    error=choices.inputs[node.input].error,
                    alpha=choices.inputs[node.input].alpha,
                )
                for node in part.nodes
            },
        )


def _of(component: str, saved: Mapping[str, Array]) -> dict[str, Array]:
    """What was saved of one component."""
    prefix = f"{component}:"
    return {key.removeprefix(prefix): array for key, array in saved.items() if key.startswith(prefix)}


def _tool() -> str:
    """What places Q/DQ, and its version."""
    return f"onnxruntime {onnxruntime_version()}"


def worst_first(nodes: Sequence[QuantizableNode], scores: Mapping[str, float]) -> list[QuantizableNode]:
    """Nodes by how much their rounding costs the picture; those too large for the file's size come last."""
    order = sorted(nodes, key=lambda node: -scores[node.path])
    room = _CHEAP * sum(node.parameters for node in nodes)
    cheap, dear = [], []
    for node in order:
        if node.parameters <= room:
            cheap.append(node)
            room -= node.parameters
        else:
            dear.append(node)
    return [*cheap, *dear]


def picture_psnr(picture: Array, reference: Array) -> float:
    """PSNR in dB of pictures in [0, 1]; 99 for equal ones."""
    error = float(np.mean(np.square(picture.astype(np.float64) - reference)))
    return min(-10.0 * float(np.log10(error)), EXACT) if error else EXACT
