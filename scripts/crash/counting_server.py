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
_METADATA: dict[str, Any] = {
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
        body = self.rfile.read(int(self.headers["content-length"]))
        head = int(self.headers.get("inference-header-content-length", len(body)))  # numbers may follow the text as bytes
        tensor = json.loads(body[:head])["inputs"][0]
        numbers = np.frombuffer(body[head:], "<f8") if "data" not in tensor else np.array(tensor["data"], dtype=np.float64)
        answers = probabilities(numbers.reshape(tensor["shape"]))
        with _lock:
            _rows += len(answers)
        output = {**_METADATA["outputs"][0], "shape": list(answers.shape), "data": answers.ravel().tolist()}
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed here: a connection that breaks is no error."""


if __name__ == "__main__":
    server = _Server(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
