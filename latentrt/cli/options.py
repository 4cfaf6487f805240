"""Commands that take the fields of a dataclass as options."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


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


@dataclass(frozen=True, kw_only=True)
class Option:
    """A command's option as it is declared: its parameter, its long names, the type of a value, and whether it may be
    repeated."""

    parameter: str
    names: tuple[str, ...]
    kind: type[Any]
    repeatable: bool

    @property
    def name(self) -> str:
        """What is typed, without hyphens in front."""
        return self.names[0]


def option_from_parameter(parameter: Parameter) -> Option:
    """The option that a parameter is, whose annotation is typer's."""
    kind, info = get_args(parameter.annotation)[:2]
    (kind,) = [one for one in get_args(kind) if one is not NoneType] or [kind]
    repeatable = get_origin(kind) is list
    given = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]  # typer's first one
    spelled = [name for text in given for name in text.split("/") if name.startswith("--")]
    return Option(
        parameter=parameter.name,
        names=tuple(name.removeprefix("--") for name in spelled) or (parameter.name.replace("_", "-"),),
        kind=get_args(kind)[0] if repeatable else kind,
        repeatable=repeatable,
    )
