"""Reads files of orders: every line is checked before the first is drawn."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import LatentrtError, RequestError, shown
from latentrt.runtime.call.keywords.flags import FLAGS
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.order import Order, cost_of
from latentrt.runtime.serving.jobs.order_json import JobRequest, order_from_json
from latentrt.runtime.serving.render.check import OrderCheck
from latentrt.runtime.serving.render.digests import Digests
from latentrt.runtime.serving.render.order_line import OrderLine
from latentrt.runtime.serving.render.pictures import Pictures, absolute, with_pictures

_ID, _MODEL, _SEED = "id", "model", "seed"
_EXAMPLE = '{"prompt": "a cat", "seed": 1}'


class OrdersError(RequestError):
    """Lines of a file that cannot be drawn.

    Attributes:
        faults: what is wrong, by the line's number.
    """

    def __init__(self, name: str, lines: int, faults: Mapping[int, str]) -> None:
        """Says how many there are, and what is wrong with each."""
        self.faults = faults
        told = " ".join(f"(line {line}) {fault}" for line, fault in faults.items())
        super().__init__(
            f"got {name}, of which {len(faults)} of {lines} cannot be drawn, so that none was; correct them: {told}"
        )


def lines_from_text(text: str, name: str, folder: Path, catalog: Catalog) -> list[OrderLine]:
    """The orders of a file, each checked.

    Args:
        text: JSON objects, one a line; empty lines are skipped.
        name: what messages call the file.
        folder: that relative paths of pictures start from.
        catalog: the model, and what orders may name.

    Raises:
        OrdersError: with every line that cannot be drawn.
        RequestError: there is no order.
        BundleError: no bundle, damaged, or of a newer latentrt.
    """
    reader = _Reader(folder, catalog)
    faults: dict[int, str] = {}
    orders: list[OrderLine] = []
    written = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not written:
        raise RequestError(f"got {name} without an order, expected one a line, such as {_EXAMPLE}; add some")
    for number, line in written:
        try:
            orders.append(reader.order(number, line))
        except LatentrtError as error:
            faults[number] = str(error)
    if faults:
        raise OrdersError(name, len(written), faults)
    return orders


def order_from_line(line: OrderLine, catalog: Catalog, pictures: Pictures) -> Order:
    """What a line asks for, with its pictures read.

    Raises:
        RequestError: a picture that is not what it was.
    """
    return order_from_json(JobRequest.model_validate(line.request), catalog, pictures.read)


class _Reader:
    """Reads line after line."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        bundle = open_bundle(catalog.models[catalog.default])
        self._folder, self._catalog, self._manifest = folder, catalog, bundle.manifest
        self._check, self._pictures = OrderCheck(catalog, bundle), Pictures()
        self._digests = Digests(catalog, bundle.manifest, self._pictures)

    def order(self, number: int, text: str) -> OrderLine:
        """The order in a line.

        Raises:
            RequestError: there is none, or it cannot be drawn.
        """
        data = _object(text)
        given_id = data.pop(_ID, None)
        if given_id is not None and not isinstance(given_id, (str, int)):
            raise RequestError(f"got id {shown(given_id)}, expected a text; correct it")
        request = self._request(data)
        order = order_from_json(JobRequest.model_validate(request), self._catalog, self._pictures.read)
        self._check.check(order)
        pictures = cost_of(order, self._manifest).pictures
        request.pop(_MODEL, None)  # there is one, whose digest counts
        if _SEED not in request:
            request[_SEED] = self._digests.seeds(request, pictures)
        return OrderLine(
            line=number,
            id=None if given_id is None else str(given_id),
            digest=self._digests.of(request),
            request=request,
            pictures=pictures,
        )

    def _request(self, data: dict[str, Any]) -> dict[str, Any]:
        """A ``JobRequest`` as JSON, without what is at its default."""
        try:
            request = JobRequest.model_validate(data)
        except ValidationError as error:
            told = "; ".join(dict.fromkeys(_faults(error)))
            raise RequestError(told if told.endswith("?") else f"{told}; correct it") from error
        written = request.model_dump(mode="json", exclude_defaults=True)
        return with_pictures(written, lambda text: absolute(text, self._folder))


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"got {shown(text)}, which is no JSON, expected such as {_EXAMPLE}; correct it") from error
    if not isinstance(data, dict):
        raise RequestError(f"got {shown(data)}, expected a JSON object such as {_EXAMPLE}; correct it")
    return data


def _faults(error: ValidationError) -> Iterator[str]:
    """What is wrong, once for each field."""
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else "the order"
        if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
            from difflib import get_close_matches  # loaded by mistakes

            options = {flag.name.removeprefix("--").replace("-", "_"): keyword for keyword, flag in FLAGS.items()}
            close = get_close_matches(name, [*JobRequest.model_fields, *options], 1)
            meant = f"; did you mean {options.get(close[0], close[0])}?" if close else ""
            yield f"got {name!r}, which no order has{meant}"
        else:
            yield f"got {name} {shown(fault['input'])} ({fault['msg'].lower()})"
