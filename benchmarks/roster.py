"""Who takes part: every bundle on every backend asked for, and the peers, with the reasons of those that cannot."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt.benchmarks.environments import environment_python
from latentrt.benchmarks.identity import states_of
from latentrt.benchmarks.peers.registry import OURS, PEERS, Peer
from latentrt.benchmarks.plan import Plan, base_case
from latentrt.benchmarks.process import Worker, WorkerError, own_python
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.store.choose import AUTO, chosen_backend


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
    def opening(self) -> dict[str, Any]:
        """The request that opens it."""
        return {"do": "open", "model": str(self.model), "options": dict(self.options)}

    def command(self, request: Mapping[str, Any]) -> str:
        """What a person would type to see it draw one PNG, its environment included; paths cut to their names."""
        shown = {"model": self.model.name, "options": dict(self.options), **request, "output": "out.png"}
        shown.pop("do", None)
        python = "python"
        lines = [f"pip install -c constraints.txt {'.' if self.ours else shlex.quote('.[bench]')}"]
        if self.peer is not None and self.peer.requirements is not None:
            python = "peer/bin/python"
            lines = [
                "python -m venv peer",
                shlex.join([python, "-m", "pip", "install", *self.peer.requirements]),
            ]
            if self.peer.alone:
                lines.append(shlex.join([python, "-m", "pip", "install", "--no-deps", *self.peer.alone]))
        worker = [python, "-P", "benchmarks/worker.py", self.adapter]
        if self.peer is not None and self.peer.converts:
            prepare = {"do": "prepare", "checkpoint": self.checkpoint, "folder": self.model.name}
            lines.append(f"mkdir {shlex.quote(self.model.name)}")
            lines.append(f"echo {shlex.quote(json.dumps(prepare))} | {shlex.join(worker)}")
        return "\n".join([*lines, shlex.join([*worker, "--once", json.dumps(shown)])])


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
    threads = {} if plan.threads is None else {"threads": plan.threads}
    ours = _told_apart([_ours(bundle, backend, threads) for bundle in plan.bundles for backend in plan.backends])
    theirs = [_theirs(name, plan, threads, progress) for name in plan.against]
    return (*ours, *theirs)


def _ours(root: Path, backend: str, threads: Mapping[str, Any]) -> Entrant:
    bundle = open_bundle(root)
    precision = bundle.manifest.precision.value
    absent = None
    try:
        backend = chosen_backend(bundle, backend).value
    except EngineError as error:
        absent = str(error)
    return Entrant(
        name=f"latentrt {precision}" + ("" if backend in ("ort-cpu", AUTO) else f" {backend}"),
        adapter=OURS,
        precision=precision,
        python=own_python(),
        model=root,
        options={"backend": backend, **threads},
        absent=absent,
    )


def _told_apart(ours: list[Entrant]) -> list[Entrant]:
    """Entrants of one name get their bundles' names."""
    from dataclasses import replace

    names = [entrant.name for entrant in ours]
    named = [
        replace(entrant, name=f"{entrant.name} ({entrant.model.name})") if names.count(entrant.name) > 1 else entrant
        for entrant in ours
    ]
    names = [entrant.name for entrant in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"got {twice!r} twice, expected bundles and backends that differ; name each once")
    return named


def _theirs(name: str, plan: Plan, threads: Mapping[str, Any], progress: Progress | None) -> Entrant:
    peer, checkpoint = PEERS[name], plan.checkpoint
    assert checkpoint is not None
    python, model, absent = own_python(), checkpoint, None
    timer = StageTimer(progress)
    try:
        if peer.requirements is not None:
            home = "openvino" if name.startswith("openvino") else name
            with timer.stage(f"environment of {name}"):
                python = environment_python(home, plan.peers, peer.requirements, peer.alone)
        if peer.converts:
            with timer.stage(f"conversion for {name}"):
                model = _converted(name, peer, python, checkpoint, plan)
    except WorkerError as error:
        absent = str(error)
    return Entrant(
        name=peer.title,
        adapter=peer.adapter,
        precision=peer.precision,
        python=python,
        model=model,
        options={**threads, **({"first": _shapes(plan)} if peer.first else {})},
        absent=absent,
        peer=peer,
        checkpoint=checkpoint.name,
    )


def _shapes(plan: Plan) -> dict[str, object]:
    """What of the first draw its tensors' shapes depend on."""
    request = base_case(plan).request(plan)
    return {name: request[name] for name in ("prompts", "width", "height", "guidance")}


def _converted(name: str, peer: Peer, python: Path, checkpoint: Path, plan: Plan) -> Path:
    """The checkpoint as the peer takes it, converted where it was not.

    Raises:
        WorkerError: the peer cannot convert it.
    """
    adapters = Path(__file__).resolve().parent / "peers"
    sources = [(adapters / f"{name}.py").read_text("utf-8") for name in (peer.adapter, "older_names")]
    digest = hashlib.sha256(repr((states_of(checkpoint), peer, sources)).encode()).hexdigest()[:16]
    folder = plan.peers / "models" / f"{checkpoint.name}-{name}-{digest}"
    if folder.is_dir():
        return folder
    with (
        locked(folder),
        staged_directory(folder) as staging,
        Worker(python, peer.adapter, timeout=plan.timeout) as worker,
    ):
        worker.ask({"do": "prepare", "checkpoint": str(checkpoint), "folder": str(staging)})
    return folder
