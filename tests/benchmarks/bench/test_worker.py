"""Contenders in processes of their own: what they say, how they fail, and that they wait in peace."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from latentrt.benchmarks.bench.aggregate import exponent, latency_of
from latentrt.benchmarks.bench.contenders import Entrant
from latentrt.benchmarks.bench.journal import Journal
from latentrt.benchmarks.bench.plan import Case
from latentrt.benchmarks.bench.workers import environments, process
from latentrt.benchmarks.bench.workers import pool as pool_module
from latentrt.benchmarks.bench.workers.environments import environment_python
from latentrt.benchmarks.bench.workers.pool import Pool
from latentrt.benchmarks.bench.workers.process import OWN_PYTHON, Worker, WorkerError, cold_start
from latentrt.benchmarks.peers import stable_diffusion_cpp
from latentrt.benchmarks.peers.registry import PEERS, Peer

HOUSE = Path(__file__).resolve().parents[3]
MATRIX = {"do": "open", "model": "", "options": {"size": 64}}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> object:
    """Lets a few lines of Python stand for the worker."""

    def use(script: str) -> None:
        monkeypatch.setattr(process, "worker_command", lambda python, adapter: [str(python), "-c", script])

    return use


def test_answers_and_waits_without_processor_time() -> None:
    """A worker that was asked for a product sits still afterwards."""
    with Worker(OWN_PYTHON, "matrix_product", timeout=120) as worker:
        worker.ask(MATRIX)
        assert worker.ask({"do": "draw"})["seconds"]["NumPy"] > 0
        assert (worker.peak_bytes or 0) > 10 << 20
        before = worker.processor_seconds
        time.sleep(1.0)
        assert worker.processor_seconds - before < 0.5  # spinning would take a second per thread


def test_a_failure_is_its_answer_and_the_worker_lives_on() -> None:
    """With the exception's type and text."""
    with Worker(OWN_PYTHON, "matrix_product", timeout=120) as worker:
        with pytest.raises(WorkerError, match="RuntimeError: nothing is open"):
            worker.ask({"do": "draw"})
        worker.ask(MATRIX)
        with pytest.raises(WorkerError, match="unknown request 'dance'"):
            worker.ask({"do": "dance"})


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('no libfoo.so')", "status 1: no libfoo.so"),
        ("import os; os.abort()", "signal 6"),
        ("import sys, os; sys.stdin.readline(); os._exit(0)", "status 0"),
    ],
)
def test_a_death_is_reported_with_its_last_words(script: str, said: str, scripted: object) -> None:
    """A crash in native code, too."""
    scripted(script)  # type: ignore[operator]
    with Worker(OWN_PYTHON, "any", timeout=60) as worker, pytest.raises(WorkerError, match=said):
        worker.ask({"do": "open"})


def test_silence_ends_with_the_timeout(scripted: object) -> None:
    """And the process with it."""
    scripted("import sys; sys.stdin.readline(); sys.stdin.readline()")  # type: ignore[operator]
    with Worker(OWN_PYTHON, "any", timeout=0.2) as worker, pytest.raises(WorkerError, match="no answer within"):
        worker.ask({"do": "open"})


def test_a_missing_interpreter_is_a_reason(tmp_path: Path) -> None:
    """For a served worker and a cold start."""
    with pytest.raises(WorkerError, match="cannot start"):
        Worker(tmp_path / "python", "any", timeout=1)
    with pytest.raises(WorkerError, match="cannot start"):
        cold_start(tmp_path / "python", "any", {}, timeout=1)


def test_a_cold_start_that_fails_says_why() -> None:
    """The last line of its traceback."""
    with pytest.raises(WorkerError, match="ModuleNotFoundError"):
        cold_start(OWN_PYTHON, "no_such_adapter", {"model": ""}, timeout=60)


def test_adapters_import_where_latentrt_is_not_installed(tmp_path: Path) -> None:
    """The worker stands in for the package; here in a process that cannot see the installed one."""
    site = next(path for path in map(Path, sys.path) if (path / "numpy").is_dir())
    (tmp_path / "numpy").symlink_to(site / "numpy")
    for library in site.glob("numpy*.libs"):
        (tmp_path / library.name).symlink_to(library)
    code = f"import sys; sys.path.append({str(tmp_path)!r}); sys.argv = ['worker.py', 'matrix_product']\n"
    worker = HOUSE / "benchmarks" / "bench" / "workers" / "worker.py"
    code += f"import runpy; runpy.run_path({str(worker)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], input=json.dumps(MATRIX) + "\n", capture_output=True, text=True
    )
    assert json.loads(done.stdout)["versions"] == {"numpy": np.__version__}, done.stderr


def test_peers_are_pinned() -> None:
    """Every requirement names one version."""
    for peer in PEERS.values():
        for requirement in (*(peer.requirements or ()), *peer.alone):
            assert requirement.count("==") == 1, requirement
        for adapter in filter(None, (peer.adapter, peer.converter)):
            assert (HOUSE / "benchmarks" / "peers" / f"{adapter}.py").is_file()


def test_an_environment_with_packages_for_gpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of it is installed."""
    ran = []

    def run(command: list[str], what: str) -> str:
        ran.append(command)
        names = ["torch", "nvidia-cublas-cu13"]
        return json.dumps({"install": [{"metadata": {"name": name}} for name in names]})

    monkeypatch.setattr(environments, "_run", run)
    with pytest.raises(WorkerError, match="nvidia-cublas-cu13"):
        environment_python("peer", tmp_path, ("torch",))
    assert not [command for command in ran if command[-1] == "torch" and "--dry-run" not in command]


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew for other requirements."""
    ran: list[list[str]] = []

    def run(command: list[str], what: str) -> str:
        ran.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir()
        return '{"install": []}'

    monkeypatch.setattr(environments, "_run", run)
    python = environment_python("peer", tmp_path, ("a==1",), ("b==2",))
    assert any("--no-deps" in command and "b==2" in command for command in ran)
    ran.clear()
    assert environment_python("peer", tmp_path, ("a==1",), ("b==2",)) == python
    assert ran == []
    environment_python("peer", tmp_path, ("a==2",), ("b==2",))
    assert ran


def test_sd_cpp_gets_one_file_with_its_names(tmp_path: Path) -> None:
    """Tensors bit for bit; the text encoder's with the part of the name that transformers 5 leaves out."""
    tensors = {"b.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.ones(3, np.float32)}
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / "model" / part).mkdir(parents=True)
        save_file(tensors, tmp_path / "model" / part / "weights.safetensors", metadata={"format": "pt"})
    (tmp_path / "out").mkdir()
    stable_diffusion_cpp.prepare(str(tmp_path / "model"), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == {p + n for p in ("unet.", "vae.", "te.text_model.") for n in tensors}
    for name, tensor in found.items():
        whole = tensors["b.weight" if name.endswith("b.weight") else "a"]
        assert tensor.dtype == whole.dtype
        np.testing.assert_array_equal(tensor, whole)


def test_older_names_for_those_who_would_start_from_random_weights(tmp_path: Path) -> None:
    """The text encoder's tensors renamed, the projection's kept, everything else the same files."""
    from latentrt.benchmarks.peers.older_names import with_older_names

    tensors = {"embeddings.weight": np.arange(4, dtype=np.float16), "text_projection.weight": np.ones(2, np.float32)}
    for part in ("unet", "text_encoder"):
        (tmp_path / "model" / part).mkdir(parents=True)
        save_file(tensors, tmp_path / "model" / part / "weights.safetensors", metadata={"format": "pt"})
    with with_older_names(str(tmp_path / "model"), tmp_path / "near") as older:
        found = load_file(Path(older) / "text_encoder" / "weights.safetensors")
        assert set(found) == {"text_model.embeddings.weight", "text_projection.weight"}
        np.testing.assert_array_equal(found["text_model.embeddings.weight"], tensors["embeddings.weight"])
        assert set(load_file(Path(older) / "unet" / "weights.safetensors")) == set(tensors)
    assert not Path(older).exists()


def test_reasons_keep_only_the_last_name_of_a_path() -> None:
    """Reports are for others; relative paths and addresses of the web stay."""
    told = str(WorkerError("cannot read '/home/someone/models/a b' or /etc/x.json, see out/r and https://host/page"))
    assert told == "cannot read 'a b' or x.json, see out/r and https://host/page"


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    """Half a last line is not an answer; other settings start anew."""
    path = tmp_path / "journal"
    journal = Journal(path, {"runs": 2})
    journal.add(("latency", 0), {"seconds": 1.0})
    journal.add(("latency", 1), {"seconds": 2.0})
    path.write_text(path.read_text()[:-9])
    again = Journal(path, {"runs": 2})
    assert (again.resumed, again.known("latency", 0), again.known("latency", 1)) == (1, {"seconds": 1.0}, None)
    again.add(("latency", 1), {"seconds": 3.0})
    third = Journal(path, {"runs": 2})
    assert (third.resumed, third.known("latency", 1)) == (2, {"seconds": 3.0})  # the torn line took none with it
    assert Journal(path, {"runs": 3}).resumed == 0


def test_host_overhead_is_of_the_steps_that_count() -> None:
    """Each but a run's first, less its own U-Net call; nothing where calls and steps cannot be paired."""
    one = {"seconds": {"total": 9.0, "steps": [5.0, 2.0, 3.0], "unet": [1.0, 1.5, 2.0]}}
    found = latency_of([one, {"seconds": {"total": 9.0, "steps": [5.0, 2.0], "unet": [1.0, 1.0, 1.0]}}])
    assert found
    assert found.host_overhead
    assert found.unet_call
    assert found.host_overhead.samples == (0.5, 1.0)
    assert found.unet_call.samples == (1.5, 2.0, 1.0, 1.0)


def test_commands_are_whole() -> None:
    """An environment, the conversion, and the draw; ours needs no conversion."""
    peer = Peer(title="p", adapter="a", precision="fp32", requirements=("x==1",), alone=("y==2",), converter="c")
    common = {"precision": "fp32", "python": Path("python")}
    theirs = Entrant(name="p", adapter="a", model=Path("/far/converted"), peer=peer, checkpoint="model", **common)  # type: ignore[arg-type]
    lines = theirs.command({"do": "draw", "steps": 2}).splitlines()
    assert lines[:4] == [
        "python -m venv peer",
        "peer/bin/python -m pip install x==1",
        "peer/bin/python -m pip install --no-deps y==2",
        "mkdir converted",
    ]
    asked = json.loads(shlex.split(lines[4])[1])
    assert asked == {"do": "prepare", "checkpoint": "model", "folder": "converted"}
    assert lines[4].endswith("| peer/bin/python -P benchmarks/bench/workers/worker.py c")
    drawn = shlex.split(lines[5])
    assert drawn[:5] == ["peer/bin/python", "-P", "benchmarks/bench/workers/worker.py", "a", "--once"]
    assert json.loads(drawn[5]) == {"model": "converted", "options": {}, "steps": 2, "output": "out.png"}
    ours = Entrant(name="o", adapter="latentrt_bundle", model=Path("one.bundle"), **common)  # type: ignore[arg-type]
    assert ours.command({}).splitlines()[0] == "pip install -c constraints.txt ."
    assert len(ours.command({}).splitlines()) == 2


def test_threads_reach_the_peak_meter(scripted: object) -> None:
    """By the variables that the libraries below it read."""
    script = (
        "import json, os, sys; sys.stdin.readline(); print(json.dumps({'got': os.environ['OPENBLAS_NUM_THREADS']}))"
    )
    scripted(script)  # type: ignore[operator]
    with Worker(OWN_PYTHON, "any", timeout=60, threads=3) as worker:
        assert worker.ask({}) == {"got": "3"}


def test_stages_of_a_contender_that_tells_none_are_left_out() -> None:
    """Its whole pictures count all the same."""
    found = latency_of([{"seconds": {"total": 2.0, "steps": []}}, {"seconds": {"total": 3.0, "steps": []}}])
    assert found is not None
    assert found.picture.samples == (2.0, 3.0)
    assert (found.encode, found.step, found.rest, found.host_overhead) == (None, None, None, None)


def test_exponent_is_the_power() -> None:
    """Of exact powers; none of a single value."""
    assert exponent([(x, 3.0 * x**1.5) for x in (1.0, 2.0, 8.0)]) == pytest.approx(1.5)
    assert exponent([(4.0, 1.0), (4.0, 2.0)]) is None


def test_a_worker_is_warm_for_its_latest_case_alone(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes back to a case is warmed up for it again, in fewer steps and without an output."""
    asked: list[tuple[int, int, object]] = []

    class Silent:
        def __init__(self, *arguments: object, **options: object) -> None: ...

        def ask(self, request: dict[str, Any]) -> dict[str, Any]:
            if request["do"] == "draw":
                asked.append((request["width"], request["steps"], request["output"]))
            return {"versions": {}}

        def close(self) -> None: ...

    monkeypatch.setattr(pool_module, "Worker", Silent)
    entrant = Entrant(name="one", adapter="any", precision="fp32", python=Path("python"), model=tiny_bundle)
    small = Case(width=32, height=32, batch=1, steps=8)
    large = Case(width=48, height=32, batch=1, steps=8)
    pool = Pool(timeout=1, resident=True)
    for case in (small, small, large, small):
        request = {"do": "draw", "width": case.width, "steps": case.steps, "output": "o"}
        pool.draw(entrant, case, request)
    warm, cold = (32, 2, None), (32, 8, "o")
    assert asked == [warm, cold, cold, (48, 2, None), (48, 8, "o"), warm, cold]


def test_diffusers_draws_without_a_safety_checker(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of a checkpoint whose index names one, which is not even loaded."""
    from latentrt.benchmarks.peers.diffusers_eager import Adapter

    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "checked")
    index = json.loads((checkpoint / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (checkpoint / "model_index.json").write_text(json.dumps(index))
    assert Adapter().pipeline(str(checkpoint)).safety_checker is None
