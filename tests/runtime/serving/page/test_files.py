"""The page's files as they are served, and what may not stand in them."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

import latentrt.runtime.serving.http.page.routes as page
from latentrt.runtime.metadata.a1111_names import sampler_name
from latentrt.runtime.sampling.sampler_table import KARRAS_SUFFIX, SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service

FOLDER = Path(page.__file__).parent
FILES = {
    path.name: path.read_text("utf-8") for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js", ".svg")
}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A server with a token, which the page's files do not ask for; they need no model."""
    service = Service(Models(Catalog(models={}), cast(Any, None)))
    with TestClient(create_app(service, Settings(token="secret"))) as opened:
        yield opened
    service.close()


class Elements(HTMLParser):
    """The elements of the page: each one's name and attributes, and the labels that are around it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], bool]] = []
        self.labels = 0
        self.feed(FILES["index.html"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.labels += tag == "label"
        self.found.append((tag, dict(attrs), self.labels > 0))

    def handle_endtag(self, tag: str) -> None:
        self.labels -= tag == "label"


ELEMENTS = Elements().found


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_served_with_its_type_and_told_apart_by_its_tag(client: TestClient, name: str) -> None:
    """Every one, to everybody; asked for with its tag, it is not sent again; with another's, it is."""
    path = "/" if name == "index.html" else f"/page/{name}"
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (200, FILES[name])
    assert answer.headers["content-type"].split(";")[0] == TYPES[name.rpartition(".")[2]]
    assert answer.headers["cache-control"] == "no-cache"
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(path).headers["content-length"] == answer.headers["content-length"]


def test_nothing_but_the_list_is_served(client: TestClient) -> None:
    """Python files and paths out of the folder are not there; the list has all else, and no name twice."""
    for name in ("routes.py", "__init__.py", "index.html", "..%2froutes.py", "%2e%2e%2fapp.py", "nothing.js"):
        assert client.get(f"/page/{name}").status_code == 404
    assert sorted((*page.NAMES, "index.html")) == sorted(FILES)


def test_browsers_are_told_to_load_nothing_from_elsewhere(client: TestClient) -> None:
    """The policy has neither other origins nor inline scripts and styles; types are not guessed."""
    for path in ("/", "/page/main.js"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] in ("'none'", "'self'")
        for source in ("script-src", "style-src", "connect-src"):
            assert policy.get(source, policy["default-src"]) == "'self'"
        assert policy["img-src"].split() == ["'self'", "data:", "blob:"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_names_another_origin(name: str) -> None:
    """Addresses are relative, so that the page works below any path; SVG's namespace is a name."""
    addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", FILES[name])
    assert {one for one in addresses if not one.startswith("http://www.w3.org/2000/svg")} == set()
    assert not re.search(r"""(?:src|href|from|import|fetch|URL)\W*["'(]/""", FILES[name])
    assert not re.search(r"\b(?:eval|innerHTML|outerHTML|insertAdjacentHTML|document\.write)\b", FILES[name])


def test_what_files_name_is_there() -> None:
    """Modules by their imports, files by the page's addresses, elements by the modules' words."""
    imported = {name for text in FILES.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    linked = set(re.findall(r'(?:src|href)="page/([\w.]+)"', FILES["index.html"]))
    assert imported | linked == set(page.NAMES)
    ids = {attributes["id"] for _, attributes, _ in ELEMENTS if "id" in attributes}
    asked = {name for text in FILES.values() for name in re.findall(r"""\$\("([\w.-]+)"\)""", text)}
    assert len(asked) > 50
    assert asked <= ids


def test_the_page_has_nothing_inline() -> None:
    """No script's text, no style, no handler: the policy would leave them out."""
    for tag, attributes, _ in ELEMENTS:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_everything_that_is_operated_has_a_name() -> None:
    """A label that is around it or names it, or an attribute; a button's text may be its name. No id stands twice."""
    ids = [attributes["id"] for _, attributes, _ in ELEMENTS if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes.get("for") for tag, attributes, _ in ELEMENTS if tag == "label"}
    controls = [each for each in ELEMENTS if each[0] in ("input", "select", "textarea", "canvas", "progress")]
    for _, attributes, inside in controls:
        assert inside or attributes.get("id") in labelled or "aria-label" in attributes or "hidden" in attributes
    assert len(controls) > 20
    for tag, attributes, _ in ELEMENTS:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) in {None, *ids}, (tag, attributes)


def test_samplers_are_found_by_the_names_that_pictures_have() -> None:
    """A1111's, which stand in a picture's settings, become the labels that the server offers."""
    table = re.search(r"LABELS = \{(.*)\}", FILES["parameters.js"])
    assert table is not None
    labels = dict(re.findall(r'"?(\w[\w ]*)"?: "([^"]+)"', table[1]))
    for name, row in SAMPLERS.items():
        written = sampler_name(Sampler(name=name))
        karras = " Karras" if name.endswith(KARRAS_SUFFIX) else ""
        if name != "edm_euler":  # which has Euler's name there
            assert labels.get(written, written) + karras == row.label


def test_who_has_no_token_is_asked_by_the_page_alone(client: TestClient) -> None:
    """The challenge to its scripts does not name Basic, for which a browser would open a window of its own."""
    for more, schemes in (({}, {"Bearer", "Basic"}), ({"X-Requested-With": "latentrt"}, {"Bearer"})):
        answer = client.get("/v1/options", headers=more)
        assert answer.status_code == 401
        assert {one.split()[0] for one in answer.headers.get_list("www-authenticate")} == schemes
