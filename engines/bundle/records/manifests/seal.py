"""The seal of a manifest: a digest of all else in its file, which shows that a value was edited.

White space is not counted, as an editor may indent a file anew, end its lines otherwise or put a mark before it without
changing a value. A seal guards against accidents, not against somebody who computes a new one.
"""

import hashlib
import re
from dataclasses import dataclass

_MEMBER = re.compile(rb',\s*"seal"\s*:\s*"([^"]*)"')
_WHITE_SPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """The digest that a file records, None where it has none, and that of its content."""

    recorded: str | None
    computed: str

    @property
    def intact(self) -> bool:
        """Whether the content is what was written."""
        return self.recorded == self.computed

    def fault(self, name: str) -> str | None:
        """What is wrong with the file of this name, if anything is."""
        if self.intact:
            return None
        if self.recorded is None:
            return f"{name} has no seal (got none, expected the digest that latentrt build writes)"
        return f"{name} was edited (got a content with the digest {self.computed}, expected {self.recorded})"


def sealed(document: str) -> str:
    """A JSON object's text with its seal as the last member."""
    body = document.rstrip().removesuffix("}").rstrip()
    return f'{body},\n "seal": "{_digest(document.encode())}"\n}}\n'


def opened(content: bytes) -> tuple[bytes, Seal]:
    """A file's content without its seal, and the seal."""
    members = list(_MEMBER.finditer(content))
    recorded = None
    if members:
        content = content[: members[-1].start()] + content[members[-1].end() :]
        recorded = members[-1][1].decode(errors="replace")
    return content, Seal(recorded=recorded, computed=_digest(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content.removeprefix(_BYTE_ORDER_MARK).translate(None, _WHITE_SPACE)).hexdigest()
