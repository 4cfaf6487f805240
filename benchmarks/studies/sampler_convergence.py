"""The samplers side by side on the embedded model: what they draw in few steps, and how fast they get there.

    python -m latentrt.benchmarks.studies.sampler_convergence [--out DIR] [--prompt TEXT] [--longest STEPS]

Writes samplers.jpg, a contact sheet of samplers × steps, and convergence.png: the distance to a sampler's own
answer after 1000 steps against the number of model calls. Samplers that add noise have no such answer: with other
steps they take other noise, so they are on the sheet only. EDM's preconditioning is for models trained with it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import latentrt
from latentrt.cli.contact_sheet import Side, contact_sheet
from latentrt.cli.terminal import print_table, step_bar
from latentrt.models import EMBEDDED
from latentrt.runtime.sampling.sampler_table import SAMPLERS

STEPS = (1, 2, 4, 8, 16, 32)
GUIDANCE = 3.0
SEED = 3
Curve = list[tuple[int, float]]
"""Model calls and ‖x − a‖ / ‖a‖ of the latents to the answer, by number of steps."""
_LEFT_OUT = {"edm_euler"}
_FAMILIES = ("ddim", "pndm", "euler", "heun", "kdpm_2", "lms", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "deis", "unipc")


def drawn(pipe: latentrt.Pipeline, name: str, steps: int, prompt: str, spacing: str) -> latentrt.Result:
    """One picture."""
    sampler = latentrt.Sampler(name=name, timestep_spacing=spacing)
    return pipe(prompt, sampler=sampler, num_inference_steps=steps, guidance_scale=GUIDANCE, seed=SEED)


def convergence(pipe: latentrt.Pipeline, prompt: str, longest: int) -> dict[str, Curve]:
    """The curve of every deterministic sampler."""
    names = [name for name in SAMPLERS if name.removesuffix("_k") in _FAMILIES]
    curves: dict[str, Curve] = {}
    with step_bar("convergence") as progress:
        for done, name in enumerate(names):
            # From the noisiest timestep to the least noisy one, whatever the number of steps: for whole timesteps
            # that is "trailing", for k-diffusion's and the DPM-Solver family's "linspace".
            spacing = "trailing" if SAMPLERS[name].sigma_spacing is None else "linspace"
            # the DPM-Solver family divides the timesteps by N + 1, so that it has one step less at most
            most = longest - 1 if name.startswith(("dpmpp", "deis", "unipc")) else longest
            answer = drawn(pipe, name, most, prompt, spacing).latents
            results = [drawn(pipe, name, steps, prompt, spacing) for steps in (*STEPS, 64, 128)]
            errors = [float(np.linalg.norm(one.latents - answer) / np.linalg.norm(answer)) for one in results]
            curves[name] = [(one.timings.unet_calls, error) for one, error in zip(results, errors, strict=True)]
            progress(done + 1, len(names))
    return curves


def plot(curves: dict[str, Curve], path: Path) -> None:
    """Two panels, the model's own timesteps and Karras's, with the same colour for the same solver."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, suffix, title in zip(panels, ("", "_k"), ("the model's timesteps", "Karras sigmas"), strict=True):
        for index, family in enumerate(_FAMILIES):
            if family + suffix in curves:
                calls, errors = zip(*curves[family + suffix], strict=True)
                style = {"ls": "--" if SAMPLERS[family].calls_per_step == 2 else "-", "marker": "o", "ms": 3}
                color = mpl.colormaps["tab20"](index)
                panel.loglog(calls, errors, color=color, label=SAMPLERS[family].label, **style)
        panel.set(title=title, xlabel="U-Net calls")
        panel.grid(True, which="both", alpha=0.2)
        panel.set_xticks([2**power for power in range(8)], [str(2**power) for power in range(8)])
    panels[0].set_ylabel("distance to the sampler's own 1000-step latents")
    panels[0].legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)


def sheet(pipe: latentrt.Pipeline, prompt: str) -> Image.Image:
    """Every sampler × every number of steps, in two blocks side by side."""
    names = [name for name in SAMPLERS if name not in _LEFT_OUT]
    pictures: dict[str, list[Image.Image]] = {}
    with step_bar("contact sheet") as progress:
        for done, name in enumerate(names):
            # "trailing", so that one step begins in noise, too
            results = [drawn(pipe, name, steps, prompt, "trailing") for steps in STEPS]
            pictures[name] = [image for one in results for image in one.images if isinstance(image, Image.Image)]
            progress(done + 1, len(names))
    half = (len(names) + 1) // 2
    blocks = [
        contact_sheet(
            [picture for name in block for picture in pictures[name]],
            Side(labels=block),
            Side(labels=list(map(str, STEPS)), name="steps"),
            size=(64, 64),
            smallest=64,
        )
        for block in (names[:half], names[half:])
    ]
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
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    bundle = latentrt.build(EMBEDDED, chosen.out / "emoji.bundle").bundle
    with latentrt.open(bundle.root) as pipe:
        sheet(pipe, chosen.prompt).save(chosen.out / "samplers.jpg", quality=92)
        curves = convergence(pipe, chosen.prompt, chosen.longest)
    (chosen.out / "convergence.json").write_text(json.dumps(curves, indent=1), "utf-8")
    plot(curves, chosen.out / "convergence.png")
    rows = [(name, *(f"{error:.1e}" for _, error in curve)) for name, curve in curves.items()]
    print_table("distance after … steps", ("sampler", *map(str, (*STEPS, 64, 128))), rows)


if __name__ == "__main__":
    main()
