"""A training loop that ends on time, can be stopped and resumed, and is seeded step by step.

Used by `90_train_emoji.py` for both of its stages, by `91_train_lora.py` and by `92_train_control.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Loss = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""loss_of(indices (B,) int64, generator) → scalar."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one stage learns (AdamW)."""

    batch: int
    rate: float
    ema: float  # of the averaged weights, a step
    weight_decay: float = 0.01
    warmup: float = 0.02  # share of the run in which the rate rises; then it falls as a cosine to zero


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call: how long, from where, to where."""

    seed: int
    minutes: float  # of this stage, over all resumptions
    steps: int | None  # where given, ends the stage instead of the minutes
    work: Path
    out: Path
    backend: str = "eager"  # of the U-Net in training, or inductor: torch.compile
    save_every: float = 180.0  # seconds


def rate_factor(progress: float, warmup: float) -> float:
    """Learning-rate factor at a share `progress` of the run: a linear rise, then half a cosine to zero."""
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))


def epsilon_loss(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    z: torch.Tensor,
    alphas: torch.Tensor,
    generator: torch.Generator,
    *,
    snr_floor: float,
    snr_gamma: float,
) -> torch.Tensor:
    """The mean square error of the predicted noise, weighted by timestep.

    Weights min(snr, gamma) / snr (min-SNR, Hang et al. 2023, eq. 8) let the noisiest steps, where the prompt decides
    what is drawn, count for next to nothing: the floor gives them the weight of a mean error of x0.

    Args:
        predict: (noisy latents (B, C, h, w), timesteps (B,) int64) → the noise in them.
        z: scaled latents (B, C, h, w).
        alphas: ᾱ by timestep.
        generator: of timesteps and noise.
    """
    # one timestep from each of B equal slices of the schedule: unbiased, and calmer than B free draws
    t = (torch.randperm(len(z), generator=generator) + torch.rand(len(z), generator=generator)) / len(z)
    t = (t * len(alphas)).long().clamp(max=len(alphas) - 1)
    alpha = alphas[t].view(-1, 1, 1, 1)
    noise = torch.randn(z.shape, generator=generator)
    noisy = (alpha.sqrt() * z + (1 - alpha).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    predicted = predict(noisy, t).float()
    snr = alphas[t] / (1 - alphas[t])
    weight = snr.clamp(min=snr_floor, max=snr_gamma) / snr
    return (weight * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()


def batch_indices(step: int, batch: int, count: int, seed: int) -> torch.Tensor:
    """Which samples step number `step` sees: seeded permutations laid end to end, so resuming is exact."""
    picked: list[torch.Tensor] = []
    position, wanted = step * batch, batch
    while wanted:
        epoch, offset = divmod(position, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        part = order[offset : offset + wanted]
        picked.append(part)
        position, wanted = position + len(part), wanted - len(part)
    return torch.cat(picked)


def train(
    stage: str,
    modules: torch.nn.ModuleDict,
    loss_of: Loss,
    count: int,
    pace: Pace,
    run: Run,
) -> torch.nn.ModuleDict:
    """Train to the end of the budget, from work/<stage>.pt where it is there; returns the averaged modules.

    loss_of(indices, generator) is called under bfloat16 autocast. The average is exponential, pace.ema.
    """
    file = run.work / f"{stage}.pt"
    decay = [p for p in modules.parameters() if p.ndim > 1]
    plain = [p for p in modules.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay}, {"params": plain, "weight_decay": 0.0}],
        lr=pace.rate,
        betas=(0.9, 0.99),
        weight_decay=pace.weight_decay,
        fused=True,
    )
    average = {k: v.detach().clone() for k, v in modules.state_dict().items()}
    step, elapsed = 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, elapsed = state["average"], state["step"], state["elapsed"]
        print(f"{stage}: goes on from step {step}, {elapsed / 60:.1f} minutes", flush=True)

    def progress() -> float:
        return (step / run.steps if run.steps else 1.0) if run.steps is not None else elapsed / (60 * run.minutes)

    def save() -> None:
        temporary = file.with_suffix(".tmp")
        torch.save(
            {
                "modules": modules.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step,
                "elapsed": elapsed,
            },
            temporary,
        )
        temporary.replace(file)

    modules.train()
    current = [v for v in modules.state_dict().values() if v.is_floating_point()]  # the parameters themselves
    averaged = [average[k] for k, v in modules.state_dict().items() if v.is_floating_point()]
    first = step
    smooth, saved, shown = math.nan, time.monotonic(), time.monotonic()
    while progress() < 1:
        began = time.monotonic()
        factor = rate_factor(max(progress(), 1e-3), pace.warmup)
        for group in optimizer.param_groups:
            group["lr"] = pace.rate * factor
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(batch_indices(step, pace.batch, count, run.seed), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        keep = min(pace.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, current, 1 - keep)
        elapsed += time.monotonic() - began
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RuntimeError(
                f"{stage}: got loss {value} at step {step}, expected a finite one; "
                f"go on from the last checkpoint with a lower rate"
            )
        smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            print(
                f"{stage}: step {step}, {100 * progress():.1f} %, {elapsed / 60:.1f} min, "
                f"loss {smooth:.4f}, rate {pace.rate * factor:.2e}, {time.monotonic() - began:.2f} s a step",
                flush=True,
            )
        if time.monotonic() - saved > run.save_every:
            save()
            saved = time.monotonic()
    if step > first:
        save()
        print(f"{stage}: {step} steps in {elapsed / 60:.1f} minutes, loss {smooth:.4f}", flush=True)
    modules.load_state_dict(average)
    return modules.eval()
