"""What a LoRA costs: from its file to the first step, a set that was used before, a step, and memory.

    python -m latentrt.benchmarks.studies.loras BUNDLE CHECKPOINT [--rank 16] [--rounds 5] [--json FILE]

The bundle and the diffusers folder are of one model. The LoRA is random: it changes all attention and feed-forward
layers of the U-Net and the text encoder. latentrt and diffusers (``load_lora_weights``, ``set_adapters``) load the same
file, each in a process of its own that draws pictures of one step with and without it in turn. "To the first step" is
from the call that loads until the U-Net begins. Memory is the process's largest proportional set size above that of one
that never saw a LoRA, so that a mapped file counts once.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from latentrt.cli.terminal import megabytes, print_table
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.kinds import UNET

PROMPT, SEED, GUIDANCE = "a photograph of an astronaut riding a horse", 7, 7.5
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
_ADAPTED_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def save_random_lora(bundle: Path, rank: int, path: Path) -> int:
    """Writes a LoRA of all attention and feed-forward layers in PEFT's names; returns the bytes that it touches."""
    opened, rng = open_bundle(bundle), np.random.default_rng(SEED)
    tensors: dict[str, Any] = {}
    touched = 0
    for component, ends in ((UNET, _ADAPTED), ("text_encoder", _ADAPTED_TEXT)):
        for name, row in opened.weights(component).named.weights.items():
            module = name.removesuffix(".weight")
            if name == module or not module.endswith(ends) or len(row.shape) != 2:
                continue
            (outputs, inputs), down = row.shape, rng.standard_normal((rank, row.shape[1]))
            tensors[f"{component}.{module}.lora_A.weight"] = (down / inputs**0.5).astype(np.float32)
            tensors[f"{component}.{module}.lora_B.weight"] = (0.01 * rng.standard_normal((outputs, rank))).astype(
                np.float32
            )
            touched += 4 * outputs * inputs
    save_file(tensors, path)
    return touched


@contextmanager
def _peak(figures: dict[str, Any]) -> Iterator[None]:
    """Watches the process's proportional set size; the largest is ``peak`` then, in bytes."""
    ended, seen = Event(), [0]

    def watch() -> None:
        while not ended.wait(0.02):
            lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
            seen.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        figures["peak"] = max(seen)


def _ours(bundle: Path, lora: Path | None, rounds: int) -> dict[str, Any]:
    import latentrt

    figures: dict[str, Any] = {}
    with _peak(figures), latentrt.open(bundle) as pipe:

        def draw(loras: Mapping[str, float] | None) -> tuple[float, float]:
            timings = pipe(
                PROMPT, num_inference_steps=1, guidance_scale=GUIDANCE, seed=SEED, output_type="latent", loras=loras
            ).timings
            return timings.encode_image + timings.encode_prompt, timings.calls[0]

        if lora is None:
            draw(None)
            return figures
        figures |= _course(draw, {"one": 0.8}, lambda: pipe.load_lora(lora, name="one"), rounds)
    return figures


def _course(draw: Callable[[Any], tuple[float, float]], weights: Any, load: Callable[[], object], rounds: int) -> Any:
    """Loads the LoRA, draws with it, and then without and with it in turn."""
    if rounds:
        draw(None)
    begin = perf_counter()
    load()
    loaded = perf_counter() - begin
    before, _ = draw(weights)
    figures = {"load": loaded, "to first step": loaded + before}
    return figures | _in_turn({"plain": lambda: draw(None), "lora": lambda: draw(weights)}, rounds)


def _in_turn(draws: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Seconds before the first step and of the step, of each way of drawing, one after the other."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in draws}
    for index in range(rounds):
        for name in list(draws)[:: 1 if index % 2 else -1]:
            samples[name].append(draws[name]())
    return {name: {"before": [a for a, _ in pairs], "step": [b for _, b in pairs]} for name, pairs in samples.items()}


def _diffusers(checkpoint: Path, lora: Path | None, rounds: int) -> dict[str, Any]:
    import torch
    from diffusers import StableDiffusionPipeline

    figures: dict[str, Any] = {}
    with _peak(figures):
        pipe = StableDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        entered: list[float] = []
        pipe.unet.register_forward_pre_hook(lambda *_: entered.append(perf_counter()))

        def draw(weight: float | None) -> tuple[float, float]:
            begin = perf_counter()
            if weight is not None:
                pipe.enable_lora()
                pipe.set_adapters("one", weight)
            elif lora is not None and rounds and pipe.get_active_adapters():
                pipe.disable_lora()
            entered.clear()
            pipe(PROMPT, num_inference_steps=1, guidance_scale=GUIDANCE, output_type="latent")
            return entered[0] - begin, perf_counter() - entered[0]

        if lora is None:
            draw(None)
            return figures
        figures |= _course(draw, 0.8, lambda: pipe.load_lora_weights(lora, adapter_name="one"), rounds)
    return figures


_CONTENDERS = {"latentrt": _ours, "diffusers": _diffusers}


def _measured(contender: str, model: Path, lora: Path | None, rounds: int) -> dict[str, Any]:
    """One contender's figures, from a process of its own."""
    task = json.dumps([contender, str(model), None if lora is None else str(lora), rounds])
    command = [sys.executable, "-m", "latentrt.benchmarks.studies.loras", "--task", task]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # its errors are seen as they come
    return dict(json.loads(done.stdout.splitlines()[-1]))


def study(bundle: Path, checkpoint: Path, rank: int, rounds: int) -> dict[str, Any]:
    """All figures, by contender; seconds and bytes."""
    with TemporaryDirectory() as folder:
        lora = Path(folder) / "random.safetensors"
        result: dict[str, Any] = {"rank": rank, "touched": save_random_lora(bundle, rank, lora)}
        for contender, model in (("latentrt", bundle), ("diffusers", checkpoint)):
            plain, once = (_measured(contender, model, one, 0)["peak"] for one in (None, lora))
            result[contender] = {**_measured(contender, model, lora, rounds), "memory": once - plain}
    return result


def _print(result: Mapping[str, Any]) -> None:
    columns = ["", "file to first step", "used before", "step", "step with LoRA", "memory", "of what is touched"]
    rows = []
    for contender in _CONTENDERS:
        figures = result[contender]
        plain, with_lora = figures["plain"], figures["lora"]
        again = median(with_lora["before"]) - median(plain["before"])
        rows.append(
            [
                contender,
                f"{figures['to first step']:.2f} s",
                f"{again * 1000:.0f} ms",
                f"{median(plain['step']):.2f} s",
                f"{median(with_lora['step']):.2f} s",
                megabytes(figures["memory"]),
                f"{figures['memory'] / result['touched']:.2f}",
            ]
        )
    print_table(f"LoRA of rank {result['rank']}, {megabytes(result['touched'])} of weights", columns, rows)


def main() -> None:
    """Reads the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task is not None:
        contender, model, lora, rounds = json.loads(arguments.task)
        print(json.dumps(_CONTENDERS[contender](Path(model), None if lora is None else Path(lora), rounds)))
        return
    if arguments.bundle is None or arguments.checkpoint is None:
        parser.error("give BUNDLE and CHECKPOINT, the diffusers folder that it was built from")
    result = study(arguments.bundle, arguments.checkpoint, arguments.rank, arguments.rounds)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1), "utf-8")
    _print(result)


if __name__ == "__main__":
    main()
