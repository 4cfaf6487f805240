"""What a prompt may be made of before its text is read: several prompts that are composed, each changing on the way."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PromptPart:
    """One of the prompts that a picture is composed of, and how much it counts."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class StepCount:
    """Of how many steps a run is.

    Attributes:
        steps: that the run takes, at least 1.
        before: those of the run that it goes on with, in the second pass of a hires fix; None in any other run.
    """

    steps: int
    before: int | None = None


ONE_STEP = StepCount(steps=1)


def one_prompt(text: str) -> tuple[PromptPart, ...]:
    """The prompt that is composed of nothing else."""
    return (PromptPart(text=text),)


def unchanging(text: str, steps: StepCount) -> tuple[str, ...]:
    """The one text of a prompt that is the same at every step."""
    return (text,)
