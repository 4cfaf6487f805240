"""Shapes: the picture sizes a bundle is made for, and what one engine is opened for."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from latentrt.engines.errors import RequestError

_PATTERN = re.compile(r"(\d{1,5})x(\d{1,5})(?:x(\d{1,3}))?(?:x(\d{1,3})f)?")
_LARGEST = 99999  # pixels of a side that the pattern takes


@dataclass(frozen=True, kw_only=True, order=True)
class Profile:
    """One picture size in pixels and the largest number of pictures per engine call.

    With ``frames`` it is the size of a video of so many frames; ``batch`` then counts videos.

    Raises:
        RequestError: a size or batch below 1.
    """

    width: int
    height: int
    batch: int = 1
    frames: int = 1

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.batch, self.frames) < 1:
            raise RequestError(
                f"profile {self} has a size below 1; write WIDTHxHEIGHT or WIDTHxHEIGHTxBATCH in pixels, as in 512x512 "
                "(a video: WIDTHxHEIGHTxFRAMESf, as in 1024x576x14f)"
            )

    def __str__(self) -> str:
        batch = "" if self.batch == 1 else f"x{self.batch}"
        frames = "" if self.frames == 1 else f"x{self.frames}f"
        return f"{self.width}x{self.height}{batch}{frames}"


class AddedInputs(StrEnum):
    """Inputs that a U-Net takes beside those it was exported with, by what gives them. Left out, they change nothing.

    ``control`` are the residuals of control nets and the features of T2I-Adapters, ``image-prompt`` the keys and
    values of image prompts, ``perturbed-attention`` says which self-attentions are perturbed, and ``freeu`` are FreeU's
    factors (``engines/bundle/unet/added_inputs.py``).
    """

    CONTROL = "control"
    IMAGE_PROMPT = "image-prompt"
    PERTURBED_ATTENTION = "perturbed-attention"
    FREEU = "freeu"


class Loop(StrEnum):
    """Where a run's state is between the calls of its U-Net: in the host's memory, or where the engine computes.

    Of the device an engine makes whole steps (``engines/bundle/unet/denoise_step.py``).
    """

    HOST = "host"
    DEVICE = "device"


class CacheRole(StrEnum):
    """What a call of a U-Net does for DeepCache: it computes all and keeps a feature, or goes on from a kept one."""

    KEEPS = "keeps"
    SHALLOW = "shallow"


@dataclass(frozen=True, kw_only=True)
class CachePart:
    """Which graph of a U-Net a call runs, and the branch whose feature it is about."""

    role: CacheRole
    branch: int = 0


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What an engine is opened for. A further dimension of some component is a further field here.

    Attributes:
        profile: the picture size, and the most pictures per call.
        chunks: of how many chunks the longest prompt is; components that take no prompt do not mind.
        added: the inputs that some calls will give beside the U-Net's own.
        image_prompts: how many image prompts there are at once.
        image_tokens: of how many tokens each of them is.
        cached: what DeepCache wants of a U-Net; None: it is the whole one, which keeps nothing.
        loop: of a U-Net: whether it is wanted alone, or whole steps.
    """

    profile: Profile
    chunks: int = 1
    added: frozenset[AddedInputs] = frozenset()
    image_prompts: int = 1
    image_tokens: int = 1
    cached: CachePart | None = None
    loop: Loop = Loop.HOST


def profile_from_text(text: str) -> Profile:
    """The profile written as ``WxH`` or ``WxHxBATCH``, in pixels; videos have ``xFRAMESf`` behind it.

    Raises:
        RequestError: the text has another form.
    """
    match = _PATTERN.fullmatch(text.strip().lower())
    if match is None:
        raise RequestError(
            f"got profile {text!r}, expected WIDTHxHEIGHT or WIDTHxHEIGHTxBATCH such as 512x512, or of a video "
            "1024x576x14f"
        )
    width, height, batch, frames = match.groups()
    return Profile(width=int(width), height=int(height), batch=int(batch or 1), frames=int(frames or 1))


def profile_for_size(
    profiles: Iterable[Profile], width: int, height: int, *, multiple: int, remedy: str = "ask for one of these"
) -> Profile:
    """The profile of exactly this size.

    Args:
        profiles: the bundle's.
        width: in pixels.
        height: in pixels.
        multiple: what the sides of the model's pictures must be multiples of, for the advice.
        remedy: what to do with the profiles that there are.

    Raises:
        RequestError: the bundle has no profile of the size.
    """
    known = tuple(profiles)
    for profile in known:
        if (profile.width, profile.height) == (width, height):
            return profile
    raise RequestError(
        f"got size {width}x{height}, but the bundle has {', '.join(map(str, known))}; {remedy}"
        f"{_build_advice(known, width, height, multiple)}"
    )


def _build_advice(known: Iterable[Profile], width: int, height: int, multiple: int) -> str:
    """What to build for a size, where a build takes it or one near to it that the bundle lacks."""
    sides = tuple(max((side + multiple // 2) // multiple, 1) * multiple for side in (width, height))
    if min(width, height) < 1 or max(sides) > _LARGEST or sides in [(one.width, one.height) for one in known]:
        return ""
    reason = "" if sides == (width, height) else f" (sides are multiples of {multiple} pixels)"
    return f", or build again with --profile {sides[0]}x{sides[1]}{reason}"
