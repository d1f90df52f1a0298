"""Triton itself through nvidia-pytriton, batch cap 64: ``python triton_server.py PORT WEIGHTS.npz``."""

from __future__ import annotations

import os
import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from sklearn.linear_model import LogisticRegression


def _model(weights, name: str) -> LogisticRegression:
    model = LogisticRegression()
    model.coef_, model.intercept_ = weights[f"{name}_coef"], weights[f"{name}_intercept"]
    model.classes_ = np.arange(int(weights[f"{name}_classes"]))
    return model


def _bind(triton: Triton, weights, name: str) -> None:
    model = _model(weights, name)

    @batch
    def infer(rows):
        return {"probabilities": model.predict_proba(rows.astype(np.float64)).astype(np.float32)}

    triton.bind(
        model_name=name,
        infer_func=infer,
        inputs=[Tensor(name="rows", dtype=np.float32, shape=(model.coef_.shape[1],))],
        outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(len(model.classes_),))],
        config=ModelConfig(max_batch_size=64),
    )


if __name__ == "__main__":
    _, port, path = sys.argv
    weights = np.load(path)
    config = TritonConfig(
        http_port=int(port),
        http_address="127.0.0.1",
        allow_grpc=False,
        allow_metrics=False,
        exit_on_error=True,
        log_verbose=0,
    )
    os.environ.setdefault("PYTRITON_NO_TRACING", "1")
    with Triton(config=config) as triton:
        for name in ("cancer", "digits"):
            _bind(triton, weights, name)
        triton.serve()
