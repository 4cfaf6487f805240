"""What the prompts of one text encoder need beside its engine: tokenizer, token embeddings, textual inversions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.records.conditioning import TextEncoderRecord
from latentrt.engines.bundle.tokenizer import Tokenizer, tokenizer_from_folder
from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.textual_inversion import TextualInversions, inversions_from_paths
from latentrt.runtime.prompts.token_embeddings import TokenEmbeddings

_NONE = TextualInversions()


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """One text encoder of a bundle. Never changes; loading a textual inversion makes another one."""

    record: TextEncoderRecord
    tokenizer: Tokenizer
    embeddings: TokenEmbeddings
    inversions: TextualInversions = _NONE

    def with_loaded(self, paths: Any, token: Any) -> "TextEncoder":
        """This one with the vectors of embedding files; see ``Pipeline.load_textual_inversion``.

        Raises:
            RequestError: a file that is damaged or not for this text encoder, or a trigger that is taken.
        """
        added = inversions_from_paths(paths, token, tokenizer=self.tokenizer, width=self.embeddings.width)
        return replace(self, inversions=self.inversions.with_loaded(added))

    def with_inversions(self, inversions: TextualInversions) -> "TextEncoder":
        """This one with the textual inversions of another one.

        Raises:
            RequestError: they are of another width.
        """
        widths = {one.vectors.shape[1] for one in inversions.loaded} - {self.embeddings.width}
        if widths:
            raise RequestError(
                f"got textual inversions of width {widths.pop()}, and the bundle here is of a model of width "
                f"{self.embeddings.width}; bring the same bundle here"
            )
        return replace(self, inversions=inversions)

    def without(self, triggers: str | Sequence[str] | None) -> "TextEncoder":
        """This one without some textual inversions; None: without any.

        Raises:
            RequestError: a trigger that is not loaded.
        """
        return replace(self, inversions=_NONE if triggers is None else self.inversions.without(triggers))


def inversions_of(encoders: Sequence[TextEncoder]) -> TextualInversions:
    """The textual inversions that are loaded; a model without a text encoder has none."""
    return encoders[0].inversions if encoders else _NONE


def text_encoders_from_bundle(bundle: Bundle) -> tuple[TextEncoder, ...]:
    """The bundle's text encoders, in the order in which their states lie side by side.

    Raises:
        BundleError: a file is missing or altered.
    """
    manifest, found = bundle.manifest, []
    for record in manifest.conditioning.text_encoders:
        tokenizer = manifest.tokenizers[record.tokenizer]
        for name in manifest.files:
            if name.startswith(f"{tokenizer.folder}/"):
                bundle.path(name)
        table = manifest.token_embeddings[record.component]
        found.append(
            TextEncoder(
                record=record,
                tokenizer=tokenizer_from_folder(bundle.root / tokenizer.folder, length=tokenizer.length),
                embeddings=TokenEmbeddings(bundle.path(table.file), table),
            )
        )
    return tuple(found)
