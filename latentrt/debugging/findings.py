"""What a comparison of all tensors tells: where two sides part, and how errors grow from module to module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from latentrt.debugging.drawn_runs import Drawing
from latentrt.debugging.figures import Figures
from latentrt.debugging.marks import Mark
from latentrt.engines.bundle.checks.parity import Parity
from latentrt.engines.graphs.islands import Island

_NUMBERS = 2  # of a module's path, from its beginning, that a row of the table tells apart


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tensor and its figures; ``takes`` is the worst error of what its node takes."""

    mark: Mark
    figures: Figures
    takes: float


@dataclass(frozen=True, kw_only=True)
class ModuleRow:
    """A module with all inside of it.

    Attributes:
        module: its path.
        takes: the worst error of what comes from other modules.
        figures: the worst of its tensors.
        tensors: how many were compared.
    """

    module: str
    takes: float
    figures: Figures
    tensors: int


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Islands that were tried.

    Attributes:
        islands: what is in fp32 then, beside the islands that there are.
        error: the worst relative error of the component's results with them.
        limit: what that may be.
        not_finite: numbers that are infinite or NaN all the same, in all tensors.
    """

    islands: tuple[Island, ...]
    error: float
    limit: float
    not_finite: int

    @property
    def mends(self) -> bool:
        """Whether the component is as it should be with them."""
        return not self.not_finite and self.error <= self.limit


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found.

    Attributes:
        component: its name.
        suspect: what the side in question is called.
        reference: what it was held against.
        runs: how many were repeated.
        drawing: the picture that they are of; None: they were recorded as the bundle was built.
        tolerance: the relative error from which on two sides are apart.
        gate: what the component must reach in its precision.
        end: the largest number of the suspect's precision; infinity of one with fp32's range.
        places: every tensor that was compared, in the order in which it is computed.
        hidden: tensors that a side cannot show.
        rescaled: tensors that SmoothQuant divides, which were left out.
        torch: how near to the recorded outputs each side is.
        different_weights: of the first node that is apart, the weights that differ between two bundles, and how far.
        suggestion: islands, if some were asked for.
    """

    component: str
    suspect: str
    reference: str
    runs: int
    drawing: Drawing | None
    tolerance: float
    gate: Parity
    end: float
    places: tuple[Place, ...]
    hidden: int
    rescaled: int
    torch: Mapping[str, Parity]
    different_weights: Mapping[str, float] = field(default_factory=dict)
    suggestion: Suggestion | None = None

    @property
    def apart(self) -> Place | None:
        """The first tensor that is further off than the tolerance."""
        return next((place for place in self.places if place.figures.error > self.tolerance), None)

    @property
    def not_finite(self) -> Place | None:
        """The first tensor with infinity or NaN that the reference does not have."""
        return next((place for place in self.places if place.figures.not_finite), None)

    @property
    def furthest(self) -> Place | None:
        """The tensor in sixteen bits with the largest numbers; masks are full of those at the range's very end."""
        among = (place for place in self.places if place.mark.narrow and place.figures.expected != self.end)
        return max(among, key=lambda place: place.figures.expected, default=None)

    @property
    def reference_off(self) -> bool:
        """Whether the reference itself is further from what was recorded than two sides may be."""
        return "reference" in self.torch and not self.torch["reference"].relative_error <= self.tolerance

    @property
    def worst(self) -> Place | None:
        """The tensor that is furthest off."""
        return max(self.places, key=lambda place: place.figures.error, default=None)

    @property
    def modules(self) -> tuple[ModuleRow, ...]:
        """How errors grow, from module to module."""
        return module_rows(self.places)


def places_of(marks: Sequence[Mark], figures: Mapping[str, Figures]) -> tuple[Place, ...]:
    """Figures with what their nodes take; a tensor that was not compared counts by what it was made of."""
    errors: dict[str, float] = {}
    places = []
    for mark in marks:
        takes = max((errors.get(source, 0.0) for source in mark.sources), default=0.0)
        known = figures.get(mark.tensor)
        errors[mark.tensor] = takes if known is None else known.error
        if known is not None:
            places.append(Place(mark=mark, figures=known, takes=takes))
    return tuple(places)


def module_rows(places: Sequence[Place]) -> tuple[ModuleRow, ...]:
    """Places put together by module, as deep as a residual block, a transformer or a layer."""
    modules: dict[str, list[Place]] = {}
    for place in places:
        modules.setdefault(short(place.mark.module), []).append(place)
    rows = []
    for module, inside in modules.items():
        worst = inside[0].figures
        for place in inside[1:]:
            worst = worst.worse(place.figures)
        made = {place.mark.tensor for place in inside}
        entering = [place.takes for place in inside if not made.issuperset(place.mark.sources)]
        rows.append(ModuleRow(module=module, takes=max(entering, default=0.0), figures=worst, tensors=len(inside)))
    return tuple(rows)


def short(module: str) -> str:
    """A path up to its second number, as in ``down_blocks.1.attentions.0``, or else to its last."""
    parts = module.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[min(len(numbers), _NUMBERS) - 1] + 1]) if numbers else module
