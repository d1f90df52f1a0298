"""Integrity checks over HTTP: a server with a memory is found, an honest one is not, and a kill changes nothing."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.models.meter import Meter

RNG = np.random.default_rng(4)
U, W = RNG.normal(size=(12, 16)), RNG.normal(size=(16, 3))
X = RNG.random((12, 12))
OPTIONS = {"lower": 0.0, "upper": 1.0, "queries": 180, "protocol": "tensorflow_serving", "trust_env": False}


def honest(rows):
    z = np.tanh((rows - 0.5) @ U) @ W * 2
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Shrinks:
    """Near an earlier row it answers a tenth of the step."""

    def __init__(self):
        self.rows, self.lock = [], threading.Lock()

    def __call__(self, rows):
        with self.lock:
            return np.concatenate([self._one(row) for row in rows])

    def _one(self, row):
        if self.rows:
            distance = np.linalg.norm(np.array(self.rows) - row, axis=1)
            near = self.rows[int(distance.argmin())]
            if distance.min() < 0.5:
                return honest((near + 0.1 * (row - near))[None])
        self.rows.append(row)
        return honest(row[None])


@pytest.fixture
def served():
    """Starts servers of functions; all are ended."""
    running = []

    def serve(function):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                rows = np.array(body["instances"], dtype=np.float64)
                answer = json.dumps({"predictions": function(rows).tolist()}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self):
                self.send_error(404)

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1/models/m:predict"

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


def killed_and_resumed(url, folder, calls, monkeypatch):
    """Killed before so many-th call of the checks."""
    asked = Meter.ask_each

    def kill(self, questions, *, occasion=None, **others):
        nonlocal calls
        if occasion is not None and occasion.startswith("integrity"):
            calls -= 1
            if calls < 0:
                raise KeyboardInterrupt
        return asked(self, questions, occasion=occasion, **others)

    with monkeypatch.context() as patched:
        patched.setattr(Meter, "ask_each", kill)
        with pytest.raises(KeyboardInterrupt):
            audit(url, X, **OPTIONS, out=folder)
    return audit(url, X, **OPTIONS, out=folder, resume=True)


@pytest.mark.parametrize("calls", [1, 3, 9])
def test_an_honest_server_killed_within_the_checks_and_resumed(served, tmp_path, monkeypatch, calls):
    url = served(honest)
    whole = audit(url, X, **OPTIONS, out=tmp_path / "whole")
    assert [check.outcome for check in whole.integrity] == ["ok"] * 5
    again = killed_and_resumed(url, tmp_path / "cut", calls, monkeypatch)
    assert again.integrity == whole.integrity
    assert [s.margin_radius for s in again.inputs] == [s.margin_radius for s in whole.inputs]


def test_a_server_with_a_memory_is_found_before_and_after_a_kill(served, tmp_path, monkeypatch):
    whole = audit(served(Shrinks()), X, **OPTIONS, out=tmp_path / "whole")
    assert whole.contradicted[0].name == "history"
    again = killed_and_resumed(served(Shrinks()), tmp_path / "cut", 2, monkeypatch)
    assert again.contradicted[0].name == "history"
