"""Profiles in JSON: as text, such as ``512x512x2``."""

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from latentrt.engines.shapes import Profile, profile_from_text


def _profile(value: object) -> object:
    return profile_from_text(value) if isinstance(value, str) else value


ProfileText = Annotated[Profile, BeforeValidator(_profile), PlainSerializer(str)]
