"""Conducts quantization: draws to see what flows, chooses ranges and nodes, and judges the pictures."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import numpy as np

from latentrt.calibration import Drawn, Kept, UnetReplaced, check_prompts
from latentrt.engines.bundle import Bundle
from latentrt.engines.cache import OpenComponents
from latentrt.engines.component import Component
from latentrt.engines.errors import ParityError, RequestError
from latentrt.engines.manifest import QuantizationRecord, QuantizedNodeRecord
from latentrt.engines.ort_cpu import DATA_FILE, OrtCpuEngine, OrtCpuModel, compile_onnx
from latentrt.engines.ort_cpu import version as onnxruntime_version
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress
from latentrt.engines.quantization.insert import write_quantized
from latentrt.engines.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.quantization.observe import Observations, ObservingEngine
from latentrt.engines.quantization.ranges import InputChoice, choose_inputs, output_ranges
from latentrt.engines.quantization.recipe import Range, Recipe
from latentrt.engines.quantization.sensitivity import RecordedCall, sensitivities
from latentrt.engines.schedule_config import PredictionType
from latentrt.engines.spec import Array
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.schedule import alphas_cumprod_from_config

QUALITY = 30.0  # dB
UNET = "unet"
# Nodes in floating point: none first, then ever more
_KEPT = (0, 4, 8, 16, 32, 64, 128, 256, 512)
# Of the weights that may stay in floating point without a second thought, so that the file stays below 0.3 of fp32's,
# and at most: beyond that it would be int8 by name alone
_CHEAP, _MOST = 0.04, 0.5
_SAVE_EVERY = 20.0  # seconds
_LEAST_ALPHA = 2.0**-24  # of schedules that end without signal, as diffusers has it
EXACT = 99.0  # dB of equal pictures
_BELOW = 8.0  # dB that the worst picture may be below the quality asked for


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


class Quantizer:
    """One bundle's U-Net on its way to int8; what was drawn, scored and judged is kept in ``work``."""

    def __init__(self, base: Bundle, settings: QuantizationSettings, work: Path, progress: Progress) -> None:
        """Reads the graph.

        Args:
            base: a bundle with its U-Net in fp32 and engines for the CPU.
            settings: what is asked for.
            work: a folder for what shall survive the process.
            progress: receives the stages.

        Raises:
            RequestError: a base whose U-Net is not fp32, or prompts without tokens.
        """
        self._component = Component(root=base.root, manifest=base.manifest, name=UNET)
        record = self._component.record
        if record.precision is not Precision.FP32:
            raise RequestError(
                f"got a bundle whose U-Net is {record.precision}, expected fp32 to make int8 of; build from the model"
            )
        check_prompts(base, settings.drawn.prompts)
        self._base, self._settings, self._progress = base, settings, progress
        self._weights = OnnxWeights(self._component.onnx)
        self._nodes = self._weights.quantizable()
        self._spec = self._component.spec_of_any_batch(base.manifest.profiles[0])
        told = {
            "base": base.manifest.model_dump(mode="json", include={"files", "schedule", "defaults", "conditioning"}),
            "profile": str(base.manifest.profiles[0]),
            "drawn": settings.drawn.sha256,
            "effort": str(settings.effort),
            "made by": [2, np.__version__, _tool()],
        }
        self._kept = Kept(work / "calibration", told)

    def run(self, folder: Path, finish: Callable[[Path], None]) -> QuantizationRecord:
        """Writes the int8 graph into ``folder`` and says how good its pictures are.

        Args:
            folder: where ``model.onnx`` and its weights go.
            finish: what is done to every graph before it is judged.

        Raises:
            ParityError: the quality asked for is not reached with half of the weights in floating point.
        """
        with closing(OpenComponents(self._base, Backend.ORT_CPU, threads=None)) as components:
            observations = self._observe(components)
            inputs = self._choose(observations)
            outputs = output_ranges(self._nodes, observations, self._settings.recipe)
            scores = self._score(inputs, outputs, self._calls(observations))
            references = self._references(components)
            floating, judged = self._search(components, folder, finish, inputs, outputs, scores, references)
        return self._record(floating, judged, inputs, scores)

    def _observe(self, components: OpenComponents) -> Observations:
        """Draws every prompt with an engine that watches itself."""
        drawn, saved = self._settings.drawn, self._kept.load("observed")
        observations = Observations.from_arrays(saved) if saved is not None else Observations()
        done = int(saved["pictures"]) if saved is not None else 0
        calls = self._settings.effort.calls
        recorded = [round(part * drawn.steps / calls) for part in range(calls)]
        engine = ObservingEngine(self._weights, self._nodes, self._spec, observations, recorded)
        pipe = Pipeline(self._base, UnetReplaced(components, engine))

        def save() -> None:
            self._kept.save("observed", {**observations.arrays(), "pictures": np.array(done)})

        last, total = monotonic(), len(drawn.prompts)
        with self._progress.stage(f"{UNET}: calibrate"):
            try:
                for finished in drawn.calibrating(pipe, done):
                    done = finished
                    self._progress.phase(f"picture {done} of {total}", done, total)
                    if monotonic() - last > _SAVE_EVERY:
                        save()
                        last = monotonic()
                save()
            finally:
                engine.close()
        return observations

    def _calls(self, observations: Observations) -> list[RecordedCall]:
        """The calls that sensitivity is measured at, each with the part of the schedule that it stands for."""
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

    def _choose(self, observations: Observations) -> Mapping[str, InputChoice]:
        tensors = len({node.input for node in self._nodes})
        inputs = {}
        with self._progress.stage(f"{UNET}: ranges"):
            for name, choice in choose_inputs(self._weights, self._nodes, observations, self._settings.recipe):
                inputs[name] = choice
                self._progress.phase(f"tensor {len(inputs)} of {tensors}", len(inputs), tensors)
        return inputs

    def _score(
        self, inputs: Mapping[str, InputChoice], outputs: Mapping[str, Range], calls: Sequence[RecordedCall]
    ) -> dict[str, float]:
        """Every node's score by its path."""
        if not calls:
            return dict.fromkeys((node.path for node in self._nodes), 0.0)
        name = f"scores-{self._settings.recipe}"
        saved = self._kept.load(name) or {}
        scores = {path: float(score) for path, score in saved.items()}
        todo = [node for node in self._nodes if node.path not in scores]
        if not todo:
            return scores
        last = monotonic()
        with self._progress.stage(f"{UNET}: sensitivity"):
            measured = sensitivities(
                self._weights,
                todo,
                inputs,
                outputs,
                self._settings.recipe,
                calls,
                output=next(iter(self._spec.outputs)),
            )
            for node, score in measured:
                scores[node.path] = score
                self._progress.phase(f"node {len(scores)} of {len(self._nodes)}", len(scores), len(self._nodes))
                if monotonic() - last > _SAVE_EVERY:
                    self._kept.save(name, {path: np.array(value) for path, value in scores.items()})
                    last = monotonic()
        self._kept.save(name, {path: np.array(value) for path, value in scores.items()})
        return scores

    def _references(self, components: OpenComponents) -> Array:
        """The fp32 engine's pictures: (n, H, W, 3) float16."""
        saved, count = self._kept.load("references"), self._settings.pictures
        pictures = [] if saved is None else list(saved["pictures"])
        last = monotonic()
        with self._progress.stage(f"{UNET}: fp32 pictures"):
            pipe = Pipeline(self._base, components)
            for batch in self._settings.drawn.judging(pipe, len(pictures), count):
                pictures.extend(batch.astype(np.float16))
                self._progress.phase(f"picture {len(pictures)} of {count}", len(pictures), count)
                if monotonic() - last > _SAVE_EVERY:
                    self._kept.save("references", {"pictures": np.array(pictures)})
                    last = monotonic()
        self._kept.save("references", {"pictures": np.array(pictures)})
        return np.array(pictures)

    def _search(
        self,
        components: OpenComponents,
        folder: Path,
        finish: Callable[[Path], None],
        inputs: Mapping[str, InputChoice],
        outputs: Mapping[str, Range],
        scores: Mapping[str, float],
        references: Array,
    ) -> tuple[list[QuantizableNode], Judged]:
        """Leaves ever more of the worst nodes in floating point until the pictures are good enough."""
        order = worst_first(self._nodes, scores)
        total = sum(node.parameters for node in self._nodes)
        name = f"judged-{self._settings.recipe}"
        figures = self._kept.load(name) or {}
        reached: list[Judged] = []
        for count in _KEPT:
            floating = order[:count]
            if count > len(order) or sum(node.parameters for node in floating) > _MOST * total:
                break
            known = figures.get(str(count))
            judged = None if known is None else self._judged(known)
            if judged is None or judged.reaches(self._settings.quality):
                with self._progress.stage(f"{UNET}: int8 with {count} of {len(order)} nodes in floating point"):
                    left = {node.name for node in floating}
                    chosen = [node for node in self._nodes if node.name not in left]
                    write_quantized(self._weights, chosen, inputs, outputs, self._settings.recipe, folder)
                    finish(folder)
                    if judged is None:
                        figures[str(count)] = self._judge(components, folder / "model.onnx", references)
                        self._kept.save(name, figures)
                        judged = self._judged(figures[str(count)])
            if judged.reaches(self._settings.quality):
                return floating, judged
            reached.append(judged)
        best = max(reached, key=lambda one: one.mean)
        raise ParityError(
            f"int8 pictures reached a mean of {best.mean:.1f} dB (worst {best.worst:.1f} dB) against the fp32 engine, "
            f"expected {self._settings.quality:g} dB and no picture {_BELOW:g} dB below; ask for less with --quality, "
            "or build in fp16 or fp32"
        )

    def _judge(self, components: OpenComponents, onnx: Path, references: Array) -> Array:
        """Draws with a graph, compiled for this CPU: every picture's PSNR in dB against its reference."""
        with TemporaryDirectory(dir=onnx.parent, prefix=".engine-") as compiled:
            compile_onnx(onnx, Path(compiled), (onnx.parent / DATA_FILE).stat().st_size // 4)
            with OrtCpuEngine(OrtCpuModel.of_compiled(Path(compiled), threads=None), self._spec) as engine:
                pipe = Pipeline(self._base, UnetReplaced(components, engine))
                figures: list[float] = []
                for batch in self._settings.drawn.judging(pipe, 0, len(references)):
                    for picture in batch:
                        figures.append(picture_psnr(picture, references[len(figures)]))
                        self._progress.phase(f"picture {len(figures)}", len(figures), len(references))
        return np.array(figures)

    def _judged(self, figures: Array) -> Judged:
        worst = int(np.argmin(figures))
        return Judged(
            mean=float(np.mean(figures)),
            worst=float(figures[worst]),
            worst_prompt=self._settings.drawn.prompt_of(worst),
        )

    def _record(
        self,
        floating: Sequence[QuantizableNode],
        judged: Judged,
        inputs: Mapping[str, InputChoice],
        scores: Mapping[str, float],
    ) -> QuantizationRecord:
        left = {node.name for node in floating}
        settings = self._settings
        return QuantizationRecord(
            recipe=settings.recipe,
            tool=_tool(),
            quality=settings.quality,
            source_sha256=source_sha256(self._component),
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
                    score=scores[node.path],
                    error=inputs[node.input].error,
                    alpha=inputs[node.input].alpha,
                )
                for node in self._nodes
            },
        )


def _tool() -> str:
    """What places Q/DQ, and its version."""
    return f"onnxruntime {onnxruntime_version()}"


def source_sha256(component: Component) -> str:
    """A digest of a component's graph and weights."""
    return hashlib.sha256("".join(file.sha256 for file in component.onnx_files.values()).encode()).hexdigest()


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
