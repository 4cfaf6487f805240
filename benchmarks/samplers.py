"""The samplers side by side on the embedded model: what they draw in few steps, and how fast they get there.

    python -m latentrt.benchmarks.samplers [--out out/samplers] [--prompt "crying face"] [--longest 1000]

Writes samplers.jpg, a contact sheet of samplers × steps, and convergence.png: the distance to a sampler's own
answer after 1000 steps against the number of model calls. Samplers that add noise have no such answer: with other
steps they take other noise, so they are on the sheet only. EDM's preconditioning is for models trained with it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import latentrt
from latentrt.cli.demo import contact_sheet
from latentrt.cli.terminal import print_table, step_bar
from latentrt.engines.spec import Array
from latentrt.models import EMBEDDED
from latentrt.runtime.sampling.sampler_table import SAMPLERS

STEPS = (1, 2, 4, 8, 16, 32)
GUIDANCE = 3.0
SEED = 3
_LEFT_OUT = {"edm_euler"}
_FAMILIES = ("ddim", "pndm", "euler", "heun", "kdpm_2", "lms", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "deis", "unipc")


def drawn(pipe: latentrt.Pipeline, sampler: str, steps: int, prompt: str, spacing: str) -> latentrt.Result:
    """One picture."""
    wanted = latentrt.Sampler(name=sampler, timestep_spacing=spacing)
    return pipe(prompt, sampler=wanted, num_inference_steps=steps, guidance_scale=GUIDANCE, seed=SEED)


def distance(latents: Array, answer: Array) -> float:
    """Relative: ‖x − a‖ / ‖a‖."""
    return float(np.linalg.norm(latents - answer) / np.linalg.norm(answer))


def convergence(pipe: latentrt.Pipeline, prompt: str, longest: int) -> dict[str, list[tuple[int, float]]]:
    """(model calls, distance) of every deterministic sampler at every number of steps."""
    names = [name for name in SAMPLERS if name.removesuffix("_k") in _FAMILIES]
    curves: dict[str, list[tuple[int, float]]] = {}
    with step_bar("convergence") as progress:
        for done, name in enumerate(names):
            # From the noisiest timestep to the least noisy one, whatever the number of steps: for whole timesteps
            # that is "trailing", for k-diffusion's and the DPM-Solver family's "linspace".
            spacing = "trailing" if SAMPLERS[name].sigma_spacing is None else "linspace"
            # the DPM-Solver family divides the timesteps by N + 1, so that it has one step less at most
            most = longest - 1 if name.startswith(("dpmpp", "deis", "unipc")) else longest
            answer = drawn(pipe, name, most, prompt, spacing).latents
            results = [drawn(pipe, name, steps, prompt, spacing) for steps in (*STEPS, 64, 128)]
            curves[name] = [(r.timings.unet_calls, distance(r.latents, answer)) for r in results]
            progress(done + 1, len(names))
    return curves


def plot(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Two panels, the model's own timesteps and Karras's, with the same colour for the same solver."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    colours: Any = mpl.colormaps["tab20"]
    for panel, suffix, title in zip(panels, ("", "_k"), ("the model's timesteps", "Karras sigmas"), strict=True):
        for index, family in enumerate(_FAMILIES):
            curve = curves.get(family + suffix)
            if curve is None:
                continue
            style = "--" if SAMPLERS[family].calls_per_step == 2 else "-"
            panel.loglog(
                *zip(*curve, strict=True), style, marker="o", ms=3, color=colours(index), label=SAMPLERS[family].label
            )
        panel.set_title(title)
        panel.set_xlabel("U-Net calls")
        panel.grid(True, which="both", alpha=0.2)
        panel.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
    panels[0].set_ylabel("distance to the sampler's own 1000-step latents")
    panels[0].legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def sheet(pipe: latentrt.Pipeline, prompt: str) -> Image.Image:
    """Every sampler × every number of steps, in two blocks side by side."""
    names = [name for name in SAMPLERS if name not in _LEFT_OUT]
    half = (len(names) + 1) // 2
    blocks = []
    with step_bar("contact sheet") as progress:
        done = 0
        for block in (names[:half], names[half:]):
            pictures = []
            for name in block:
                for steps in STEPS:
                    # "trailing", so that one step begins in noise, too
                    (picture,) = drawn(pipe, name, steps, prompt, "trailing").images
                    assert isinstance(picture, Image.Image)
                    pictures.append(picture)
                done += 1
                progress(done, len(names))
            blocks.append(contact_sheet(pictures, block, [str(steps) for steps in STEPS], scale=1, label=120))
    whole = Image.new("RGB", (sum(b.width for b in blocks), max(b.height for b in blocks)), "white")
    whole.paste(blocks[0], (0, 0))
    whole.paste(blocks[1], (blocks[0].width, 0))
    return whole


def main() -> None:
    """Draws, writes, and prints the distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/samplers"))
    parser.add_argument("--prompt", default="crying face")
    parser.add_argument("--longest", type=int, default=1000, help="steps of the answer that distances are taken to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bundle = latentrt.build(EMBEDDED, arguments.out / "emoji.bundle").bundle
    with latentrt.open(bundle.root) as pipe:
        sheet(pipe, arguments.prompt).save(arguments.out / "samplers.jpg", quality=92)
        curves = convergence(pipe, arguments.prompt, arguments.longest)
    (arguments.out / "convergence.json").write_text(json.dumps(curves, indent=1), "utf-8")
    plot(curves, arguments.out / "convergence.png")
    rows = [(name, *(f"{error:.1e}" for calls, error in curve)) for name, curve in curves.items()]
    print_table("distance after … steps", ("sampler", *map(str, (*STEPS, 64, 128))), rows)


if __name__ == "__main__":
    main()
