"""Commands that take the fields of a dataclass as options."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def parameters_of(kind: type[Any]) -> list[Parameter]:
    """A dataclass's fields as parameters of a command; their annotations are typer's."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


def takes(
    name: str, parameters: Sequence[Parameter], make: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command options beside its own.

    Args:
        name: the command's parameter for what is made of them.
        parameters: the options.
        make: takes them by name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(command).parameters.values() if p.name != name]

        @wraps(command)
        def run(**arguments: Any) -> None:
            made = make(**{parameter.name: arguments.pop(parameter.name) for parameter in parameters})
            command(**arguments, **{name: made})

        run.__signature__ = Signature([*own, *parameters])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *parameters)}
        return run

    return decorate
