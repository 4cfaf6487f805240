"""Members of enums, from what callers give."""

from typing import Any

import pytest

from latentrt.engines.choices import choice, choice_if_given
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Backend, Precision


@pytest.mark.parametrize("value", ["fp16", Precision.FP16])
def test_a_value_or_the_member_itself(value: str) -> None:
    """Both give the member; None stays None only where it may."""
    assert choice(Precision, value, "precision") is Precision.FP16
    assert choice_if_given(Precision, value, "precision") is Precision.FP16
    assert choice_if_given(Precision, None, "precision") is None


@pytest.mark.parametrize("value", ["fp12", "FP16", "", None, 16, ["fp16"], Backend.ORT_CPU])
def test_anything_else_is_refused_with_the_choices(value: Any) -> None:
    """The sentence shows what was given as it was written, and lists the values."""
    shown = repr(str(value)) if isinstance(value, str) else repr(value)
    with pytest.raises(RequestError) as caught:
        choice(Precision, value, "precision", besides=("auto",))
    assert (
        str(caught.value)
        == f"got precision {shown}, expected one of auto, fp32, fp16, bf16, int8, fp8; choose one of these"
    )
