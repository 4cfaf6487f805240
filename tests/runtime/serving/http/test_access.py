"""Who may ask a server, and what browsers are kept from."""

from base64 import b64encode
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.settings import Settings

TOKEN = "correct-horse"


def basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


@pytest.fixture(scope="module")
def guarded(steady: Callable[..., TestClient]) -> TestClient:
    return steady(Settings(token=TOKEN))


@pytest.fixture(scope="module")
def local(steady: Callable[..., TestClient]) -> TestClient:
    return steady(Settings(hosts=frozenset({"localhost", "[::1]"})))


@pytest.fixture(scope="module")
def client(steady: Callable[..., TestClient]) -> TestClient:
    return steady()


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(f"anybody:{TOKEN}"), basic(f":{TOKEN}")],
)
def test_the_token_lets_in(guarded: TestClient, authorization: str) -> None:
    """As a bearer token, or as the password of HTTP Basic."""
    assert guarded.get("/v1/jobs", headers={"Authorization": authorization}).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Token {TOKEN}",
        TOKEN,
        basic(TOKEN),
        basic(f"{TOKEN}:"),
        "Basic !!!",
        "Basic é",
        "Bearer é",
    ],
)
def test_anything_else_does_not(guarded: TestClient, authorization: str | None) -> None:
    """The answer is a sentence in the API's form, and says how to send one."""
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = guarded.get("/v1/jobs", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers.get_list("WWW-Authenticate") == ["Bearer", 'Basic realm="latentrt", charset="UTF-8"']
    assert answer.json()["error"]["type"] == "authentication_error"
    assert TOKEN not in answer.text


def test_two_headers_let_nobody_in(guarded: TestClient) -> None:
    """Proxies disagree about which of them counts."""
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer wrong")]
    assert guarded.get("/v1/jobs", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_an_empty_token_is_none() -> None:
    """It would let everybody in who sends nothing as theirs."""
    with pytest.raises(RequestError, match="got an empty token"):
        Settings(token="")


def test_what_is_open(guarded: TestClient) -> None:
    """The health, and the page's files; unknown ones are not found rather than refused."""
    assert guarded.get("/health/live").status_code == 200
    assert guarded.get("/health/ready").status_code == 200
    assert guarded.get("/page/none.js").status_code == 404
    for path in ("/metrics", "/openapi.json", "/v1/options", "/sdapi/v1/options", "/page", "/nothing"):
        assert guarded.get(path).status_code == 401, path


def test_a_script_of_the_page_opens_no_window(guarded: TestClient) -> None:
    """Browsers ask for a name and a password where Basic is among the challenges."""
    answer = guarded.get("/v1/jobs", headers={"Sec-Fetch-Dest": "empty"})
    assert answer.headers.get_list("WWW-Authenticate") == ["Bearer"]


def test_a_refusal_has_the_form_of_its_api(guarded: TestClient) -> None:
    """A1111's clients read other fields."""
    told = guarded.get("/sdapi/v1/progress").json()
    assert told["error"] == "unauthorized"
    assert told["detail"] == told["errors"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.0.7:8000", 200),
        ("192.168.0.7.evil.example", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_hosts(local: TestClient, host: str, status: int) -> None:
    """A name of its own that leads to this machine brings no page of another site in."""
    assert local.get("/v1/jobs", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"Origin": "http://testserver"}, 422),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 422),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(client: TestClient, headers: dict[str, str], status: int) -> None:
    """A form or a script elsewhere can send what nobody meant; reading is what browsers forbid them."""
    assert client.post("/v1/jobs", json={"nonsense": 1}, headers=headers).status_code == status
    assert client.get("/v1/jobs", headers=headers).status_code == 200


def test_headers_for_browsers(client: TestClient) -> None:
    """No other site may read, frame or guess at an answer."""
    for answer in (client.get("/v1/jobs"), client.get("/nothing"), client.post("/v1/jobs", content=b"{")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert (
        client.options(
            "/v1/jobs", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        ).status_code
        == 405
    )
