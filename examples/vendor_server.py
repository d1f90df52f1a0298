"""Two vendors' models behind HTTP, for vendor_api_audit.md: ``python examples/vendor_server.py PORT DATA.npz``.

Speaks TensorFlow Serving's ``POST /v1/models/NAME:predict`` with the standard library alone, and writes the data.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

MODELS: dict[str, LogisticRegression] = {}


class Handler(BaseHTTPRequestHandler):
    """One vendor a path; rows in, probabilities out."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Whether it is up."""
        name = self.path.rsplit("/", 1)[-1].split(":")[0]
        self._answer(200 if name in ("ready", *MODELS) else 404, {"model_version_status": [{"state": "AVAILABLE"}]})

    def do_POST(self) -> None:
        """Rows to probabilities."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.rsplit("/", 1)[-1].split(":")[0]
        if name not in MODELS:
            self._answer(404, {"error": "no such model"})
            return
        rows = np.array(body["instances"], dtype=np.float64).reshape(len(body["instances"]), -1)
        self._answer(200, {"predictions": MODELS[name].predict_proba(rows).tolist()})

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def _answer(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main(port: int, data: str) -> None:
    """Train, write the data, serve."""
    images, labels = load_digits(return_X_y=True)
    x = images / 16.0
    MODELS["vendor_a"] = LogisticRegression(C=10.0, max_iter=2000).fit(x[:1500], labels[:1500])
    MODELS["vendor_b"] = LogisticRegression(C=0.05, max_iter=2000).fit(x[:1500], labels[:1500])
    np.savez(data, x=x[1500:1512], y=labels[1500:1512])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
