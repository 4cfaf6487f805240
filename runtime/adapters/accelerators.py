"""LoRAs that let a model draw in few steps: known by their names and metadata, and the settings that they need."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from latentrt.runtime.sampling.samplers import Sampler

_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])")
_GUIDED = re.compile(r"(?<![a-z])(?:cfg|normalcfg)(?![a-z])")  # of Hyper-SD and PCM those that keep guidance
_MOST = 32  # steps; what is more is no number of steps
_HYPER = r"(?<![a-z])hyper[-_ ]?(?:sd|xl)"
_OFF = (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A way to draw in few steps.

    Attributes:
        label: what it is called, with its article.
        pattern: how its files are called, in lower case.
        samplers: those that fit; the first is advised.
        steps: the fewest and the most.
        advised_steps: how many to take.
        guidance: the least and the largest scale; 1 is none.
        advised_guidance: the scale to take.
        trailing: whether samplers that choose among timesteps must take them from the end.
        options: of the advised sampler.
        timesteps: those that its authors draw with.
        steps_in_name: whether a number of steps in a file's name is the one to take.
        guided: guidance of files whose names say that they keep it.
    """

    label: str
    pattern: str
    samplers: tuple[str, ...]
    steps: tuple[int, int]
    advised_steps: int
    guidance: tuple[float, float] = _OFF
    advised_guidance: float = 1.0
    trailing: bool = False
    options: tuple[tuple[str, float], ...] = ()
    timesteps: tuple[int, ...] = ()
    steps_in_name: bool = False
    guided: tuple[float, float] | None = None

    def needs(self) -> str:
        """What fits, in words."""
        fewest, most = self.steps
        low, high = self.guidance
        steps = f"{fewest} step{'s' * (fewest > 1)}" if fewest == most else f"{fewest} to {most} steps"
        spacing = " with trailing timesteps" if self.trailing else ""
        guidance = "no guidance" if high <= 1.0 else f"guidance {low:g} to {high:g}"
        return f"sampler {' or '.join(self.samplers)}{spacing}, {steps} and {guidance}"

    def settings(self) -> dict[str, Any]:
        """Keywords of a call that fit."""
        options: dict[str, Any] = dict(self.options)
        if self.trailing:
            options["timestep_spacing"] = "trailing"
        steps = {"timesteps": [*self.timesteps]} if self.timesteps else {"num_inference_steps": self.advised_steps}
        sampler = Sampler(name=self.samplers[0], **options) if options else self.samplers[0]
        return {"sampler": sampler, **steps, "guidance_scale": self.advised_guidance}

    def advice(self) -> str:
        """The same as one writes it."""
        return ", ".join(f"{name}={_written(value)}" for name, value in self.settings().items())


def _written(value: Any) -> str:
    if isinstance(value, Sampler):
        options = ", ".join(f"{name}={_written(wish)}" for name, wish in value.wishes.items())
        return f"latentrt.Sampler(name={value.name!r}, {options})"
    return f"{value:g}" if isinstance(value, float) else repr(value)


# Sources: the model cards of latent-consistency/lcm-lora-*, ByteDance/SDXL-Lightning, ByteDance/Hyper-SD,
# tianweiy/DMD2, h1t/TCD-*-LoRA, wangfuyun/PCM_Weights, jasperai/flash-* and shiroppo/sd_xl_turbo_lora.
# The first that fits counts
ACCELERATORS = (
    Accelerator(
        label="a Lightning LoRA",
        # "lightning" alone is what it draws
        pattern=rf"(?:sd|xl)[-_ ]?lightning|lightning[-_ ]?(?:xl|sd|lora)|lightning.*{_STEPS.pattern}",
        samplers=("euler",),
        steps=(2, 8),
        advised_steps=4,
        trailing=True,
        steps_in_name=True,
    ),
    Accelerator(
        label="a Hyper-SD LoRA of one step",
        pattern=rf"{_HYPER}.*(?<!\d)1[-_ ]?steps?(?![a-z])|(?<![a-z])hyper[-_ ]?1[-_ ]?steps?(?![a-z])",
        samplers=("tcd",),
        steps=(1, 8),
        advised_steps=1,
        options=(("eta", 1.0),),
    ),
    Accelerator(
        label="a Hyper-SD LoRA",
        pattern=rf"{_HYPER}|(?<![a-z])hyper[-_ ]?\d{{1,2}}[-_ ]?steps?(?![a-z])",
        samplers=("ddim", "tcd"),
        steps=(2, 12),
        advised_steps=4,
        trailing=True,
        steps_in_name=True,
        guided=(5.0, 8.0),
    ),
    Accelerator(
        label="a DMD2 LoRA",
        pattern=r"(?<![a-z])dmd2?(?![a-z])",
        samplers=("lcm",),
        steps=(4, 8),
        advised_steps=4,
        timesteps=(999, 749, 499, 249),
    ),
    Accelerator(
        label="a PCM LoRA like LCM's",
        pattern=r"(?<![a-z])pcm(?![a-z]).*lcm[-_ ]?like",
        samplers=("lcm",),
        steps=(2, 16),
        advised_steps=4,
        guidance=(1.0, 2.0),
    ),
    Accelerator(
        label="a PCM LoRA",
        pattern=r"(?<![a-z])pcm(?![a-z])",
        samplers=("ddim", "tcd", "euler"),
        steps=(2, 16),
        advised_steps=4,
        guidance=(1.0, 2.0),
        trailing=True,
        steps_in_name=True,
        guided=(3.0, 8.0),
    ),
    Accelerator(
        label="a TCD-LoRA",
        pattern=r"(?<![a-z])tcd(?![a-z])",
        samplers=("tcd",),
        steps=(4, 50),
        advised_steps=4,
        options=(("eta", 0.3),),
    ),
    Accelerator(
        label="a Flash Diffusion LoRA",
        pattern=r"(?<![a-z])flash[-_ ]?(?:diffusion|sd|xl)",
        samplers=("lcm",),
        steps=(2, 8),
        advised_steps=4,
    ),
    Accelerator(
        label="an LCM-LoRA",
        pattern=r"(?:(?<![a-z])|(?<=animate))lcm(?![a-z])|(?<![a-z])lcm(?:lora|turbo)",
        samplers=("lcm",),
        steps=(2, 8),
        advised_steps=4,
        guidance=(1.0, 2.0),
        advised_guidance=1.5,
    ),
    Accelerator(
        label="a Turbo LoRA",
        pattern=r"(?:sd|xl|sd[-_ ]?(?:1[-_. ]?5|2[-_. ]?1))[-_ ]?turbo|turbo[-_ ]?(?:lora|xl)",
        samplers=("euler_a", "euler", "lcm"),
        steps=(1, 8),
        advised_steps=4,
        guidance=(1.0, 2.5),
        trailing=True,
    ),
)


def accelerator_in(names: Iterable[str]) -> Accelerator | None:
    """The accelerator that one of the names of a file tells of, with the number of steps that it tells; else None.

    Args:
        names: the best first.
    """
    for name in map(str.lower, names):
        for accelerator in ACCELERATORS:
            if re.search(accelerator.pattern, name):
                return _of_name(accelerator, name)
    return None


def _of_name(accelerator: Accelerator, name: str) -> Accelerator:
    """What a file's name says of how to draw with it."""
    told = next((steps for found in _STEPS.findall(name) if 1 <= (steps := int(found)) <= _MOST), None)
    if accelerator.steps_in_name and told is not None:
        accelerator = replace(accelerator, steps=(told, told), advised_steps=told)
    if accelerator.guided is not None and _GUIDED.search(name):
        low, _ = accelerator.guided
        accelerator = replace(accelerator, guidance=accelerator.guided, advised_guidance=low)
    return accelerator
