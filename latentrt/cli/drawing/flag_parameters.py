"""Keywords as options of a command."""

from collections.abc import Mapping
from inspect import Parameter
from typing import Annotated, Any

import typer

from latentrt.runtime.call.keywords.flags import Flag, Form

_KINDS: Mapping[Form, type] = {Form.NUMBER: float, Form.WHOLE_NUMBER: int}


def flag_parameters(flags: Mapping[str, Flag]) -> list[Parameter]:
    """The parameters of a command, by the keywords that they are for."""
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_option(flag)) for name, flag in flags.items()
    ]


def _option(flag: Flag) -> Any:
    """A keyword's option, as typer takes it."""
    names = (flag.name, flag.short) if flag.short else (flag.name,)
    kind = _KINDS.get(flag.form, str) | None
    return Annotated[kind, typer.Option(*names, help=flag.help, metavar=flag.metavar)]
