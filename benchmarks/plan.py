"""What a benchmark shall measure."""

from dataclasses import dataclass
from pathlib import Path

PROMPTS = ("cat", "crying face", "strawberry", "sunflower", "frog", "red apple", "dog face", "octopus")
SAMPLER = "DPM++ 2M, Karras"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it.

    ``batches``, ``sizes`` and ``step_counts`` are what throughput and scaling vary; an empty one leaves that out.
    ``resident`` keeps all contenders open; None does so where the memory allows it. ``icons`` are an .npz of
    examples/emoji_data.py, of whose trained names every ``icons_every``-th is drawn; ``clip`` is a folder of a CLIP
    model with both towers.
    """

    bundles: tuple[Path, ...]
    backends: tuple[str, ...]
    checkpoint: Path | None
    against: tuple[str, ...]
    peers: Path
    prompts: tuple[str, ...]
    seed: int
    steps: int
    guidance_scale: float
    width: int
    height: int
    runs: int
    cold_runs: int
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    step_counts: tuple[int, ...]
    varied_runs: int
    resident: bool | None
    threads: int | None
    timeout: float
    icons: Path | None
    icons_every: int
    clip: Path | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of draw."""

    width: int
    height: int
    batch: int
    steps: int

    def request(self, plan: Plan, prompt: int = 0) -> dict[str, object]:
        """The draw as a worker takes it, from the plan's prompts in turn."""
        places = range(prompt, prompt + self.batch)
        return {
            "do": "draw",
            "prompts": [plan.prompts[place % len(plan.prompts)] for place in places],
            "seeds": [plan.seed + place for place in places],
            "steps": self.steps,
            "guidance": plan.guidance_scale,
            "width": self.width,
            "height": self.height,
        }


def base_case(plan: Plan) -> Case:
    """One picture at the size and steps of the plan."""
    return Case(width=plan.width, height=plan.height, batch=1, steps=plan.steps)
