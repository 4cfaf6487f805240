"""How the command line spells a keyword; the keyword's declaration carries it."""

from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """How a value is written on the command line."""

    TEXT = "text"
    NUMBER = "number"
    WHOLE_NUMBER = "whole-number"
    NUMBERS = "numbers"
    """Numbers with commas between them; one alone is a number."""
    NUMBERS_OR_AYS = "numbers-or-ays"
    SIZE = "size"
    """WIDTHxHEIGHT; the keyword takes (height, width)."""
    PAIR = "pair"
    """Two whole numbers with a comma."""
    SETTINGS = "settings"
    """NAME=VALUE pairs with commas between them, or "on" for the defaults of all."""


@dataclass(frozen=True)
class Flag:
    """An option of the drawing commands: its name, its help, and how its value is written."""

    name: str
    help: str
    form: Form = Form.TEXT
    metavar: str | None = None
    short: str | None = None
