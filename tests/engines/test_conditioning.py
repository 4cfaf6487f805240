"""A bundle whose manifest names conditioning that is not there, or does not go together, is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import BundleError

ALTERED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an encoder gone": (lambda m: m["components"].pop("text_encoder_2"), "lacks text_encoder_2;"),
    "a tokenizer gone": (lambda m: m["tokenizers"].pop("tokenizer_2"), "lacks tokenizer_2;"),
    "a table gone": (lambda m: m["token_embeddings"].pop("text_encoder"), "lacks text_encoder's token embeddings;"),
    "no encoder": (lambda m: m["conditioning"].update(text_encoders=[]), "expected text encoders or an image encoder"),
    "other lengths": (lambda m: m["tokenizers"]["tokenizer_2"].update(length=50), "prompts of different lengths"),
    "no sizes": (lambda m: m["conditioning"].update(time_ids="none"), "time ids 'none' for sample"),
    "a video without a picture": (
        lambda m: m["conditioning"].update(time_ids="motion"),
        "a model that draws videos has an image encoder",
    ),
    "no pooled vector": (
        lambda m: m["conditioning"]["text_encoders"][1].update(pooled=False),
        "a pooled vector of no text encoder for sample",
    ),
    "two pooled vectors": (
        lambda m: m["conditioning"]["text_encoders"][0].update(pooled=True),
        "a pooled vector of text_encoder, text_encoder_2 for sample",
    ),
}


@pytest.mark.parametrize("case", ALTERED)
def test_refused(family_bundle: Callable[[str], Path], tmp_path: Path, case: str) -> None:
    """When it is opened, with what is wrong."""
    alter, reason = ALTERED[case]
    manifest = json.loads((family_bundle("sdxl") / "bundle.json").read_text())
    alter(manifest)
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=reason):
        open_bundle(tmp_path)
