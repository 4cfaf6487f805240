"""The names of the files that a drawing command writes, known and checked before anything is drawn."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import EISDIR
from pathlib import Path
from string import Formatter

from latentrt.engines.errors import RequestError
from latentrt.engines.files import check_writable, output_error
from latentrt.runtime.pictures.picture_file import SUFFIXES

LATENTS = ".npy"
_FIELDS = {"index": r"0?\d{0,2}d?", "seed": r"0?\d{0,2}d?", "prompt": r"(\.\d{1,3})?", "model": r"(\.\d{1,3})?"}
_EXAMPLE = "out/{index:04}-{seed}.png"
_LONGEST = 60  # characters of a prompt in a name


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What one of the pictures is drawn from."""

    prompt: str
    seed: int


def output_paths(
    output: Path, pictures: Sequence[Picture], model: str, *, overwrite: bool, suffixes: Sequence[str] = SUFFIXES
) -> list[Path]:
    """Where to write each picture; with latents under a plain name the one file for all of them.

    Args:
        output: a name; with ``{index}``, ``{seed}``, ``{prompt}`` or ``{model}`` in it a pattern, whose folder is made;
            a plain one is numbered where there are several pictures.
        pictures: what is drawn.
        model: the bundle's name.
        overwrite: whether files that are there are replaced.
        suffixes: what a name may end in beside that of latents; those of clips, where each picture is one.

    Raises:
        RequestError: a malformed pattern, one name for two pictures, or a file that is there.
        OutputError: nothing can be written there.
    """
    if output.suffix.lower() not in (*suffixes, LATENTS):
        raise RequestError(
            f"got output {str(output)!r}, expected a name that ends in {', '.join(suffixes)} or {LATENTS}; add "
            f"{suffixes[0]}"
        )
    by_pattern = set("{}") & set(str(output))
    if by_pattern:
        check_pattern(str(output))
        paths = [
            Path(str(output).format(index=index, seed=one.seed, prompt=slug(one.prompt), model=slug(model)))
            for index, one in enumerate(pictures)
        ]
    elif len(pictures) == 1 or output.suffix.lower() == LATENTS:
        paths = [output]
    else:
        paths = [output.with_stem(f"{output.stem}-{index}") for index in range(len(pictures))]
    if len(paths) > len(set(paths)):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise RequestError(f"got output {str(output)!r}, which names two pictures {str(twice)!r}; add {{index}} to it")
    check_places(paths, made=bool(by_pattern), overwrite=overwrite)
    return paths


def check_places(paths: Sequence[Path], *, made: bool, overwrite: bool) -> None:
    """Finds out whether files can be written, before the work that would be lost otherwise.

    Args:
        paths: the files.
        made: whether folders that are missing will be made.
        overwrite: whether files that are there are replaced.

    Raises:
        RequestError: a file is there.
        OutputError: nothing can be written there.
    """
    first_of = {(_nearest(path.parent) if made else path.parent): path for path in reversed(paths)}
    for folder, path in first_of.items():
        check_writable(folder / path.name)
    there = [path for path in paths if _is_there(path) and not overwrite]
    if there:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise RequestError(
            f"{str(there[0])!r}{more} there already, expected new names; give another -o, or --overwrite to replace "
            f"{'them' if len(there) > 1 else 'it'}"
        )


def check_pattern(pattern: str, fields: Mapping[str, str] = _FIELDS, example: str = _EXAMPLE) -> None:
    """Refuses patterns with other fields than ours, or with more of Python's formatting than a width.

    Args:
        pattern: what the user gave.
        fields: the fields by name, with a regular expression for what may stand behind their colons.
        example: a pattern that is right, for messages.

    Raises:
        RequestError: what is wrong.
    """
    known = ", ".join(f"{{{name}}}" for name in fields)
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        raise RequestError(
            f"got output {pattern!r}, a malformed pattern ({error}), expected {known} in it, as in {example}, or "
            "{{ and }} for braces; correct it"
        ) from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        allowed = fields.get(name)
        if allowed is None or conversion or not re.fullmatch(allowed, form or ""):
            field = f"{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
            raise RequestError(
                f"got output {pattern!r} with {field}, expected {known}, numbers with a width such as {{index:04}}, as "
                f"in {example}; correct it"
            )


def slug(text: str) -> str:
    """A text as part of a file's name on every system."""
    return re.sub(r"[^\w.]+", "-", text)[:_LONGEST].strip("-.") or "untitled"


def _is_there(path: Path) -> bool:
    """Whether a file has the name.

    Raises:
        OutputError: a folder has it, or no file can.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "is a directory")
        return path.exists()
    except OSError as error:
        raise output_error(path, error) from error


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
