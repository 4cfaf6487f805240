"""The shapes that a component is drawn with most: for these a graph of its own is compiled."""

from latentrt.engines.bundle.component import Component, StaticShape
from latentrt.engines.shapes import Shapes

InputShapes = dict[str, tuple[int, ...]]


def in_halves(component: Component) -> bool:
    """Whether the halves of a batch run at once, on cores of their own: where a call has both halves of guidance.

    A step of SD 1.5's U-Net takes a quarter less time so (two cores with AMX, bfloat16).
    """
    return component.kind.halves and component.record.batch_per_picture > 1


def shapes_of(static: StaticShape) -> InputShapes:
    """Of the inputs of a static shape."""
    return {name: tensor.sized(static.spec.batches[0]) for name, tensor in static.spec.inputs.items()}


def usual_shapes(component: Component) -> list[InputShapes]:
    """For each profile one picture, without guidance and with it, and as many as the profile holds.

    What runs in halves has graphs for half of the samples: of one picture with guidance that is one sample. Of what
    decodes a video together, a chunk and the whole.
    """
    found: list[InputShapes] = []
    halves = 2 if in_halves(component) else 1
    for profile in component.manifest.profiles:
        spec = component.spec_of_any_batch(Shapes(profile=profile))
        largest = spec.batches[-1]
        batches = {1, component.record.batch_per_picture // halves, largest // halves}
        if component.kind.exact_batch:
            batches = {component.fixed_batches(profile)[-1], largest}
        for batch in sorted(batches):
            shapes = {name: tensor.sized(batch) for name, tensor in spec.inputs.items()}
            if shapes not in found:
                found.append(shapes)
    return found
