"""Who takes part: every bundle on every backend asked for, and the peers, with the reasons of those that cannot."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latentrt.benchmarks.bench.fingerprint import states_of
from latentrt.benchmarks.bench.plan import Plan
from latentrt.benchmarks.bench.workers.environments import environment_python
from latentrt.benchmarks.bench.workers.process import OWN_PYTHON, Worker, WorkerError
from latentrt.benchmarks.peers.registry import OURS, PEERS, SAMPLER, Peer
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.store import engine_folder, identity_of

_UNUSED = "safety_checker"


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A contender before it is measured. ``absent`` says why it will not be, ``peer`` is None for ours."""

    name: str
    adapter: str
    precision: str
    python: Path
    model: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    absent: str | None = None
    peer: Peer | None = None
    checkpoint: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is latentrt."""
        return self.adapter == OURS

    @property
    def sampler(self) -> str:
        """What it draws by."""
        return SAMPLER if self.peer is None else self.peer.sampler

    @property
    def opening(self) -> dict[str, Any]:
        """The request that opens it."""
        return {"do": "open", "model": str(self.model), "options": dict(self.options)}

    def command(self, request: Mapping[str, Any]) -> str:
        """What a person would type to see it draw one PNG, its environment included; paths cut to their names."""
        shown = {"model": self.model.name, "options": dict(self.options), **request, "output": "out.png"}
        shown.pop("do", None)
        python, lines = "python", [f"pip install -c constraints.txt {'.' if self.ours else shlex.quote('.[bench]')}"]
        if self.peer is not None and self.peer.requirements is not None:
            python, pip = "peer/bin/python", ["peer/bin/python", "-m", "pip", "install"]
            lines = ["python -m venv peer", shlex.join([*pip, *self.peer.requirements])]
            lines += [shlex.join([*pip, "--no-deps", *self.peer.alone])] if self.peer.alone else []
        worker = [python, "-P", "benchmarks/bench/workers/worker.py"]
        if self.peer is not None and self.peer.converter is not None:
            prepare = {"do": "prepare", "checkpoint": self.checkpoint, "folder": self.model.name}
            lines.append(f"mkdir {shlex.quote(self.model.name)}")
            lines.append(f"echo {shlex.quote(json.dumps(prepare))} | {shlex.join([*worker, self.peer.converter])}")
        return "\n".join([*lines, shlex.join([*worker, self.adapter, "--once", json.dumps(shown)])])


def entrants(plan: Plan, progress: Progress | None) -> tuple[Entrant, ...]:
    """Everyone, ours first, in the order in which they were named.

    Raises:
        BundleError: a folder is no bundle.
        RequestError: an unknown peer or backend, or peers without a checkpoint.
    """
    unknown = [name for name in plan.against if name not in PEERS]
    if unknown:
        raise RequestError(f"got peer {unknown[0]!r}, expected one of {', '.join(PEERS)}; choose among these")
    if plan.checkpoint is None and plan.against:
        raise RequestError("got peers without a checkpoint, expected the model that they draw with; add --checkpoint")
    if plan.checkpoint is not None and not (plan.checkpoint / "model_index.json").is_file():
        raise RequestError(
            f"got checkpoint {str(plan.checkpoint)!r}, expected a folder in diffusers layout with a model_index.json; "
            "name the folder that the bundle was built from"
        )
    threads = {} if plan.options.threads is None else {"threads": plan.options.threads}
    ours = _told_apart([_ours(bundle, backend, threads) for bundle, backend in plan.ours])
    theirs = [_theirs(name, plan, threads, progress) for name in plan.against]
    return (*ours, *theirs)


def _ours(root: Path, backend: str, threads: Mapping[str, Any]) -> Entrant:
    bundle = open_bundle(root)
    precision, sparsity = bundle.manifest.precision.value, bundle.manifest.components[UNET].sparsity
    pruned = "" if sparsity is None else f" {sparsity.pattern}"
    absent = None
    try:
        backend = chosen_backend(bundle, backend).value
    except EngineError as error:
        absent = str(error)
    return Entrant(
        name=f"latentrt {precision}{pruned}" + ("" if backend in ("ort-cpu", AUTO) else f" {backend}"),
        adapter=OURS,
        precision=precision,
        python=OWN_PYTHON,
        model=root,
        options={"backend": backend, **threads},
        absent=absent,
    )


def _told_apart(ours: list[Entrant]) -> list[Entrant]:
    """Entrants of one name get their bundles' names."""
    names = Counter(entrant.name for entrant in ours)
    named = [
        replace(entrant, name=f"{entrant.name} ({entrant.model.name})") if names[entrant.name] > 1 else entrant
        for entrant in ours
    ]
    (name, count), *_ = Counter(entrant.name for entrant in named).most_common(1)
    if count > 1:
        raise RequestError(f"got {name!r} twice, expected bundles and backends that differ; name each once")
    return named


def _theirs(name: str, plan: Plan, threads: Mapping[str, Any], progress: Progress | None) -> Entrant:
    peer, checkpoint = PEERS[name], plan.checkpoint
    assert checkpoint is not None
    python, model, absent = OWN_PYTHON, checkpoint, None
    timer = StageTimer(progress)
    request = plan.request(plan.case)
    shapes = {name: request[name] for name in ("prompts", "width", "height", "guidance")}  # they depend on these
    try:
        if peer.requirements is not None:
            with timer.stage(f"environment of {name}"):
                python = environment_python(peer.home or name, plan.peers, peer.requirements, peer.alone)
        if peer.converter is not None:
            with timer.stage(f"conversion for {name}"):
                model = _converted(peer, peer.converter, python, checkpoint, plan)
    except WorkerError as error:
        absent = str(error)
    return Entrant(
        name=peer.title,
        adapter=peer.adapter,
        precision=peer.precision,
        python=python,
        model=model,
        options={**threads, **peer.options, **({"first": shapes} if peer.first else {})},
        absent=absent,
        peer=peer,
        checkpoint=checkpoint.name,
    )


def _converted(peer: Peer, converter: str, python: Path, checkpoint: Path, plan: Plan) -> Path:
    """The checkpoint as the peer takes it, converted where it was not; peers of one converter share it.

    Raises:
        WorkerError: the peer cannot convert it.
    """
    adapters = Path(__file__).resolve().parent.parent / "peers"
    sources = [(adapters / f"{name}.py").read_text("utf-8") for name in (converter, "older_names")]
    packages = peer.requirements, peer.alone
    digest = hashlib.sha256(repr((states_of(checkpoint), packages, sources)).encode()).hexdigest()[:16]
    folder = plan.peers / "models" / f"{checkpoint.name}-{converter.replace('_', '-')}-{digest}"
    if folder.is_dir():
        return folder
    with (
        locked(folder),
        staged_directory(folder) as staging,
        Worker(python, converter, timeout=plan.options.timeout) as worker,
    ):
        worker.ask({"do": "prepare", "checkpoint": str(checkpoint), "folder": str(staging)})
    return folder


def model_bytes(entrant: Entrant) -> int:
    """Bytes that a contender draws from on disk: what it opens, and nothing that merely lies beside it.

    Of a peer's model all but its safety checker; of a bundle the engines on the entrant's backend, and the files that
    every backend reads: no probes, no other engines, and not the graphs that engines were made from.
    """
    if not entrant.ours:
        files = (path for path in entrant.model.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files if path.relative_to(entrant.model).parts[0] != _UNUSED)
    bundle = open_bundle(entrant.model)
    manifest, compiler = bundle.manifest, COMPILERS[Backend(entrant.options["backend"])]
    apart = {name for one in manifest.components.values() for name in (one.onnx, one.weights, one.probes)}
    size = sum(record.size for name, record in manifest.files.items() if name not in apart)
    for name in manifest.components:
        component = Component(root=bundle.root, manifest=manifest, name=name)
        folder = engine_folder(bundle.root, identity_of(component, compiler, compiler.here()))
        size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return size
