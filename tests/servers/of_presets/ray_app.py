"""Ray Serve, as in its scikit-learn tutorial but with probabilities: ``python ray_app.py PORT``; ``MODEL`` is the model."""

from __future__ import annotations

import os
import signal
import sys

import joblib
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment
class Classifier:
    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        payload = await request.json()
        row = [payload[f"f{i}"] for i in range(self.model.n_features_in_)]
        return {"result": self.model.predict_proba([row])[0].tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind(os.environ["MODEL"]))
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
