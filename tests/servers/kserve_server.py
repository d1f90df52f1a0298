"""KServe with two real scikit-learn models, V1 and V2 (JSON and binary): ``python kserve_server.py PORT CANCER DIGITS``."""

from __future__ import annotations

import sys

import uvicorn

_config = uvicorn.Config.__init__


def _on_loopback(self, *args, **kwargs):  # KServe hard-codes 0.0.0.0.
    kwargs["host"] = "127.0.0.1"
    _config(self, *args, **kwargs)


uvicorn.Config.__init__ = _on_loopback

import joblib  # noqa: E402
import numpy as np  # noqa: E402
from kserve import Model, ModelServer  # noqa: E402
from kserve.utils.utils import get_predict_input, get_predict_response  # noqa: E402


class Probabilities(Model):
    def __init__(self, name: str, path: str, output: str) -> None:
        super().__init__(name)
        self._model, self._output = joblib.load(path), output
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        rows = np.asarray(get_predict_input(payload), dtype=np.float64)
        if rows.ndim > 2:
            rows = rows.reshape(len(rows), -1)
        return get_predict_response(payload, self._answers(rows), self.name)

    def _answers(self, rows):
        return self._model.predict_proba(rows)


class Logits(Probabilities):
    def _answers(self, rows):
        scores = self._model.decision_function(rows)
        return np.stack([-scores / 2, scores / 2], axis=1)


if __name__ == "__main__":
    _, port, cancer, digits = sys.argv
    models = [
        Probabilities("cancer", cancer, "output-0"),
        Probabilities("digits", digits, "output-0"),
        Logits("cancer_logits", cancer, "output-0"),
    ]
    ModelServer(http_port=int(port), enable_grpc=False, workers=1, enable_latency_logging=False).start(models)
