"""Prompts from files and from standard input, one a line."""

import codecs
import re
import sys
from pathlib import Path

from latentrt.engines.errors import RequestError

STDIN = Path("-")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def prompts_from_file(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines are skipped. ``-`` is standard input.

    Raises:
        RequestError: the file cannot be read, is not UTF-8, or has no prompt.
    """
    name, text = text_from_file(path, "prompt")
    prompts = tuple(line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip())
    if not prompts:
        raise RequestError(f"got {name} without a prompt, expected one a line; add some")
    return prompts


def text_from_file(path: Path, what: str) -> tuple[str, str]:
    """What messages call a file, and its text. ``-`` is standard input.

    UTF-8, or what a byte order mark says, such as UTF-16, which PowerShell's ``>`` writes.

    Args:
        path: the file.
        what: what it has on each line, for messages.

    Raises:
        RequestError: the file cannot be read, or is not UTF-8.
    """
    name = f"{what}s from standard input" if path == STDIN else f"{what}s {str(path)!r}"
    try:
        content = _standard_input() if path == STDIN else path.read_bytes()
        encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except OSError as error:
        raise RequestError(f"got {name}, which cannot be read ({error.strerror}); name a file") from error
    except ValueError as error:
        raise RequestError(f"got {name}, expected UTF-8 text with one {what} a line; convert it") from error
    if "\0" in text:
        raise RequestError(f"got {name}, expected text with one {what} a line, no binary file; name another")
    return name, text


def _standard_input() -> bytes:
    if sys.stdin is None:  # closed
        return b""
    binary = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode() if binary is None else bytes(binary.read())
