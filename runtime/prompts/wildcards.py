"""Wildcards: a template such as ``a {red|blue} __animal__`` becomes the prompt of a picture, by the picture's seed.

The package dynamicprompts reads and chooses. Each text is chosen by a generator of its own with the picture's seed, as
A1111's extension does it: so a picture is the same alone and in a batch, and equal texts become equal prompts.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError

Resolve = Callable[[str, int], str]
"""Makes a prompt of a template and a seed."""


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
            f"got wildcards {wildcards!r}, expected the folder with the wildcards' files, or '' for templates such as "
            "{red|blue}, which need none; give one of them"
        )
    try:
        from latentrt.runtime.prompts.templates import Templates
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise RequestError(
            f"wildcards need the package dynamicprompts, which {reason}; install it with pip install "
            "'latentrt[wildcards]'"
        ) from error
    from latentrt.runtime.prompts.wildcard_files import WildcardFiles

    return Templates(WildcardFiles(None if wildcards == "" else Path(wildcards))).prompt
