"""The service that is audited: a linear softmax model behind tokens, polls and several protocols, right unless restarted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

__all__ = ["CLASSES", "FEATURES", "KEY", "NO_SECRET", "SETTINGS", "Server"]

FEATURES, CLASSES = 3, 3
KEY, CLIENT, PASSWORD = "vendor-key-5tq8w2", "client-77h3x", "pass-word-9f6c1"
ORIGIN = "https://model.example"
_rng = np.random.default_rng(3)
_MODEL, _OTHER = _rng.normal(size=(FEATURES, CLASSES)), _rng.normal(size=(FEATURES, CLASSES))
_JSON = {"protocol": "json", "request": {"x": "$rows"}, "response": "p", "kind": "probs"}
#: How the service may be offered, as endpoint settings.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"url": f"{ORIGIN}/json", **_JSON, "batch": 7, "concurrency": 4},
    "small requests": {"url": f"{ORIGIN}/json", **_JSON, "batch": 2, "concurrency": 8},
    "learned size": {"url": f"{ORIGIN}/json", **_JSON, "header_env": {"X-API-Key": "SIM_KEY"}},
    "polled": {
        "url": f"{ORIGIN}/jobs", **_JSON, "batch": 9, "poll": {"url": "/jobs/{id}", "done": "status == 'ok'"},
        "oauth": {"token_url": f"{ORIGIN}/token", "client_id_env": "SIM_CLIENT", "client_secret_env": "SIM_PASSWORD"},
    },
    "tokens": {
        "url": f"{ORIGIN}/json", **_JSON, "batch": 12,
        "oauth": {"token_url": f"{ORIGIN}/token", "client_id_env": "SIM_CLIENT", "client_secret_env": "SIM_PASSWORD"},
    },
    "tensors": {"url": f"{ORIGIN}/v2/models/m/infer", "bearer_env": "SIM_KEY", "batch": 6},
    "scores": {"url": f"{ORIGIN}/scores", "protocol": "label_scores", "url_query_env": {"key": "SIM_KEY"}, "batch": 8},
}  # fmt: skip
#: What an endpoint that takes no credential may say as it likes.
NO_SECRET = "nobody"
#: A request of more rows is refused.
MOST_ROWS = 16


@dataclass
class Server:
    """Attributes:
    offered: how.
    swapped: another model answers.
    answered: rows that were computed.
    secrets: what its client holds and must not tell.
    """

    offered: str
    lifetime: float = 3600.0
    swapped: bool = False
    answered: int = 0
    token: str = ""
    until: float = 0.0
    tokens: int = 0
    jobs: dict[str, list[Any]] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = json.dumps(SETTINGS[self.offered])
        self.secrets += [secret for name, secret in (("SIM_KEY", KEY), ("SIM_PASSWORD", PASSWORD)) if name in named]

    def rows_of(self, request: httpx.Request, body: bytes) -> int:
        """How many rows a request carries; 0 for all that carries none."""
        if request.method != "POST" or request.url.path == "/token":
            return 0
        return len(_rows(request, body)) if _readable(request, body) else 1

    def asked(self, request: httpx.Request, body: bytes, now: float) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        status, document = self._answer(request, body, now)
        return status, {"Content-Type": "application/json"}, json.dumps(document).encode()

    def restart(self) -> None:
        """What was in memory is gone: tokens, and work under way."""
        self.token, self.until = "", 0.0
        self.jobs.clear()

    def damaged(self, content: bytes, how: str) -> bytes:
        """NaN in the place of a number, or a row less."""
        text = content.decode()
        if how == "nan":
            at = text.rfind("0.")
            return (text[:at] + "NaN" + text[at:].lstrip("0123456789.e-")).encode() if at >= 0 else content
        document = json.loads(text)
        rows = document if isinstance(document, list) else document.get("p") or document.get("outputs") or [0]
        rows.pop()
        return json.dumps(document).encode()

    def _answer(self, request: httpx.Request, body: bytes, now: float) -> tuple[int, Any]:
        path = request.url.path
        if path == "/token":
            return self._issue(now)
        if path.startswith("/v2/") and request.method == "GET":
            port = {"datatype": "FP64", "shape": [-1, FEATURES]}
            return 200, {
                "name": "m",
                "inputs": [{"name": "x", **port}],
                "outputs": [{"name": "p", "datatype": "FP64", "shape": [-1, CLASSES]}],
            }
        if self.tokens and request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": f"no such token: {request.headers.get('authorization')}"}
        if self.tokens and now >= self.until:
            return 401, {"error": f"the token {self.token} has expired"}
        if request.method == "GET":
            answer = self.jobs.get(path.rpartition("/")[2])
            if answer is None:
                return 404, {"error": "no such job"}
            return 200, ({"status": "ok", "p": answer[1]} if now >= answer[0] else {"status": "working"})
        if not _readable(request, body):
            return 400, {"error": "expected FP64"}
        table = self._probabilities(_rows(request, body))
        if len(table) > MOST_ROWS:
            return 413, {"error": "too large"}
        self.answered += len(table)
        return 200, self._written(path, table, now)

    def _written(self, path: str, table: list[list[float]], now: float) -> Any:
        if path.startswith("/v2"):
            flat = [value for row in table for value in row]
            return {"outputs": [{"name": "p", "datatype": "FP64", "shape": [len(table), CLASSES], "data": flat}]}
        if path == "/scores":
            return [
                [{"label": f"L{k}", "score": p} for k, p in sorted(enumerate(row), key=lambda one: -one[1])] for row in table
            ]
        if path == "/jobs":
            name = str(len(self.jobs) + 1000 * self.tokens)
            self.jobs[name] = [now + 1.5, table]
            return {"id": name, "status": "working"}
        return {"p": table}

    def _issue(self, now: float) -> tuple[int, Any]:
        if not self.token or now >= self.until:
            self.tokens += 1
            self.token, self.until = f"tok-{self.tokens}-aa41c7e9", now + self.lifetime
            self.secrets.append(self.token)
        return 200, {"access_token": self.token, "token_type": "Bearer", "expires_in": int(self.until - now)}

    def _probabilities(self, rows: Any) -> list[list[float]]:
        scores = np.exp(rows @ (_OTHER if self.swapped else _MODEL))
        return (scores / scores.sum(axis=1, keepdims=True)).tolist()


def _readable(request: httpx.Request, body: bytes) -> bool:
    """Whether a tensor has the type that the model takes: a client that got no description has to guess it."""
    if not request.url.path.startswith("/v2/"):
        return True
    length = int(request.headers.get("Inference-Header-Content-Length", len(body)))
    return bool(json.loads(body[:length])["inputs"][0]["datatype"] == "FP64")


def _rows(request: httpx.Request, body: bytes) -> Any:
    """(rows, features), from JSON or a binary tensor."""
    length = int(request.headers.get("Inference-Header-Content-Length", len(body)))
    document = json.loads(body[:length])
    if length < len(body):
        return np.frombuffer(body[length:], "<f8").reshape(-1, FEATURES)
    if request.url.path.startswith("/v2"):
        return np.array(document["inputs"][0]["data"]).reshape(-1, FEATURES)
    return np.array(document["x"] if "x" in document else document["inputs"])
