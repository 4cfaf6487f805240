"""``latentrt serve``: what is found out before it listens, and a whole run."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import latentrt

SOON = 120.0  # seconds that nothing here takes


def folder(path: Path, name: str) -> Path:
    (path / name).mkdir(parents=True)
    return path / name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "without a token, expected one where others can reach the server"),
        (["--token", ""], "got a token that is empty"),
        (["--token", "two words"], "got a token that is empty or has characters"),
        (["--token-file", "no-such-file"], "cannot read --token-file 'no-such-file'"),
        (["--backend", "none"], "got backend 'none'"),
        (["--profile", "33x32"], "got --profile 33x32, which no bundle has, expected some of: 32x32, 48x32"),
        (["--profile", "large"], "got profile 'large'"),
        (["--memory", "much"], "got --memory 'much', expected a size such as 8GB"),
        (["--loras", "no-such-folder"], "got folder 'no-such-folder', which is not there"),
        (["--wildcards", "no-such-folder"], "got folder 'no-such-folder', which is not there"),
        (["--max-cost", "-1"], "Invalid value for '--max-cost'"),
        (["--max-cost", "nan"], "Invalid value for '--max-cost'"),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--host", "192.0.2.1", "--no-auth"], "cannot listen at 192.0.2.1 port 8000"),
        (["--host", "no such host", "--no-auth"], "cannot listen at no such host"),
    ],
)
def test_what_cannot_be_is_told_before_it_listens(
    tiny_bundle: Path, command: Callable[..., Any], options: list[str], message: str
) -> None:
    """One sentence, status 2."""
    ran = command("serve", tiny_bundle, *options)
    assert (ran.status, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_bundles_that_cannot_be(tiny_bundle: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    """None, nothing in it, and two of one name."""
    assert "no-such" in command("serve", tmp_path / "no-such").stderr
    assert command("serve", folder(tmp_path, "empty")).status == 2
    twin = folder(tmp_path, "other") / tiny_bundle.name
    twin.symlink_to(tiny_bundle)
    assert "got two bundles called 'tiny'" in command("serve", tiny_bundle, twin).stderr


def test_a_port_that_is_taken(tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """By somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1 port {port}" in command("serve", tiny_bundle, "--port", port).stderr


def test_a_missing_package_is_named(
    tiny_bundle: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what installs it."""
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else found(name))
    ran = command("serve", tiny_bundle)
    assert (ran.status, "fastapi" in ran.stderr, "latentrt[serve]" in ran.stderr) == (2, True, True)


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server process that is ready, and a client of it."""
    environment = {**os.environ, "LATENTRT_TOKEN": "correct-horse"}
    command = [sys.executable, "-m", "latentrt", "serve", *map(str, arguments), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, encoding="utf-8"
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(5)]
        address = re.search(r"http://127\.0\.0\.1:\d+", lines[1])
        assert address is not None, lines
        headers = {"Authorization": "Bearer correct-horse"}
        with httpx.Client(base_url=address[0], headers=headers, timeout=SOON) as client:
            end = time.monotonic() + SOON
            while client.get("/health/ready").status_code != 200:
                assert time.monotonic() < end
                time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if process.stderr is not None:
            process.stderr.close()


@pytest.mark.slow
def test_a_whole_run(emoji_bundle: Path) -> None:
    """Ready, a picture as the pipeline draws it, then SIGTERM: what runs is finished, the rest is told, status 0."""
    with serving(emoji_bundle, "--concurrency", 1, "--queue", 2) as (process, client):
        assert client.get("/v1/jobs", headers={"Authorization": "Bearer wrong"}).status_code == 401
        order = {"prompt": "red apple", "num_inference_steps": 4, "seed": 3}
        job = client.post("/v1/jobs", json=order).json()
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
            names = [line.removeprefix("event: ") for line in events.iter_lines() if line.startswith("event: ")]
        assert names[-1] == "done"
        served = Image.open(BytesIO(client.get(f"/v1/jobs/{job['id']}/pictures/0").content))
        with latentrt.open(emoji_bundle, threads=1) as pipe:
            alone = pipe(**order).images[0]
        assert np.array_equal(np.asarray(served), np.asarray(alone))
        running = client.post("/v1/jobs", json={**order, "num_inference_steps": 150}).json()["id"]
        waiting = client.post("/v1/jobs", json=order).json()["id"]
        while client.get(f"/v1/jobs/{running}").json()["step"] < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while client.get("/health/ready").status_code != 503:
            time.sleep(0.01)
        assert client.post("/v1/jobs", json=order).status_code == 503
        assert client.get(f"/v1/jobs/{waiting}").json()["error"]["code"] == "draining"
        with client.stream("GET", f"/v1/jobs/{running}/events") as events:
            assert list(events.iter_lines())[-3] == "event: done"
        assert client.get(f"/v1/jobs/{running}/pictures/0").status_code == 200
        _, errors = process.communicate(timeout=SOON)
        assert process.returncode == 0
        assert "red apple" not in errors
        assert "Traceback" not in errors
        assert len(re.findall(r"job \w{32} model=emoji .* state=done", errors)) == 3  # one of them warmed the model


@pytest.mark.slow
@pytest.mark.parametrize("drain", [0.0, 600.0])
def test_an_end_that_does_not_wait(emoji_bundle: Path, drain: float) -> None:
    """No time to drain, or a second signal."""
    with serving(emoji_bundle, "--drain", drain, "--max-steps", 1000) as (process, client):
        client.post("/v1/jobs", json={"prompt": "red apple", "num_inference_steps": 1000})
        process.send_signal(signal.SIGINT)
        if drain:
            while client.get("/health/ready").status_code != 503:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=SOON)
        assert process.returncode == (1 if drain else 0)


@pytest.mark.slow
def test_a_model_that_cannot_draw_ends_the_server(tiny_copy: Path, command: Callable[..., Any]) -> None:
    """Its engine is not what its record says."""
    for engine in tiny_copy.rglob("*.onnx"):
        engine.write_bytes(b"nothing")
    ran = command("serve", tiny_copy, "--port", 0)
    assert ran.status == 2
    assert "Traceback" not in ran.stderr
