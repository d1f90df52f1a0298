"""Answers rows of a linear model with a class and nothing else, in the manner of several servers: ``label_server.py PORT``.

``/v2/models/m/infer`` (Open Inference: whole numbers), ``/invocations`` (MLflow: whole numbers or, with ``?text``, words),
``/v1/models/m:predict`` (TensorFlow Serving), ``/classify`` ({"label": ...} a row) and ``/top`` (a list of words a row).
``/__asked__`` says how many rows were answered; after ``/__hold__/ROWS`` more, requests are held until ``/__release__``, and
``/__held__`` answers once one is.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np

WORDS = ("cat", "dog", "fox")
WEIGHTS = np.random.default_rng(0).standard_normal((3, 6))
asked, hold_at = 0, 0
held, released = threading.Event(), threading.Event()


def classes(rows: Any) -> list[int]:
    """The class of each row."""
    global asked
    values = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
    asked += len(values)
    return [int(k) for k in (values @ WEIGHTS.T).argmax(axis=1)]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Health, metadata, and the count."""
        path = urlsplit(self.path).path
        global hold_at
        if path == "/__asked__":
            self._say({"asked": asked})
        elif path.startswith("/__hold__/"):
            held.clear()
            released.clear()
            hold_at = asked + int(path.rpartition("/")[2])
            self._say({})
        elif path == "/__held__":
            self._say({"held": held.wait(120)})
        elif path == "/__release__":
            hold_at = 0
            released.set()
            self._say({})
        elif path == "/v2/models/m":
            outputs = [{"name": "label", "datatype": "INT64", "shape": [-1]}]
            self._say({"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 6]}], "outputs": outputs})
        elif path in ("/ping", "/version", "/ready"):
            self._say({})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Rows."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "Inference-Header-Content-Length" in self.headers:  # it takes no binary tensors
            self.send_error(400)
            return
        if hold_at and asked >= hold_at:
            held.set()
            released.wait()
            return
        document = json.loads(body)
        parts = urlsplit(self.path)
        if parts.path == "/v2/models/m/infer":
            found = classes(document["inputs"][0]["data"])
            output = {"name": "label", "datatype": "INT64", "shape": [len(found)], "data": found}
            self._say({"model_name": "m", "outputs": [output]})
        elif parts.path == "/invocations":
            found = classes(document["inputs"])
            self._say({"predictions": [WORDS[k] for k in found] if parts.query == "text" else found})
        elif parts.path == "/v1/models/m:predict":
            self._say({"predictions": classes(document["instances"])})
        elif parts.path == "/classify":
            self._say({"results": [{"label": WORDS[k]} for k in classes(document["rows"])]})
        elif parts.path == "/top":
            self._say({"results": [[WORDS[k], WORDS[(k + 1) % 3]] for k in classes(document["rows"])]})
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _say(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
