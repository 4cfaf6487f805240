"""One file for all graphs of a component: OpenVINO's exported models over one copy of the weights.

An exported model is a description of the machine, a header of six numbers, settings, the constants, and the graph as
XML, which says where in the constants each of its own is. Of several models of a component the weights are the same
numbers. So they are written once:

    machine | header | settings | constants of the first | its graph | constants that the second adds | its graph | …

To open the n-th, the file is mapped up to the end of its graph, and the header in the mapping, which is private, is set
to where that graph is; what lies before it counts as constants.
"""

import mmap
import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self
from xml.sax.saxutils import unescape

import numpy as np

from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array

_MAGIC = b"RR_UPCVO"
_HEADER = struct.Struct("<6Q")  # settings, constants and graph: where, from the header on, and how long
_ALIGNMENT = 64  # bytes: one AVX-512 register, one cache line
_PAGE = 4096
_CONSTANT = re.compile(
    r'(?P<before><layer [^>]*?type="Const"[^>]*>\s*<data [^>]*?offset=")(?P<offset>\d+)(?P<between>"[^>]*? size=")'
    r'(?P<size>\d+)(?P<after>"[^>]*>(?:\s*<rt_info>.*?</rt_info>)?)',
    re.DOTALL,
)
_FUSED = re.compile(r'name="fused_names"[^>]*? value="([^"]*)"')


class Constant(NamedTuple):
    """A constant of the n-th graph: its bytes lie at ``offset``, counted from the first constant of the file.

    ``origins`` are the initializers of the ONNX that it was made of, as far as OpenVINO tells.
    """

    graph: int
    origins: frozenset[str]
    offset: int
    size: int


class GraphPlace(NamedTuple):
    """Where a graph is: its XML's first byte in the file, how long it is, and its SHA-256."""

    start: int
    size: int
    sha256: str


class BlobPlaces(NamedTuple):
    """Where all graphs of a file find what they share: the header, and the first constant.

    ``sha256`` is of all that is before that constant, and of where the header is.
    """

    header: int
    constants: int
    sha256: str


class BlobWriter:
    """Writes a file, model by model. As a context manager it closes it."""

    def __init__(self, path: Path, initializers: Collection[str]) -> None:
        """Begins the file.

        Args:
            path: is replaced.
            initializers: of the ONNX, those that constants are told to be made of.
        """
        self._file: BinaryIO = path.open("wb")
        self._initializers = frozenset(initializers)
        self._places: BlobPlaces | None = None
        self._machine = b""
        self._settings = b""
        self._offsets: dict[tuple[bytes, frozenset[str], int], int] = {}
        self._graphs = 0
        self.constants: list[Constant] = []

    @property
    def places(self) -> BlobPlaces:
        """Of the first model, which was added.

        Raises:
            EngineError: none was.
        """
        if self._places is None:
            raise EngineError("got no model for an engine, expected at least one; build the bundle again")
        return self._places

    def add(self, exported: memoryview) -> GraphPlace:
        """Adds a model, as OpenVINO exported it.

        Raises:
            EngineError: it is not written as version 2026.4 writes it, or for another machine than those before.
        """
        header = _header_of(exported)
        settings, settings_size, constants, constants_size, graph, graph_size = (
            int(number) for number in _HEADER.unpack_from(exported, header)
        )
        if self._places is None:
            self._machine = bytes(exported[:header])
            self._settings = bytes(exported[header + settings :][:settings_size])
            first = -(-(header + _HEADER.size + settings_size) // _PAGE) * _PAGE
            start = self._machine + bytes(_HEADER.size) + self._settings
            start += b"\n" * (first - len(start))  # behind XML white space is nothing
            self._places = BlobPlaces(header=header, constants=first, sha256=_digest(start, header))
            self._file.write(start)
        if bytes(exported[:header]) != self._machine or exported[header + settings :][:settings_size] != self._settings:
            raise EngineError("OpenVINO exported two models of a component for two machines; build the bundle again")
        xml = str(exported[header + graph :][:graph_size], "utf-8")
        moved = self._with_constants(xml, exported[header + constants :][:constants_size]).encode()
        place = GraphPlace(start=self._file.tell(), size=len(moved), sha256=sha256(moved).hexdigest())
        self._file.write(moved)
        self._graphs += 1
        return place

    def _with_constants(self, xml: str, constants: memoryview) -> str:
        """The graph with its constants where they are in this file; those that are new to it are written."""
        # Two constants of one graph stay two, also where their numbers are the same: a LoRA may change one of them
        seen: Counter[bytes] = Counter()

        def moved(match: re.Match[str]) -> str:
            offset, size = int(match["offset"]), int(match["size"])
            content = constants[offset : offset + size]
            digest, origins = sha256(content).digest(), self._origins(match["after"])
            key = digest, origins, 0 if origins else seen[digest]
            seen[digest] += not origins
            if key not in self._offsets:
                self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
                self._offsets[key] = self._file.tell() - self.places.constants
                self._file.write(content)
            self.constants.append(Constant(self._graphs, origins, self._offsets[key], size))
            return f"{match['before']}{self._offsets[key]}{match['between']}{size}{match['after']}"

        return _CONSTANT.sub(moved, xml)

    def _origins(self, told: str) -> frozenset[str]:
        match = _FUSED.search(told)
        names = unescape(match[1]).split(",") if match else ()
        return self._initializers.intersection(name.strip() for name in names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()


def _header_of(exported: memoryview) -> int:
    """Where the six numbers are: behind the description of the machine, whose length is told before it.

    Raises:
        EngineError: they are not there.
    """
    if bytes(exported[: len(_MAGIC)]) == _MAGIC:
        (length,) = struct.unpack_from("<I", exported, len(_MAGIC) + 4)
        for header in range(len(_MAGIC) + length, len(_MAGIC) + length + 2 * _ALIGNMENT):
            settings, size, constants, _, graph, graph_size = _HEADER.unpack_from(exported, header)
            if (
                settings == _HEADER.size
                and constants == settings + size
                and header + graph + graph_size == len(exported)
            ):
                return header
    raise EngineError(
        "OpenVINO exported a model in a form that is not known, expected that of version 2026.4; install this version"
    )


def _digest(head: bytes | memoryview, header: int) -> str:
    return sha256(b"%d " % header + head).hexdigest()


def mapped_graph(
    path: Path,
    places: BlobPlaces,
    place: GraphPlace,
    changed: Mapping[int, Array],
    made_of: Callable[[bytes], bytes] | None = None,
) -> mmap.mmap:
    """The file as the model of one of its graphs: mapped, with the pages that differ from the file as copies.

    Args:
        path: the file.
        places: of what its graphs share.
        place: of the graph.
        changed: other numbers for some constants, by their offsets.
        made_of: makes another graph of its XML, which is no longer; None: it stays as it is.

    Raises:
        OSError: it cannot be mapped.
        ValueError: it is shorter than it should be, or what is no constant was altered.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), place.start + place.size, access=mmap.ACCESS_COPY)
    # OpenVINO believes what it reads: an offset that is none would end the process
    with memoryview(mapped) as whole, whole[: places.constants] as head, whole[place.start :] as graph:
        if (_digest(head, places.header), sha256(graph).hexdigest()) != (places.sha256, place.sha256):
            raise ValueError("its graph was altered")
    if made_of is not None:  # OpenVINO reads to the end, and behind XML white space is nothing
        mapped[place.start :] = made_of(mapped[place.start :]).ljust(place.size)
    first, last = places.constants - places.header, place.start - places.header
    _HEADER.pack_into(mapped, places.header, _HEADER.size, first - _HEADER.size, first, last - first, last, place.size)
    for offset, content in changed.items():
        start = places.constants + offset
        mapped[start : start + content.nbytes] = np.ascontiguousarray(content).data.cast("B")
    return mapped
