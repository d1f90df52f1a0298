"""The linear model behind the Open Inference Protocol, counting rows: ``python -m scripts.crash.counting_server``.

It prints its port, and ``GET /rows`` says how many rows it has answered.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from scripts.crash.linear_model import probabilities

PATH = "/v2/models/linear"
_METADATA = {
    "name": "linear",
    "platform": "numpy",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],
    "outputs": [{"name": "probabilities", "datatype": "FP64", "shape": [-1, 3]}],
}
_lock = threading.Lock()
_rows = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({"rows": _rows} if self.path == "/rows" else _METADATA)

    def do_POST(self) -> None:
        global _rows
        tensor = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"][0]
        answers = probabilities(np.array(tensor["data"], dtype=np.float64).reshape(tensor["shape"]))
        with _lock:
            _rows += len(answers)
        output = {
            "name": "probabilities",
            "datatype": "FP64",
            "shape": list(answers.shape),
            "data": answers.ravel().tolist(),
        }
        self._send({"model_name": "linear", "outputs": [output]})

    def _send(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
