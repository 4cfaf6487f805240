"""``--sampler`` and ``--sampler-option``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentrt.cli.values import value_from_text
from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    from latentrt.engines.bundle.records.manifests.manifest import DefaultsRecord


def sampler_from_options(name: str | None, options: Sequence[str], defaults: "DefaultsRecord") -> Any:
    """The sampler; None for the model's own.

    Raises:
        RequestError: an unknown one, or an option that it does not have.
    """
    from latentrt.runtime.sampling.samplers import Sampler

    sampler = Sampler(name=name or defaults.sampler)
    wishes: dict[str, Any] = {}
    for text in options:
        option, _, value = text.partition("=")
        if option not in sampler.options or not value or option in wishes:
            raise RequestError(
                f"got --sampler-option {text!r} for sampler {sampler.name!r}, expected NAME=VALUE, once each, with "
                f"one of {', '.join(sampler.options)}; correct it"
            )
        wishes[option] = value_from_text(value)
    if name is None and not wishes:
        return None  # the bundle's own, which gives way to custom timesteps
    own = defaults.sampler_options if sampler.name == defaults.sampler else {}
    return Sampler(name=sampler.name, **{**own, **wishes})
