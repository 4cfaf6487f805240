"""Reads an adapter's file."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import NamedTuple

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.adapter import Adapter, ModelWeights
from latentrt.runtime.adapters.formats.bases import Base, base_by_widths, base_in_metadata, base_of_component
from latentrt.runtime.adapters.formats.grouped import Grouped, grouped_tensors
from latentrt.runtime.adapters.formats.held import FirstInputs, HeldFormula, HeldTensor, held_tensor, module_formulas
from latentrt.runtime.adapters.formats.modules import Module, Modules
from latentrt.runtime.adapters.formats.other_kinds import kind_of_keys
from latentrt.runtime.adapters.formats.stored import StoredAdapter, open_adapter
from latentrt.runtime.adapters.formulas.formula import Formula
from latentrt.runtime.adapters.formulas.leaves import LeafOptions
from latentrt.runtime.checks import warn_caller

_LARGEST_COPY = 2**30  # bytes of tensors that are read into memory; larger ones stay in their file
_LATENTS = 4  # channels of all of Stable Diffusion's latents
_LISTED = 3  # keys that a message names


def adapter_from_path(path: Path, name: str, model: ModelWeights, base: str) -> Adapter:
    """Reads the adapter in a file or folder for a model.

    Args:
        path: safetensors, a torch pickle, or a folder as PEFT and InvokeAI write it.
        name: what it will be called.
        model: the shapes of the model's weights.
        base: what the model is, for messages, such as "Stable Diffusion 1.x".

    Raises:
        RequestError: no such file, damaged, no adapter, one for another model, or one with tensors that have no place.
    """
    stored = open_adapter(Path(path))
    with ThreadPoolExecutor(1) as beside:
        digests = beside.submit(stored.digests)
        grouped = grouped_tensors(stored, Modules(model))
        _check_base(stored, grouped, model, base)
        parts = _checked_formulas(stored, grouped, model, base)
        sha256, short_hash = digests.result()
    _tell_of_alphas(stored, grouped)
    return Adapter(
        name=name, file=stored.name, sha256=sha256, short_hash=short_hash, parts=parts, metadata=stored.metadata
    )


def _tell_of_alphas(stored: StoredAdapter, grouped: Grouped) -> None:
    """Says where an alpha of 0 counts as the rank: so its trainer means it, and others take it for nothing at all."""
    # OFT's is the bound of a rotation, and 0 is none
    scaled = (leaves for leaves in grouped.tensors.values() if "alpha" in leaves and "oft_blocks" not in leaves)
    alphas = [leaves["alpha"].array() for leaves in scaled]
    zeros = sum(not alpha.any() for alpha in alphas)
    if zeros:
        warn_caller(
            f"{stored.name!r} says alpha 0 for {zeros} of {len(grouped.tensors)} modules, which counts as their rank, "
            "as in the trainers that write it; lower the LoRA's weight if it is too strong"
        )


def _check_base(stored: StoredAdapter, grouped: Grouped, model: ModelWeights, base: str) -> None:
    """Refuses what is for another model, or is no adapter."""
    told = base_in_metadata(stored.metadata)
    other = told if told is not None and told.name != base else None
    kind = kind_of_keys(grouped.leftovers) if grouped.leftovers else None
    if kind is not None:
        what, advice = kind
        holds = "is" if not grouped.tensors else "holds"
        raise RequestError(f"{stored.name!r} {holds} {what}, expected a LoRA for {base}; {advice}")
    widths = base_by_widths(grouped.tensors, model)
    if widths is not None:
        shown, own = widths
        if shown.name == "another model" and other is not None:
            shown = Base(other.name, shown.shown_by)
        raise _for_another(stored, shown, f"{base} ({own})")
    if grouped.absent:
        component, key = next(iter(grouped.absent.items()))
        raise _for_another(stored, other or base_of_component(component, key), base)
    if not grouped.leftovers:
        return
    if other is not None:
        raise _for_another(stored, other, base)
    listed = ", ".join(repr(key[:100]) for key in grouped.leftovers[:_LISTED])
    more = ", …" if len(grouped.leftovers) > _LISTED else ""
    if not grouped.tensors:
        raise RequestError(
            f"{stored.name!r} holds {len(grouped.leftovers)} tensors that are no LoRA's ({listed}{more}), expected one "
            f"for {base}; choose a LoRA, LyCORIS or PEFT file"
        )
    raise RequestError(
        f"{stored.name!r} holds {len(grouped.leftovers)} tensors that have no place in {base} ({listed}{more}), "
        "expected names of its U-Net and text encoders alone; choose a file that was made for this model"
    )


def _for_another(stored: StoredAdapter, other: Base, own: str) -> RequestError:
    return RequestError(
        f"{stored.name!r} was made for {other}, expected a LoRA for {own}; choose one that was trained for this model"
    )


class _Parts(NamedTuple):
    """Formulas by component and weight, and what does not fit, by module."""

    formulas: dict[str, dict[str, Formula]]
    faults: dict[Module, str]


def _checked_formulas(
    stored: StoredAdapter, grouped: Grouped, model: ModelWeights, base: str
) -> dict[str, dict[str, Formula]]:
    """Formulas by component and weight, each checked against its weight.

    Raises:
        RequestError: the first that does not fit, and how many there are.
    """
    parts = _parts(grouped, model)
    if parts.faults and any(config.fan_in_fan_out for config in grouped.configs.values()):
        # PEFT keeps factors as for (out, in) whatever this says; other trainers may have taken it at its word
        turned = _parts(grouped, model, transposed=True)
        parts = parts if turned.faults else turned
    if not parts.faults:
        return parts.formulas
    told = base_in_metadata(stored.metadata)
    if told is not None and told.name != base:
        raise _for_another(stored, told, base)
    module, fault = next(iter(parts.faults.items()))
    others = len(parts.faults) - 1
    more = f" and {others} other{'s' * (others > 1)} like it" if others else ""
    raise RequestError(f"{stored.name!r}, {module}{more}: {fault}")


def _parts(grouped: Grouped, model: ModelWeights, *, transposed: bool = False) -> _Parts:
    size = sum(tensor.block.size for leaves in grouped.tensors.values() for tensor in leaves.values())
    parts = _Parts({}, {})
    for module, leaves in grouped.tensors.items():
        options = grouped.configs[module].options(module.path, transposed=transposed)
        try:
            held = {leaf: held_tensor(tensor, leaf) for leaf, tensor in leaves.items()}
            formulas = _fitting(module, held, options, model[module.component], copied=size <= _LARGEST_COPY)
        except RequestError as error:
            parts.faults[module] = str(error)
        else:
            parts.formulas.setdefault(module.component, {}).update(formulas)
    return parts


def _fitting(
    module: Module,
    held: Mapping[str, HeldTensor],
    options: LeafOptions,
    shapes: Mapping[str, tuple[int, ...] | None],
    *,
    copied: bool,
) -> dict[str, Formula]:
    """A module's formulas by the names of its weights; none for a weight that the model computes nothing with.

    Raises:
        RequestError: they are incomplete, do not fit each other, or not the weight.
    """
    whole = shapes.get(f"{module.path}.weight")
    large = 2 * sum(tensor.bits.size for tensor in held.values()) > prod(whole or ())
    formulas = module_formulas(held, options, copied=copied and not large)
    if large:  # as the weight itself: it does not stand in memory in float32
        kept = {leaf: tensor.copied() for leaf, tensor in held.items()} if copied else held
        formulas = {name: HeldFormula(tensors=kept, options=options, parameter=name) for name in formulas}
    fitting: dict[str, Formula] = {}
    for parameter, formula in formulas.items():
        weight = f"{module.path}.{parameter}"
        if weight not in shapes:
            if parameter == "bias" and "ia3_l" in held:  # which scales whatever a module adds up to
                continue
            raise RequestError(
                f"the file changes its {parameter}, which the model does not have; choose a file that was made for it"
            )
        shape = shapes[weight]
        if shape is not None:
            fitting[weight] = _padded(weight, formula, shape)
    return fitting


def _padded(weight: str, formula: Formula, shape: tuple[int, ...]) -> Formula:
    """A formula that was checked against a weight's shape.

    A U-Net for inpainting has a mask and another picture's latents behind the latents that its relatives have.

    Raises:
        RequestError: it does not fit.
    """
    try:
        formula.check(shape)
    except RequestError:
        if weight != "conv_in.weight" or shape[1] <= _LATENTS:
            raise
        formula = FirstInputs(formula=formula, channels=_LATENTS)
        formula.check(shape)
    return formula
