"""The bundles that a build for speed compares: each made by the build that its precision has anyway."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.building.compiling import EnginesToMake, compile_missing, engines_to_make
from latentrt.building.conversions.source import check_unchanged
from latentrt.building.from_bundle import build_from_bundle
from latentrt.building.from_model import build_from_model
from latentrt.building.plan import plan_from_request
from latentrt.building.request import BuildRequest
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.digests import FileDigests, json_digest
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import staged_directory
from latentrt.engines.precision import EIGHT_BITS, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.store.speed import SPEED_FILE
from latentrt.export.sources.partial_model import Choices
from latentrt.fastest.candidates import EXACT, Candidate
from latentrt.fastest.pictures import Contender
from latentrt.fastest.settings import SpeedRequest
from latentrt.quantization.settings import QuantizationRequest


def digest_of_source(request: BuildRequest) -> str:
    """Of the model and what is asked of it: equal ones lead to equal bundles.

    Raises:
        CheckpointError: the model cannot be built, or a package of the exporter is missing.
        RequestError: profiles or options that the model, or a bundle, does not have.
    """
    if request.starts_from_bundle:
        _check_bundle(open_bundle(request.model), request)
        files = FileDigests()
        return json_digest([files.of(request.model), *([str(lora), files.of(lora.path)] for lora in request.loras)])
    plan = plan_from_request(request)
    return json_digest(
        [
            dict(plan.versions),
            [str(profile) for profile in plan.profiles],
            plan.seamless,
            [lora.model_dump() for lora in plan.loras],
            {name: decision.value for name, decision in plan.checkpoint.decisions.items()},
            {name: file.sha256 for name, file in plan.checkpoint.files.items()},
        ]
    )


def _check_bundle(bundle: Bundle, request: BuildRequest) -> None:
    """Refuses a bundle that other precisions cannot be made of, and what only a build from the model can change.

    Raises:
        RequestError: naming what to do.
    """
    if bundle.manifest.precision is not Precision.FP32:
        raise RequestError(
            f"got fastest for a bundle in {bundle.manifest.precision}, expected one in fp32, as the others are made of "
            "it; build from the model or from its bundle in fp32"
        )
    if request.profiles or request.seamless is not Seamless.NONE:
        raise RequestError("got profiles or seamless for a bundle, which keeps its own; build from the model with them")
    if request.choices != Choices():
        raise RequestError(
            "got a bundle and options about a model, expected none of variant, base, vae, ema, family and prediction "
            "type; build from the model with them"
        )


@dataclass(frozen=True, kw_only=True)
class Contenders:
    """Makes contenders in a folder; those that a killed build made are taken again."""

    request: BuildRequest
    speed: SpeedRequest
    work: Path
    timer: StageTimer

    def exact(self, decided: Callable[[Mapping[str, DecisionRecord]], None] | None) -> Bundle:
        """The bundle in fp32 with engines of ``EXACT``; the others are made of it, or of the model.

        Args:
            decided: receives what was worked out about the model, before the work begins.

        Raises:
            LatentrtError: of the kind that names the reason.
        """
        folder = self._folder(Precision.FP32)
        request = replace(self.request, output=folder, engines=engines_to_make(EXACT.backend, (), None))
        if not request.starts_from_bundle:
            build_from_model(request, self.timer, decided)
        elif request.loras:
            build_from_bundle(request, self.timer, decided)
        else:
            self._copy(Path(request.model).resolve(), folder, request.engines)
        return open_bundle(folder)

    def _copy(self, source: Path, folder: Path, engines: EnginesToMake) -> None:
        """Copies a bundle, but for its engines, unless the same one was copied before."""
        bundle = open_bundle(source)
        bundle.check_all()
        if not _same(bundle, folder):
            with self.timer.stage("copy"), staged_directory(folder) as root:
                shutil.copytree(source, root, dirs_exist_ok=True, ignore=_but_its_engines(source))
                check_unchanged(bundle)
        compile_missing(open_bundle(folder), engines, self.timer)

    def make(self, candidate: Candidate) -> Contender:
        """A candidate's bundle with its engines; ``exact`` was made before.

        Raises:
            RequestError: there is no such build of this model.
            CheckpointError: a package is missing.
            EngineError: the backend refuses the graph.
            ParityError: the quality asked for is not reached, or an engine misses its gate.
        """
        precision, exact = candidate.precision, self._folder(Precision.FP32)
        engines = engines_to_make(candidate.backend, (), None)
        engines.check_precision(precision)
        if precision is Precision.FP32:
            bundle = open_bundle(exact)
            compile_missing(bundle, engines, self.timer)
            return Contender(bundle=bundle, backend=candidate.backend)
        int8 = self.speed.rounded_for(precision, candidate.backend) if precision in EIGHT_BITS else None
        bf16 = self.speed.bf16 if precision is Precision.BF16 else None
        folder = self._folder(precision, int8)
        if int8 is not None:  # what is observed and drawn in fp32 is the same for all backends
            int8 = replace(int8, shared=self.work / precision)
        request = replace(
            self.request, precision=precision, quantization=int8, bf16=bf16, engines=engines, output=folder
        )
        # What has no eight bits on GPUs, and fp16, come from the model alone
        of_model = precision is Precision.FP16 or (int8 is not None and int8.recipe.symmetric)
        if of_model and not request.starts_from_bundle:
            build_from_model(request, self.timer, None)
        else:
            of_exact = BuildRequest(
                model=str(exact),
                output=folder,
                precision=precision,
                profiles=(),
                engines=engines,
                seamless=Seamless.NONE,
                fp32=(),
                loras=(),
                choices=Choices(),
                quantization=int8,
                bf16=bf16,
            )
            build_from_bundle(of_exact, self.timer, None)
        return Contender(bundle=open_bundle(folder), backend=candidate.backend)

    def _folder(self, precision: Precision, int8: QuantizationRequest | None = None) -> Path:
        """Where a bundle lies; int8 for different backends may be different bundles."""
        which = "" if int8 is None else f"-{json_digest([str(int8)])[:8]}"
        return self.work / f"{precision}{which}.bundle"


def _same(source: Bundle, folder: Path) -> bool:
    """Whether there is a whole copy of a bundle in a folder."""
    try:
        copy = open_bundle(folder)
        copy.check_all()
    except BundleError:
        return False
    return copy.manifest == source.manifest


def _but_its_engines(source: Path) -> Callable[[str, list[str]], set[str]]:
    return lambda folder, names: {"engines", SPEED_FILE} & set(names) if Path(folder) == source else set()
