"""A server that answers with a class and nothing else: ``python real_label_servers.py kserve|fastapi PORT MODEL COUNTED``.

COUNTED is a file that holds how many rows were answered so far: what the client says that it asked is checked against it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import joblib
import numpy as np

#: Seconds a request takes at least, so that a client can be killed in the middle of a run.
PACE = 0.005


class Classes:
    """Classes of a scikit-learn model, counted."""

    def __init__(self, path: str, counted: str) -> None:
        self._model, self._counted, self._rows = joblib.load(path), Path(counted), 0

    def __call__(self, rows) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float64)
        self._rows += len(rows)
        self._counted.write_text(str(self._rows))
        time.sleep(PACE)
        return self._model.predict(rows)


def serve_kserve(port: int, classes: Classes) -> None:
    """``/v2/models/labels/infer`` answers an INT64 tensor; JSON and binary."""
    import uvicorn

    config = uvicorn.Config.__init__

    def on_loopback(self, *args, **kwargs):  # KServe hard-codes 0.0.0.0
        kwargs["host"] = "127.0.0.1"
        config(self, *args, **kwargs)

    uvicorn.Config.__init__ = on_loopback
    from kserve import Model, ModelServer
    from kserve.utils.utils import get_predict_input, get_predict_response

    class Labels(Model):
        def __init__(self) -> None:
            super().__init__("labels")
            self.ready = True

        def predict(self, payload, headers=None, response_headers=None):
            return get_predict_response(payload, classes(get_predict_input(payload)), self.name)

    ModelServer(http_port=port, enable_grpc=False, workers=1, enable_latency_logging=False).start([Labels()])


def serve_fastapi(port: int, classes: Classes) -> None:
    """``/classify`` takes ``{"rows": [[...]]}`` and answers ``{"results": [{"label": "malignant"}]}``."""
    import uvicorn
    from fastapi import FastAPI, Request

    app = FastAPI()
    words = ("malignant", "benign")

    @app.get("/ready")
    async def ready():
        return {}

    async def classify(asked):
        rows = (await asked.json())["rows"]
        return {"results": [{"label": words[int(k)]} for k in classes(rows)]}

    classify.__annotations__["asked"] = Request
    app.post("/classify")(classify)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    kind, port, model, counted = sys.argv[1:]
    {"kserve": serve_kserve, "fastapi": serve_fastapi}[kind](int(port), Classes(model, counted))
