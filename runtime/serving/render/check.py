"""Orders checked before anything is drawn, without an engine."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from typing import Any, cast

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.errors import LatentrtError
from latentrt.engines.precision import Backend
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.hires.hires import PictureUpscaler
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.workflow import check_reads_text
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.named_files import FILTERS, keywords_with_files, loras_of
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.lanes.submitted import submitted_call

_NETS = ("control", "image_prompt")
_PICTURES: Mapping[str, Any] = {
    name: one.default for name, one in signature(Pipeline.submit).parameters.items() if one.kind is one.KEYWORD_ONLY
}
"""What ``Pipeline.submit`` takes beside the keywords that all ways of drawing share, with their defaults."""


class OrderCheck:
    """Refuses what a pipeline would refuse as it is called.

    Nets and upscalers are not opened: whether they fit the model, drawing tells.
    """

    def __init__(self, catalog: Catalog, bundle: Bundle) -> None:
        """Takes what orders may name, and loads the embeddings that fit the model, as the service does.

        Raises:
            RequestError: a model that reads no text, which orders begin with.
        """
        check_reads_text(bundle.manifest, "orders")
        self._catalog, self._manifest = catalog, bundle.manifest
        self._additions = Additions(bundle, Backend.ORT_CPU, threads=None)
        self._loras: set[str] = set()
        for path in catalog.embeddings.values():
            with suppress(LatentrtError):  # one for another model
                self._additions.load_textual_inversion(path, None)

    def check(self, order: Order) -> None:
        """Refuses an order.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
            UnknownNameError: a model, LoRA, net or upscaler that there is not.
        """
        self._catalog.model(order.model)
        for name in loras_of(order):
            if name not in self._loras:
                self._additions.load_lora(self._catalog.path("LoRA", self._catalog.loras, name), name)
                self._loras.add(name)
        keywords = keywords_with_files(order, self._catalog)
        options: dict[str, Any] = {name: value for name, value in keywords.items() if name not in _NETS}
        hires = options.get("hires")
        if hires is not None and hires.upscaler not in FILTERS:
            options["hires"] = replace(hires, upscaler=PictureUpscaler.LANCZOS)
        pictures = {name: options.pop(name, default) for name, default in _PICTURES.items()}
        with warnings.catch_warnings(action="ignore"):  # which come again as it is drawn
            submitted_call(self._manifest, order.prompt, cast(Options, options), self._additions, **pictures)
