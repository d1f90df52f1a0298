"""Answers rows of a linear model with a class and nothing else, as several servers do, in the tests' own process."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tests.servers.vendors import Asked, Said, Service

__all__ = ["WEIGHTS", "WORDS", "LabelService"]

WORDS = ("cat", "dog", "fox")
WEIGHTS = np.random.default_rng(0).standard_normal((3, 6))


class LabelService:
    """Counts the rows that it answers, and leaves requests without an answer once told to.

    Attributes:
        asked: rows answered so far.
        held: set once a request waits after ``hold``.
    """

    def __init__(self) -> None:
        self.asked, self.held, self._released = 0, threading.Event(), threading.Event()
        self._hold_at: int | None = None

    def hold(self, rows: int) -> None:
        """Answer so many rows more and let the next request wait."""
        self.held.clear()
        self._released.clear()
        self._hold_at = self.asked + rows

    def release(self) -> None:
        """Answer again."""
        self._hold_at = None
        self._released.set()

    @property
    def services(self) -> dict[str, Service]:
        """By the first part of the path."""
        return {
            "v2": self._open_inference,
            "v1": lambda asked: {"predictions": self._classes(asked.json["instances"])},
            "invocations": self._mlflow,
            "classify": lambda asked: {"results": [{"label": WORDS[k]} for k in self._classes(asked.json["rows"])]},
            "top": lambda asked: {"results": [[WORDS[k], WORDS[(k + 1) % 3]] for k in self._classes(asked.json["rows"])]},
            "ping": lambda _: {},
            "version": lambda _: {},
        }

    def _open_inference(self, asked: Asked) -> Any:
        if asked.method == "GET":
            outputs = [{"name": "label", "datatype": "INT64", "shape": [-1]}]
            return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 6]}], "outputs": outputs}
        if "inference-header-content-length" in asked.headers:  # it takes no binary tensors
            return Said({}, 400)
        found = self._classes(asked.json["inputs"][0]["data"])
        return {"outputs": [{"name": "label", "datatype": "INT64", "shape": [len(found)], "data": found}]}

    def _mlflow(self, asked: Asked) -> Any:
        found = self._classes(asked.json["inputs"])
        return {"predictions": [WORDS[k] for k in found] if "words" in asked.query else found}

    def _classes(self, rows: Any) -> list[int]:
        """The class of each row."""
        values = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
        if self._hold_at is not None and self.asked >= self._hold_at:
            self.held.set()
            self._released.wait()
        self.asked += len(values)
        return [int(k) for k in (values @ WEIGHTS.T).argmax(axis=1)]
