"""Models for benchmarks/scale.py: one that costs nothing, one that costs a few milliseconds a call."""

from __future__ import annotations

from typing import Any

import numpy as np

FEATURES = 16
HIDDEN = 2048
_WEIGHTS = np.random.default_rng(0).standard_normal((FEATURES, 4)) / 2


def softmax(z: np.ndarray) -> np.ndarray:
    """Rows of logits to rows of probabilities."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def light() -> Any:
    """Sixteen features, four classes: a microsecond a row."""
    return lambda x: softmax(np.tanh(x) @ _WEIGHTS)


def heavy() -> Any:
    """The same with two layers of 2048 in between: about a tenth of a millisecond a row on one core."""
    rng = np.random.default_rng(1)
    first = rng.standard_normal((FEATURES, HIDDEN)) / 4
    second = rng.standard_normal((HIDDEN, HIDDEN)) / HIDDEN**0.5
    last = rng.standard_normal((HIDDEN, 4)) / HIDDEN**0.5

    def model(x: np.ndarray) -> np.ndarray:
        return softmax(np.tanh(np.tanh(x @ first) @ second) @ last)

    return model
