"""What a benchmark measures: the options, checked, with what they leave out filled in."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.benchmarks.peers.registry import PEERS, REFERENCE
from latentrt.cli.bench import BenchOptions
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile, profile_for_size, profile_from_text
from latentrt.engines.store.choose import AUTO
from latentrt.models import EMBEDDED, EMOJI
from latentrt.prompt_files import prompts_from_file
from latentrt.runtime.call.workflow import Workflow, check_workflow

PROMPTS = ("cat", "crying face", "strawberry", "sunflower", "frog", "red apple", "dog face", "octopus")
_RESIDENT = {"auto": None, "all": True, "one": False}
_LEAST = {"runs": 1, "cold_runs": 0, "varied_runs": 0, "steps": 1, "icons_every": 1, "threads": 1}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of draw."""

    width: int
    height: int
    batch: int
    steps: int


AXES: Mapping[str, Callable[[Case], tuple[str, float]]] = {
    "throughput": lambda case: (str(case.batch), case.batch),
    "pixels": lambda case: (f"{case.width}×{case.height}", case.width * case.height),
    "steps": lambda case: (str(case.steps), case.steps),
}
"""The phases that vary something: label and value of a case on their axis."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options and what they mean for these bundles.

    ``resident`` keeps all contenders open; None does so where the memory allows it. ``case`` is one picture at the size
    and steps asked for, ``varied`` the cases of every phase in ``AXES``: an empty one leaves that out. ``ours`` are our
    rows: a bundle each, and the backend that it runs on.
    """

    options: BenchOptions
    bundles: tuple[Path, ...]
    ours: tuple[tuple[Path, str], ...]
    checkpoint: Path | None
    against: tuple[str, ...]
    peers: Path
    prompts: tuple[str, ...]
    profile: Profile
    resident: bool | None
    case: Case
    varied: Mapping[str, tuple[Case, ...]]

    def request(self, case: Case, prompt: int = 0) -> dict[str, object]:
        """A draw as a worker takes it, from the prompts in turn."""
        places = range(prompt, prompt + case.batch)
        return {
            "do": "draw",
            "prompts": [self.prompts[place % len(self.prompts)] for place in places],
            "seeds": [self.options.seed + place for place in places],
            "steps": case.steps,
            "guidance": self.options.guidance,
            "width": case.width,
            "height": case.height,
        }


def plan_from_options(options: BenchOptions) -> Plan:
    """The plan of a benchmark.

    Raises:
        BundleError: the first folder is no bundle.
        RequestError: an option that cannot be served.
    """
    named = [_bundle_and_backend(path) for path in options.bundles or ()]
    bundles = tuple(dict.fromkeys(bundle for bundle, _ in named))
    manifest = open_bundle(bundles[0]).manifest
    check_workflow(manifest, Workflow.TEXT)
    for name, least in _LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise RequestError(f"got --{option} {value}, expected at least {least}; raise it")
    if options.resident not in _RESIDENT:
        raise RequestError(f"got --resident {options.resident!r}, expected {', '.join(_RESIDENT)}; choose one of these")
    profile = manifest.profiles[0]
    if options.size is not None:
        asked = profile_from_text(options.size)
        profile = profile_for_size(manifest.profiles, asked.width, asked.height, multiple=manifest.pixel_multiple)
    embedded = manifest.source.name in (EMBEDDED, str(EMOJI))
    checkpoint = EMOJI if options.checkpoint is None and embedded else options.checkpoint
    case = Case(width=profile.width, height=profile.height, batch=1, steps=options.steps)
    return Plan(
        options=options,
        bundles=bundles,
        ours=tuple(
            (bundle, name)
            for bundle, backend in named
            for name in ((backend,) if backend else options.backend or (AUTO,))
        ),
        checkpoint=checkpoint,
        against=_peers(options.against, checkpoint),
        peers=options.peers or _peers_folder(),
        prompts=_prompts(options.prompts, embedded=embedded),
        profile=profile,
        resident=_RESIDENT[options.resident],
        case=case,
        varied=_varied(case, profile, manifest) if options.varied_runs else {},
    )


def _bundle_and_backend(path: Path) -> tuple[Path, str | None]:
    """A bundle as it is named, with its backend where it is ``BUNDLE@BACKEND``."""
    name, at, backend = path.name.rpartition("@")
    return (path, None) if not at or path.is_dir() else (path.with_name(name), backend)


def _varied(case: Case, profile: Profile, manifest: BundleManifest) -> dict[str, tuple[Case, ...]]:
    """Batches in powers of two, every profile's size, and step counts; what has one value only is left out.

    Steps are a quarter, a half, all and twice as many; at least three, so that a multistep solver takes its usual
    course.
    """
    sizes = sorted({(one.width, one.height) for one in manifest.profiles}, key=lambda size: size[0] * size[1])
    steps = {case.steps // 4, case.steps // 2, case.steps, 2 * case.steps}
    cases = {
        "throughput": [replace(case, batch=2**n) for n in range(profile.batch.bit_length())],
        "pixels": [replace(case, width=width, height=height) for width, height in sizes],
        "steps": [replace(case, steps=count) for count in sorted(steps) if count >= min(3, case.steps)],
    }
    return {phase: tuple(found) for phase, found in cases.items() if len(found) > 1 or phase == "steps"}


def _peers(names: list[str] | None, checkpoint: Path | None) -> tuple[str, ...]:
    """The peers asked for; the reference where nothing was said and there is a checkpoint."""
    if names is None:
        return (REFERENCE,) if checkpoint is not None else ()
    if names == ["all"]:
        return tuple(PEERS)
    return () if names == ["none"] else tuple(dict.fromkeys(names))


def _peers_folder() -> Path:
    """Where environments and converted models are kept unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "latentrt" / "peers"


def _prompts(path: Path | None, *, embedded: bool) -> tuple[str, ...]:
    """Those of a file; without one, the embedded model's or one of a photograph."""
    if path is not None:
        return prompts_from_file(path)
    return PROMPTS if embedded else ("a photograph of an astronaut riding a horse",)
