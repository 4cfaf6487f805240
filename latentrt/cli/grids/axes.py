"""The axes of a grid: which setting differs along each, and its values."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from latentrt.arguments.loras import lora_from_text
from latentrt.cli.grids.settings import Settings, axis_options
from latentrt.cli.grids.values import numbers_from_ranges, split_values
from latentrt.cli.options import Option
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.flags import FLAGS, Form

Change = Callable[[Settings, str], Settings]
"""Gives settings another value of what an axis is about."""
PROMPT = "prompt"
_LORA, _SAMPLER = "lora:", "sampler."
_PROMPTS = ("prompt_2", "negative_prompt", "negative_prompt_2")  # in which text is replaced, beside PROMPT
_OF_A1111 = {"cfg": "guidance", "cfg-scale": "guidance", "denoising": "strength", "prompt-s/r": PROMPT}
_NUMBERS = (Form.NUMBERS, Form.NUMBERS_OR_AYS)
_WORDS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting and its values, as they are written; the neutral axis has no name and one value."""

    name: str = ""
    values: tuple[str, ...] = ("",)
    change: Change = lambda settings, _: settings
    are_files: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as a sheet shows them: of files their names."""
        if not self.name:
            return self.values
        shown = map(_without_folders, self.values) if self.are_files else self.values
        return tuple(value or "(none)" for value in shown)

    def label(self, index: int) -> str:
        """A value with the setting's name, for messages; nothing of the neutral axis."""
        return f"{self.name} {self.labels[index]}" if self.name else ""


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What an axis can be about: whether its values are numbers, whole ones, or files, and what they change."""

    name: str
    change: Callable[[tuple[str, ...]], Change]
    numbers: bool = False
    whole: bool = False
    are_files: bool = False


def axes_from_texts(texts: Mapping[str, str | None], settings: Settings) -> tuple[Axis, ...]:
    """One axis per option, neutral where none was given.

    Args:
        texts: ``NAME=VALUES`` by the option's name, such as ``--x``.
        settings: what the command says beside them.

    Raises:
        RequestError: no axis, an unknown name, one twice or beside its own option, or values that cannot be read.
    """
    if not any(texts.values()):
        raise RequestError("got no axis, expected --x, --y or both; give one such as --x steps=10,20,30")
    axes = tuple(Axis() if text is None else _axis(text, option, settings) for option, text in texts.items())
    named = [axis.name for axis in axes if axis.name]
    twice = next((name for name in named if named.count(name) > 1 and name != PROMPT), None)
    if twice is not None:
        raise RequestError(f"got two axes {twice!r}, expected one for each setting; put all of its values on one axis")
    return axes


def _axis(text: str, option: str, settings: Settings) -> Axis:
    name, equals, values_text = text.partition("=")
    if not equals:
        raise RequestError(f"got {option} {text!r}, expected NAME=VALUES, such as steps=10,20,30; correct it")
    target = _target(name.strip(), option, settings)
    values = split_values(values_text, f"{option} {target.name}")
    if target.numbers:
        values = numbers_from_ranges(values, f"{option} {target.name}", whole=target.whole)
    change = target.change(values)
    if target.name != PROMPT:  # which is found or not in each cell
        for value in values:
            change(settings, value)
    return Axis(name=target.name, values=values, change=change, are_files=target.are_files)


def _target(name: str, option: str, settings: Settings) -> _Target:
    plain = name.lower().removeprefix("--").replace("_", "-").replace(" ", "-")
    plain = _OF_A1111.get(plain, plain)
    if plain == PROMPT:
        return _Target(name=PROMPT, change=lambda values: _replacing(values[0], option))
    if plain.startswith(_LORA):
        return _lora(name[len(_LORA) :], option, settings)
    if plain.startswith(_SAMPLER):
        return _sampler_option(plain.removeprefix(_SAMPLER).replace("-", "_"), option)
    options = {spelled: one for one in axis_options() for spelled in (*one.names, one.parameter.replace("_", "-"))}
    if plain not in options:
        raise _unknown(name, plain, option, options)
    return _option(options[plain], option, settings)


def _option(target: Option, option: str, settings: Settings) -> _Target:
    """An option of the command."""
    if target.parameter in settings.drawing.given():
        raise RequestError(
            f"got --{target.name} beside {option} {target.name}, expected one of them; leave --{target.name} out"
        )
    form = FLAGS[target.parameter].form if target.parameter in FLAGS else None

    def change(settings: Settings, text: str) -> Settings:
        value = _value(target, text, option)
        drawing = settings.drawing.with_option(target.parameter, (value,) if target.repeatable else value)
        return replace(settings, drawing=drawing)

    return _Target(
        name=target.name,
        change=lambda _: change,
        numbers=target.kind in (int, float) or form in _NUMBERS,
        whole=target.kind is int,
        are_files=target.kind is Path or target.repeatable,
    )


def _without_folders(text: str) -> str:
    """Paths between colons, their last parts alone."""
    return ":".join(os.path.basename(part) for part in text.split(":"))


def _value(target: Option, text: str, option: str) -> Any:
    """A value as typer would read it."""
    if target.kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        expected = "true or false"
    else:
        try:
            return target.kind(text)
        except ValueError:
            expected = _WORDS.get(target.kind, "another")
    raise RequestError(f"got {option} {target.name} {text!r}, expected {expected}; correct it")


def _replacing(searched: str, option: str) -> Change:
    """Replaces a text, wherever it stands in the prompts, by a value."""

    def change(settings: Settings, value: str) -> Settings:
        drawing = settings.drawing
        texts = {name: drawing.keywords.get(name) or "" for name in _PROMPTS}
        if not searched or not any(searched in text for text in (settings.prompt, *texts.values())):
            raise RequestError(
                f"got {option} prompt with {searched!r} first, which PROMPT {settings.prompt!r} and the negative "
                "prompt do not have; begin with the text that the others shall replace"
            )
        for name, text in texts.items():
            if searched in text:
                drawing = drawing.with_option(name, text.replace(searched, value))
        return Settings(prompt=settings.prompt.replace(searched, value), drawing=drawing)

    return change


def _lora(name: str, option: str, settings: Settings) -> _Target:
    """The weight of one of the LoRAs, by its name."""
    loras = [lora_from_text(text) for text in settings.drawing.lora or ()]
    index = next((index for index, lora in enumerate(loras) if lora.name == name), None)
    if index is None:
        known = ", ".join(lora.name for lora in loras)
        raise RequestError(
            f"got {option} lora:{name}, expected the name of a LoRA that --lora gives; "
            + (f"choose from {known}" if known else "add --lora PATH")
        )

    def change(settings: Settings, text: str) -> Settings:
        given = list(settings.drawing.lora or ())
        given[index] = f"{loras[index].path}:{text}"
        lora_from_text(given[index])
        return replace(settings, drawing=replace(settings.drawing, lora=given))

    return _Target(name=f"{_LORA}{name}", change=lambda _: change, numbers=True)


def _sampler_option(name: str, option: str) -> _Target:
    """An option of the sampler; each cell's sampler says whether it has it."""
    known = sampler_options()
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean sampler.{close[0]}?" if close else f"choose from {', '.join(known)}"
        raise RequestError(f"got {option} sampler.{name}, expected an option of a sampler; {hint}")

    def change(settings: Settings, text: str) -> Settings:
        given = (*(settings.drawing.sampler_option or ()), f"{name}={text}")
        return replace(settings, drawing=replace(settings.drawing, sampler_option=list(given)))

    return _Target(name=f"{_SAMPLER}{name}", change=lambda _: change, numbers=True)


def sampler_options() -> Sequence[str]:
    """The names of all samplers' options."""
    from latentrt.runtime.sampling.samplers import Sampler

    return [field.name for field in fields(Sampler)[1:]]


def _unknown(name: str, plain: str, option: str, options: Mapping[str, Option]) -> RequestError:
    """The refusal of a name, with what comes close to it."""
    wanted = plain.replace("-", "_")
    if wanted in sampler_options():
        hint = f"write sampler.{wanted} for the sampler's option"
    else:
        close = get_close_matches(plain, [PROMPT, *options], 1)
        names = sorted({*(one.name for one in options.values()), PROMPT, f"{_LORA}NAME", f"{_SAMPLER}OPTION"})
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
    return RequestError(f"got {option} {name!r}, expected the name of a drawing option; {hint}")
