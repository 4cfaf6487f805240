"""What a control net costs: a step with and without one, and what a U-Net pays for inputs that nobody gives.

    python -m latentrt.benchmarks.studies.control BUNDLE NET CHECKPOINT NET_CHECKPOINT [--rounds 5] [--json FILE]

The bundles of a model and of a net for it, and the diffusers folders that they were built from. latentrt and diffusers
wait in a process each and draw pictures of one guided step in turn, so that a busy machine is busy for both. A step is
all between the sample and the guided prediction. ``unet`` and ``unet without inputs`` are the U-Net's engine alone: as
the bundle has it, with inputs for residuals that are left out, and compiled without them; ``net`` is that of the net.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from latentrt.cli.terminal import print_table

PROMPT, SEED, GUIDANCE = "a photograph of an astronaut riding a horse", 7, 7.5
Timed = Callable[[], float]
"""Does something once, and returns the seconds that it took."""


def control_picture(width: int, height: int) -> Image.Image:
    """Random fields, of the size of the pictures."""
    fields = np.random.default_rng(SEED).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(fields).resize((width, height), Image.Resampling.NEAREST)


@contextmanager
def _ours(bundle: Path, net: Path) -> Iterator[Mapping[str, Timed]]:
    import latentrt
    from latentrt.engines.backends.ort_cpu.backend import OrtCpu, in_halves
    from latentrt.engines.backends.ort_cpu.compile import compile_onnx, group_norm_of
    from latentrt.engines.backends.ort_cpu.model import OrtCpuModel
    from latentrt.engines.bundle.bundle import open_bundle
    from latentrt.engines.bundle.component import Component
    from latentrt.engines.bundle.kinds import CONTROL, UNET
    from latentrt.engines.engine import Engine
    from latentrt.engines.precision import Backend
    from latentrt.engines.shapes import AddedInputs, Shapes
    from latentrt.engines.store.store import compiled_folder

    with ExitStack() as opened:
        pipe = opened.enter_context(latentrt.open_pipeline(bundle, backend=Backend.ORT_CPU))
        addon = opened.enter_context(latentrt.open_addon(net, backend=Backend.ORT_CPU))
        model = open_bundle(bundle)
        unet = Component(root=model.root, manifest=model.manifest, name=UNET)
        profile = model.manifest.profiles[0]
        shapes = Shapes(profile=profile)
        folder = Path(opened.enter_context(TemporaryDirectory()))
        compile_onnx(unet.onnx, folder, unet.record.parameters, group_norm=group_norm_of(unet))
        bare = OrtCpuModel.of_compiled(folder, threads=None, halves=in_halves(unet))
        opened.callback(bare.close)
        whole = OrtCpu().open(unet, compiled_folder(unet, Backend.ORT_CPU), threads=None)
        opened.callback(whole.close)
        engines: dict[str, Engine] = {
            "unet": whole.engine(Shapes(profile=profile, added=frozenset({AddedInputs.CONTROL}))),
            "unet without inputs": bare.engine(unet.spec_of_any_batch(shapes)),
            "net": addon.engine(CONTROL, shapes),
        }

        def step(**more: Any) -> float:
            return pipe(
                PROMPT, num_inference_steps=1, guidance_scale=GUIDANCE, seed=SEED, output_type="latent", **more
            ).timings.calls[0]

        control = latentrt.Control(addon, control_picture(profile.width, profile.height))
        yield {
            "plain": step,
            "control": lambda: step(control=control),
            **{name: _run_of(engine) for name, engine in engines.items()},
        }


def _run_of(engine: Any) -> Timed:
    """Runs an engine on two samples; what may be left out is left out."""
    rng = np.random.default_rng(SEED)
    needed = {name: tensor for name, tensor in engine.spec.inputs.items() if tensor.neutral is None}
    inputs = {name: rng.standard_normal(tensor.sized(2)).astype(tensor.dtype) for name, tensor in needed.items()}
    inputs["timestep"] = np.full(2, 500, inputs["timestep"].dtype)

    def timed() -> float:
        begin = perf_counter()
        engine.run(inputs)
        return perf_counter() - begin

    return timed


@contextmanager
def _diffusers(checkpoint: Path, net: Path) -> Iterator[Mapping[str, Timed]]:
    import diffusers
    import torch

    loaded: Any = diffusers.DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    kind = "StableDiffusionXL" if "XL" in type(loaded).__name__ else "StableDiffusion"
    own = {name: part for name, part in loaded.components.items() if part is not None}
    more = {} if kind.endswith("XL") else {"requires_safety_checker": False, "safety_checker": None}
    more |= {} if kind.endswith("XL") else {"feature_extractor": None}
    own = {name: part for name, part in own.items() if name not in more}
    controlnet = diffusers.ControlNetModel.from_pretrained(net, torch_dtype=torch.float32)
    plain = getattr(diffusers, f"{kind}Pipeline")(**own, **more)
    guided = getattr(diffusers, f"{kind}ControlNetPipeline")(**own, **more, controlnet=controlnet)
    begun: list[float] = []
    ended: list[float] = []
    for module in (plain.unet, controlnet):
        module.register_forward_pre_hook(lambda *_: begun.append(perf_counter()))
    plain.unet.register_forward_hook(lambda *_: ended.append(perf_counter()))
    size = plain.unet.config.sample_size * plain.vae_scale_factor

    def step(pipe: Any, **more: Any) -> float:
        begun.clear()
        ended.clear()
        pipe.set_progress_bar_config(disable=True)
        pipe(PROMPT, num_inference_steps=1, guidance_scale=GUIDANCE, output_type="latent", **more)
        return ended[-1] - begun[0]

    picture = control_picture(size, size)
    yield {"plain": lambda: step(plain, width=size, height=size), "control": lambda: step(guided, image=picture)}


_CONTENDERS = {"latentrt": _ours, "diffusers": _diffusers}


def _serve(contender: str, model: Path, net: Path) -> None:
    """Says what there is to do, and does what it is told on standard input, until that ends."""
    with _CONTENDERS[contender](model, net) as tasks:
        for timed in tasks.values():
            timed()  # what is done once is done now
        print(json.dumps(list(tasks)), flush=True)
        for line in sys.stdin:
            print(json.dumps(tasks[json.loads(line)]()), flush=True)


class _Worker:
    """A contender in a process of its own."""

    def __init__(self, contender: str, model: Path, net: Path) -> None:
        task = json.dumps([contender, str(model), str(net)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "latentrt.benchmarks.studies.control", "--task", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tasks = [str(name) for name in self._answer()]

    def timed(self, task: str) -> float:
        """The seconds of one task."""
        assert self._process.stdin is not None  # for the type checker
        print(json.dumps(task), file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with status {self._process.wait()}; its errors stand above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def study(bundle: Path, net: Path, checkpoint: Path, net_checkpoint: Path, rounds: int) -> dict[str, Any]:
    """The seconds of every task in every round, by contender."""
    with ExitStack() as opened:
        workers = {}
        for contender, (model, own) in {"latentrt": (bundle, net), "diffusers": (checkpoint, net_checkpoint)}.items():
            workers[contender] = _Worker(contender, model, own)
            opened.callback(workers[contender].close)
        samples: dict[str, dict[str, list[float]]] = {
            name: {task: [] for task in worker.tasks} for name, worker in workers.items()
        }
        order = [(name, task) for name, worker in workers.items() for task in worker.tasks]
        for index in range(rounds):
            for name, task in order[:: 1 if index % 2 else -1]:
                samples[name][task].append(workers[name].timed(task))
        return samples


def _print(result: Mapping[str, Mapping[str, list[float]]]) -> None:
    rows = []
    for contender, samples in result.items():
        plain, control = median(samples["plain"]), median(samples["control"])
        rows.append(
            [contender, f"{plain:.3f} s", f"{control:.3f} s", f"{control / plain:.2f}", f"{1 - plain / control:.0%}"]
        )
    print_table("A guided step", ["", "plain", "with one control net", "times the plain one", "share of the net"], rows)
    ours = {task: median(samples) for task, samples in result["latentrt"].items()}
    faster = median(result["diffusers"]["control"]) / ours["control"]
    print(
        f"With the net a step of diffusers takes {faster:.2f} times as long.\n"
        f"The net's engine alone: {ours['net']:.3f} s.\n"
        f"The U-Net's engine alone: {ours['unet']:.3f} s with inputs for residuals that are left out, "
        f"{ours['unet without inputs']:.3f} s compiled without them."
    )


def main() -> None:
    """Reads the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "net", "checkpoint", "net_checkpoint"):
        parser.add_argument(name, type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task is not None:
        contender, model, net = json.loads(arguments.task)
        _serve(contender, Path(model), Path(net))
        return
    if arguments.net_checkpoint is None:
        parser.error("give BUNDLE NET CHECKPOINT NET_CHECKPOINT")
    places = (arguments.bundle, arguments.net, arguments.checkpoint, arguments.net_checkpoint)
    result = study(*places, arguments.rounds)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1), "utf-8")
    _print(result)


if __name__ == "__main__":
    main()
