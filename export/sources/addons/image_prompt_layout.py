"""IP-Adapters' files: which kind one is, what it must hold, and of which sizes it is; told by names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from latentrt.export.sources.single_file.ldm_layout import LayoutError

Shapes = Mapping[str, tuple[int, ...]]
# Of the projection and of the layers: as published, and as the training script leaves them beside the U-Net
_PREFIXES = (("image_proj.", "ip_adapter."), ("image_proj_model.", "adapter_modules."))
MARK = r"^(?:ip_adapter|adapter_modules)\.\d+\.to_[kv]_ip\.weight$"
_HEAD = 64  # channels of a head of the Resampler, in every published file
_BASE_TOKENS = 4  # of the plain kind: the file does not say it


class ProjectionKind(StrEnum):
    """How a picture's embedding becomes tokens."""

    BASE = "base"
    PLUS = "plus"
    FULL = "full"

    @property
    def encoder_output(self) -> str:
        """What it takes of the image encoder: the embedding of the whole, or one of every patch."""
        return "image_embeds" if self is ProjectionKind.BASE else "hidden_states"


@dataclass(frozen=True, kw_only=True)
class AdapterLayout:
    """An IP-Adapter's file.

    Attributes:
        kind: of its projection.
        projection: the file's names of the projection's tensors, by the names without prefix.
        keys: those of the matrices that make keys of tokens, in the order of ``UnetStructure.cross_attentions``.
        values: those that make values.
        embedded: how wide what it takes of the image encoder is.
        context: how wide its tokens are.
        tokens: how many of them a picture becomes; None: as many as the image encoder gives.
        depth: of a Resampler: how many layers it has.
        heads: and how many heads each of these.
    """

    kind: ProjectionKind
    projection: Mapping[str, str]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    embedded: int
    context: int
    tokens: int | None
    depth: int = 0
    heads: int = 0


def adapter_layout(shapes: Shapes) -> AdapterLayout:
    """What a file holds.

    Raises:
        LayoutError: a kind that is not drawn with, with the reason; tensors that are missing or of other shapes.
    """
    prefix, layers = next(pair for pair in _PREFIXES if any(key.startswith(pair[1]) for key in shapes))
    names = {key.removeprefix(prefix): key for key in shapes if key.startswith(prefix)}
    own = {name: shapes[key] for name, key in names.items()}
    _refuse_faces(own)
    keys, values = _layers(shapes, layers)
    if "proj.weight" in own:
        return _base(own, names, keys, values)
    if "latents" in own:
        return _plus(own, names, keys, values)
    if "proj.3.weight" in own:
        return _full(own, names, keys, values)
    first = ", ".join(list(own)[:3]) or "none"
    raise LayoutError(f"it has a projection of an unknown kind (its first tensors are {first})")


def _refuse_faces(own: Shapes) -> None:
    reason = (
        "which takes the embedding of a face as insightface's network makes it, and such a network is not part of "
        "latentrt; use a plus-face or full-face adapter, which take pictures"
    )
    if any(name.startswith("perceiver_resampler.") for name in own):
        raise LayoutError(f"it is an IP-Adapter FaceID Plus, {reason}")
    if "norm.weight" in own and "proj.0.weight" in own:
        raise LayoutError(f"it is an IP-Adapter FaceID, {reason}")
    if own.get("proj_in.weight", (0, 0))[1:] == (512,):
        raise LayoutError(f"it is an InstantID adapter, {reason}")


def _layers(shapes: Shapes, prefix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The matrices of keys and values: the n-th cross-attention's are numbered 2n + 1."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.to_([kv])_ip\.weight")
    found = {(int(match[1]), match[2]): key for key in shapes if (match := pattern.fullmatch(key))}
    numbers = sorted({number for number, _ in found})
    lacking = [f"{prefix}{n}.to_{one}_ip.weight" for n in numbers for one in "kv" if (n, one) not in found]
    if lacking:
        raise LayoutError(f"it lacks {lacking[0]}")
    if numbers != list(range(1, 2 * len(numbers), 2)):
        raise LayoutError("its layers are not numbered 1, 3, 5 and so on, as an IP-Adapter's are")
    return tuple(found[n, "k"] for n in numbers), tuple(found[n, "v"] for n in numbers)


def _base(own: Shapes, names: Mapping[str, str], keys: tuple[str, ...], values: tuple[str, ...]) -> AdapterLayout:
    rows, embedded = _matrix(own, "proj.weight")
    context = rows // _BASE_TOKENS
    _check(
        own,
        {"proj.weight": (_BASE_TOKENS * context, embedded), "proj.bias": (rows,), **_norm("norm", context)},
    )
    return AdapterLayout(
        kind=ProjectionKind.BASE,
        projection=names,
        keys=keys,
        values=values,
        embedded=embedded,
        context=context,
        tokens=_BASE_TOKENS,
    )


def _full(own: Shapes, names: Mapping[str, str], keys: tuple[str, ...], values: tuple[str, ...]) -> AdapterLayout:
    embedded = _matrix(own, "proj.0.weight")[1]
    context = _matrix(own, "proj.2.weight")[0]
    expected = {
        "proj.0.weight": (embedded, embedded),
        "proj.0.bias": (embedded,),
        "proj.2.weight": (context, embedded),
        "proj.2.bias": (context,),
        **_norm("proj.3", context),
    }
    _check(own, expected)
    return AdapterLayout(
        kind=ProjectionKind.FULL,
        projection=names,
        keys=keys,
        values=values,
        embedded=embedded,
        context=context,
        tokens=None,
    )


def _plus(own: Shapes, names: Mapping[str, str], keys: tuple[str, ...], values: tuple[str, ...]) -> AdapterLayout:
    if len(own["latents"]) != 3:
        raise LayoutError(f"got latents of shape {own['latents']}, expected (1, tokens, width)")
    _, tokens, width = own["latents"]
    embedded, context = _matrix(own, "proj_in.weight")[1], _matrix(own, "proj_out.weight")[0]
    inner = _matrix(own, "layers.0.0.to_q.weight")[0]
    depth = len({name.split(".")[1] for name in own if name.startswith("layers.")})
    wide = _matrix(own, "layers.0.1.1.weight")[0]
    if inner % _HEAD:
        raise LayoutError(f"its attention has {inner} channels, expected a multiple of {_HEAD}")
    expected = {
        "latents": (1, tokens, width),
        "proj_in.weight": (width, embedded),
        "proj_in.bias": (width,),
        "proj_out.weight": (context, width),
        "proj_out.bias": (context,),
        **_norm("norm_out", context),
    }
    for layer in range(depth):
        expected |= {
            **_norm(f"layers.{layer}.0.norm1", width),
            **_norm(f"layers.{layer}.0.norm2", width),
            f"layers.{layer}.0.to_q.weight": (inner, width),
            f"layers.{layer}.0.to_kv.weight": (2 * inner, width),
            f"layers.{layer}.0.to_out.weight": (width, inner),
            **_norm(f"layers.{layer}.1.0", width),
            f"layers.{layer}.1.1.weight": (wide, width),
            f"layers.{layer}.1.3.weight": (width, wide),
        }
    _check(own, expected)
    return AdapterLayout(
        kind=ProjectionKind.PLUS,
        projection=names,
        keys=keys,
        values=values,
        embedded=embedded,
        context=context,
        tokens=tokens,
        depth=depth,
        heads=inner // _HEAD,
    )


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _matrix(own: Shapes, name: str) -> tuple[int, int]:
    if len(own.get(name, ())) != 2:
        raise LayoutError(f"its projection has no matrix {name}")
    rows, columns = own[name]
    return rows, columns


def _check(own: Shapes, expected: Shapes) -> None:
    missing = [name for name in expected if name not in own]
    if missing:
        raise LayoutError(f"its projection lacks {missing[0]}")
    for name, shape in expected.items():
        if own[name] != shape:
            raise LayoutError(f"got {name} of shape {own[name]}, expected {shape}")
    more = [name for name in own if name not in expected]
    if more:
        raise LayoutError(f"its projection has {more[0]}, which none of base, plus and full has")
