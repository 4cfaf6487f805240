"""Which step of a run a model call belongs to, and which steps lie between two shares of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.runtime.sampling.schedule import Level, Step

_SAME = 1.0 - 1e-9  # two noise levels that differ by rounding only


def step_ratios(steps: Sequence[Step]) -> tuple[float, ...]:
    """The noise-to-signal ratios of steps, descending, each once: PNDM visits one timestep twice."""
    return tuple(dict.fromkeys(step.level.ratio for step in steps))


def step_at(ratios: Sequence[float], level: Level) -> int:
    """The step that a model call belongs to: one between two steps belongs to the one that it comes after."""
    return max(sum(ratio >= level.ratio * _SAME for ratio in ratios) - 1, 0)


def steps_between(start: float, end: float, count: int) -> tuple[bool, ...]:
    """Of so many steps, which lie between two shares of the run: on but where i/n < start or (i + 1)/n > end."""
    return tuple(index / count >= start and (index + 1) / count <= end for index in range(count))


@dataclass(frozen=True, kw_only=True)
class ActiveSteps:
    """The steps of a run in which something is on: ``ratios`` are its steps', ``active`` says it of each."""

    ratios: tuple[float, ...]
    active: tuple[bool, ...]

    def at(self, level: Level) -> bool:
        """Whether it is on at a noise level."""
        return self.active[step_at(self.ratios, level)]


def active_steps(steps: Sequence[Step], start: float, end: float) -> ActiveSteps:
    """Those between two shares of a run.

    Args:
        steps: that the run takes; image-to-image takes the last ones of its schedule.
        start: the share, 0 to 1, that passes before.
        end: the share after which it is over.
    """
    ratios = step_ratios(steps)
    return ActiveSteps(ratios=ratios, active=steps_between(start, end, len(ratios)))
