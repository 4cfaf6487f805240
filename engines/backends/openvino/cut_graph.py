"""What DeepCache makes of a compiled graph: one that returns features, too, and one that goes on from one of them.

They are cut from the XML of an exported model as it is opened, and not compiled: so they compute what the whole graph
does, over the same constants, and no file holds them. A feature is float32 wherever it enters or leaves.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from latentrt.engines.errors import EngineError

_FLOAT32 = "FP32"


class _Port(NamedTuple):
    """A layer's result: what it is called in edges, its numbers' type, and its dimensions, -1 for those of any size."""

    layer: str
    port: str
    precision: str
    dims: tuple[str, ...]


class CutGraph:
    """The XML of an exported model, to be cut once."""

    def __init__(self, xml: bytes) -> None:
        self._net = fromstring(xml)
        self._layers, self._edges = self._part("layers"), self._part("edges")
        self._named = {layer.attrib["name"]: layer for layer in self._layers}
        self._next = 1 + max(int(layer.attrib["id"]) for layer in self._layers)

    def _part(self, name: str) -> Element:
        found = self._net.find(name)
        if found is None:
            raise EngineError(f"OpenVINO exported a graph without {name}; report its version")
        return found

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it takes."""
        return tuple(layer.attrib["name"] for layer in self._layers if layer.attrib["type"] == "Parameter")

    def keeping(self, joins: Mapping[str, str]) -> Self:
        """Returns features beside its results.

        Args:
            joins: by the feature, the name of the layer that joins it to a skip.

        Raises:
            EngineError: the graph has no such layer.
        """
        for feature, name in joins.items():
            kept = self._own_plane(name)
            self._added("Result", feature, takes=self._converted(kept, _FLOAT32), output_names=feature)
        return self

    def shallow(self, feature: str, join: str) -> Self:
        """Takes a feature in the place of all below, of which nothing is left.

        Args:
            feature: its name.
            join: the name of the layer that joins it to a skip.

        Raises:
            EngineError: the graph has no such layer.
        """
        kept = self._own_plane(join)
        given = self._added("Parameter", feature, gives=(_FLOAT32, kept.dims))
        taken = self._converted(given, kept.precision)
        edge = self._edge_to(join)
        edge.set("from-layer", taken.layer)
        edge.set("from-port", taken.port)
        self._keep_needed()
        return self

    def xml(self) -> bytes:
        """It, without white space between its elements: so it is never longer than it was."""
        for element in self._net.iter():
            element.text, element.tail = _told(element.text), _told(element.tail)
        return tostring(self._net)

    def _edge_to(self, join: str) -> Element:
        """What leads to the first input of a layer that joins planes."""
        layer = self._named.get(join)
        if layer is None or layer.attrib["type"] != "Concat":
            raise EngineError(
                f"got a compiled U-Net without the layer {join!r} that joins two planes, expected it for deep_cache; "
                "report the version of openvino"
            )
        target = layer.attrib["id"], "0"
        return next(edge for edge in self._edges if (edge.attrib["to-layer"], edge.attrib["to-port"]) == target)

    def _own_plane(self, join: str) -> _Port:
        edge = self._edge_to(join)
        (port,) = self._named[join].findall("./input/port[@id='0']")
        dims = tuple(str(dim.text) for dim in port.findall("dim"))
        return _Port(edge.attrib["from-layer"], edge.attrib["from-port"], port.attrib["precision"], dims)

    def _converted(self, port: _Port, precision: str) -> _Port:
        if port.precision == precision:
            return port
        return self._added("Convert", f"{port.layer}/{precision}", takes=port, gives=(precision, port.dims))

    def _added(
        self,
        kind: str,
        name: str,
        *,
        takes: _Port | None = None,
        gives: tuple[str, Sequence[str]] | None = None,
        **attributes: str,
    ) -> _Port:
        """A further layer, and what it gives."""
        own = str(self._next)
        self._next += 1
        layer = SubElement(
            self._layers, "layer", {"id": own, "name": name, "type": kind, "version": "opset1", **attributes}
        )
        precision, dims = gives or ("", ())
        if kind == "Parameter":
            SubElement(layer, "data", shape=",".join(dims).replace("-1", "?"), element_type=_element(precision))
        if kind == "Convert":
            SubElement(layer, "data", destination_type=_element(precision))
        if takes is not None:
            _add_port(SubElement(layer, "input"), "0", takes.precision, takes.dims)
            SubElement(
                self._edges,
                "edge",
                {"from-layer": takes.layer, "from-port": takes.port, "to-layer": own, "to-port": "0"},
            )
        port = "0" if takes is None else "1"
        if gives is not None:
            _add_port(SubElement(layer, "output"), port, precision, dims, names=name)
        return _Port(own, port, precision, tuple(dims))

    def _keep_needed(self) -> None:
        """Removes every layer that no result depends on."""
        takes: dict[str, list[str]] = {}
        for edge in self._edges:
            takes.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
        wanted = [layer.attrib["id"] for layer in self._layers if layer.attrib["type"] == "Result"]
        needed = set[str]()
        while wanted:
            layer = wanted.pop()
            if layer not in needed:
                needed.add(layer)
                wanted += takes.get(layer, ())
        self._layers[:] = [layer for layer in self._layers if layer.attrib["id"] in needed]
        self._edges[:] = [edge for edge in self._edges if edge.attrib["to-layer"] in needed]


def _add_port(side: Element, identity: str, precision: str, dims: Sequence[str], **attributes: str) -> None:
    port = SubElement(side, "port", {"id": identity, "precision": precision, **attributes})
    for dim in dims:
        SubElement(port, "dim").text = dim


def _element(precision: str) -> str:
    """An element's type by the name that ports have for it: f32 by FP32."""
    return re.sub(r"^FP(?=\d)", "F", precision).lower()


def _told(text: str | None) -> str | None:
    return text if text and text.strip() else None
