"""Wildcards: a template such as ``a {red|blue} __animal__`` becomes the prompt of a picture, by the picture's seed.

The package dynamicprompts reads and chooses. Each text is chosen by a generator of its own with the picture's seed, as
A1111's extension does it: so a picture is the same alone and in a batch, and equal texts become equal prompts.
"""

import os
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.prompts.encoder import Prompts

Resolve = Callable[[str, int], str]
"""Makes a prompt of a template and a seed."""


def resolved(of_encoders: Sequence[Prompts], seeds: int | tuple[int, ...], resolve: Resolve) -> tuple[Prompts, ...]:
    """What the templates of N pictures become, each by its own seed.

    Args:
        of_encoders: the templates for each text encoder.
        seeds: one per picture, or one that all share, to which a picture's place in the batch is added.
        resolve: makes the prompts.

    Raises:
        RequestError: as the resolver raises it.
    """

    def side(templates: Sequence[str]) -> list[str]:
        of_each = count(seeds) if isinstance(seeds, int) else seeds
        return [resolve(template, seed) for template, seed in zip(templates, of_each, strict=False)]

    return tuple(
        Prompts(positives=side(one.positives), negatives=None if one.negatives is None else side(one.negatives))
        for one in of_encoders
    )


def resolver_from_argument(wildcards: Any) -> Resolve:
    """What makes prompts of templates.

    Args:
        wildcards: the folder with the files that ``__name__`` stands for; "" where templates need none.

    Raises:
        RequestError: no folder, or the package is missing. The resolver raises it for malformed templates, for
            wildcards without a file, and for prompts that grow beyond all bounds.
    """
    if not isinstance(wildcards, (str, os.PathLike)):
        raise RequestError(
            f"got wildcards {shown(wildcards)}, expected the folder with the wildcards' files, or '' for templates "
            "such as {red|blue}, which need none; give one of them"
        )
    try:
        from latentrt.runtime.prompts.wildcards.templates import Templates
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise RequestError(
            f"wildcards need the package dynamicprompts, which {reason}; install it with pip install "
            "'latentrt[wildcards]'"
        ) from error
    from latentrt.runtime.prompts.wildcards.files import WildcardFiles

    return Templates(WildcardFiles(None if wildcards == "" else Path(wildcards))).prompt
