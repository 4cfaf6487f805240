"""What backends of fixed shapes share: which of the shapes that were compiled a call runs, and what fills them up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from latentrt.engines.bundle.component import Component, StaticShape
from latentrt.engines.bundle.kinds import Planes
from latentrt.engines.bundle.unet.added_inputs import FIXED_IMAGE_PROMPTS, FIXED_IMAGE_TOKENS, added_text
from latentrt.engines.bundle.usual_backend import or_on_cpu
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import AddedInputs, Loop, Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor


def check_added(component: Component, shapes: Shapes) -> None:
    """Refuses added inputs that a component's engine does not take.

    Raises:
        EngineError: some that it was not compiled for.
        RequestError: more image prompts than it was compiled for, or of another number of tokens.
    """
    label = component.label
    if not shapes.added <= component.added:
        raise EngineError(
            f"got a call that adds {added_text(shapes.added)}, but the engine of {label} was not compiled for it; "
            f"build one with --with {added_text(shapes.added)}"
        )
    if AddedInputs.IMAGE_PROMPT not in shapes.added:
        return
    cpu = or_on_cpu(component.manifest)
    if shapes.image_prompts > FIXED_IMAGE_PROMPTS:
        raise RequestError(
            f"got {shapes.image_prompts} image prompts at once, but the engine of {label} was compiled for "
            f"{FIXED_IMAGE_PROMPTS}; give fewer{cpu}"
        )
    if FIXED_IMAGE_TOKENS % shapes.image_tokens:
        raise RequestError(
            f"got image prompts of {shapes.image_tokens} tokens, but the engine of {label} was compiled for "
            f"{FIXED_IMAGE_TOKENS}, which 4 and 8 go into; choose adapters of so many tokens{cpu}"
        )


def index_of_shape(component: Component, compiled: Sequence[StaticShape], shapes: Shapes) -> int:
    """Which of the compiled shapes a call runs; where tiles may come, the smallest that holds another size.

    Raises:
        RequestError: none of them holds it.
    """
    profile, holds_less = shapes.profile, component.kind.planes is Planes.PICTURE
    label = component.label
    known = [str(served) for shape in compiled for served in shape.profiles]
    if shapes.chunks > 1:
        raise RequestError(
            f"got a prompt of {shapes.chunks} chunks, but the engine of {label} was compiled for "
            f"prompts of one; shorten the prompt{or_on_cpu(component.manifest)}"
        )
    for index, shape in enumerate(compiled):
        if profile in shape.profiles:
            return index
    # Tiles have sizes that are no profile's
    holding = [
        (served.width * served.height, index)
        for index, shape in enumerate(compiled)
        for served in shape.profiles
        if served.width >= profile.width and served.height >= profile.height and holds_less
    ]
    if not holding:
        raise RequestError(
            f"got size {profile.width}x{profile.height}, but the engine of {label} was compiled for "
            f"{', '.join(known)}; ask for one of these, or build again with --profile "
            f"{profile.width}x{profile.height}"
        )
    return min(holding)[1]


def indices_of_shape(component: Component, compiled: Sequence[StaticShape], shapes: Shapes) -> tuple[int, ...]:
    """Those of the compiled shapes that a call may run: one, or one for each batch that may not be filled up.

    Raises:
        RequestError: none of them holds it.
    """
    first = index_of_shape(component, compiled, shapes)
    if not component.kind.exact_batch:
        return (first,)
    inputs = compiled[first].spec.inputs
    return tuple(index for index, shape in enumerate(compiled) if shape.spec.inputs == inputs)


class ExactEngine(ClosesItself):
    """An ``Engine`` of several batches, each compiled apart: what comes has one of these, and nothing is filled up."""

    def __init__(self, batches: Mapping[int, Callable[[], Engine]], spec: EngineSpec) -> None:
        """Takes what opens the engine of each batch; it is opened when a call first needs it.

        Args:
            batches: by batch.
            spec: of any of them.
        """
        self.spec = replace(spec, batches=tuple(sorted(batches)))
        self._batches, self._opened = batches, dict[int, Engine]()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on tensors that match ``spec``; new arrays come back."""
        return self._of(inputs).run(inputs)

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Runs it with results that stay on the device, where there is one."""
        return self._of(inputs).run_kept(inputs)

    def _of(self, inputs: Mapping[str, Tensor]) -> Engine:
        self.spec.check(inputs)
        batch = next(inputs[name].shape[0] for name, tensor in self.spec.inputs.items() if tensor.shape[0] == BATCH)
        if batch not in self._opened:  # two threads that open it at once get the same shape of one model
            self._opened[batch] = self._batches[batch]()
        return self._opened[batch]

    def close(self) -> None:
        """Closes the shared model."""
        next(iter(self._batches.values()))().close()


def spec_of_call(component: Component, compiled: EngineSpec, shapes: Shapes) -> EngineSpec:
    """What a call may give: of the added inputs those that were asked for, of as many image prompts."""
    if not component.added and shapes.loop is Loop.HOST:
        return compiled
    return replace(compiled, inputs=component.spec_of_one_batch(shapes).inputs)


def fill(whole: Array, given: Array, neutral: float | None) -> None:
    """Puts an input into an array of the size that was compiled.

    Of image prompts there may be fewer than were compiled, of fewer tokens. Tokens are repeated: a softmax over each of
    them so often is the same. Prompts that are left are neutral.
    """
    if given.shape == whole.shape:
        whole[...] = given
        return
    whole[...] = neutral
    prompts = given.shape[1]
    if given.ndim < 4:
        whole[:, :prompts] = given
        return
    batch, most, _, width = whole.shape
    whole.reshape(batch, most, -1, given.shape[2], width)[:, :prompts] = given[:, :, None]
