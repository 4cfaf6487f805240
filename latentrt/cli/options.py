"""Commands that take the fields of a dataclass as options."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def takes(parameter: str, kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a dataclass beside its own.

    Args:
        parameter: the command's, which gets the dataclass.
        kind: the dataclass; its fields are annotated as typer reads them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(kind, include_extras=True)
        parameters = [
            *(p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(command).parameters.values()
              if p.name != parameter),
            *(Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
              for field in fields(kind)),
        ]  # fmt: skip

        @wraps(command)
        def run(**arguments: Any) -> None:
            options = kind(**{field.name: arguments.pop(field.name) for field in fields(kind)})
            command(**arguments, **{parameter: options})

        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate
