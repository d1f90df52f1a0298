"""Classifiers whose exact numbers are known, with a second one that other rows may be answered by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _models import breast_cancer, digits

from fimaudit import audit

__all__ = ["TRAINED", "Answer", "Subject", "answers", "onnx_subjects", "softmax", "trained_subject"]

Answer = Callable[[np.ndarray], np.ndarray]
TRAINED = {"digits": digits, "breast cancer": breast_cancer}


@dataclass(frozen=True)
class Subject:
    """What endpoints are wrapped around.

    Attributes:
        name: in a table.
        answer, other: float64 probabilities of the classifier, and of another one for the same inputs.
        x: (n, *shape) inputs.
        lower, upper: their bounds.
        exact: by input, (spectral norm, margin radius).
        network: its torch module, where it is one.
    """

    name: str
    answer: Answer
    other: Answer
    x: np.ndarray
    lower: float | None
    upper: float | None
    exact: list[tuple[float, float]]
    network: Any = None


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def answers(network: Any) -> Answer:
    """Float64 probabilities of a network's float32 logits."""

    def answer(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return softmax(network(torch.as_tensor(np.asarray(batch, np.float32))).double().numpy())

    return answer


def trained_subject(name: str, inputs: int) -> Subject:
    """A small network that is trained here."""
    one, other = TRAINED[name](inputs), TRAINED[name](inputs, seed=1)
    exact = audit(one.network, one.x, lower=one.lower, upper=one.upper, mode="white-box", link="softmax")
    truth = [(s.spectral_norm.value, s.margin_radius.value) for s in exact.inputs]
    return Subject(
        name, answers(one.network), answers(other.network), one.x, one.lower, one.upper, truth, network=one.network
    )


def onnx_subjects(folder: Path, inputs: int) -> Iterator[Subject]:
    """Each NAME.onnx of logits in the folder beside which another one takes the same inputs, in [0, 1].

    The folder holds NAME.npz (x) and truth.json: {NAME: {"link": ..., "inputs": [{"spectral_norm": ..., "margin_radius":
    ...}]}}, as for ``realmodels.py``.
    """
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    names = [name for name in sorted(truth) if truth[name]["link"] == "softmax"]
    x = {name: np.load(folder / f"{name}.npz")["x"].astype(np.float32) for name in names}
    for name in names:
        others = [one for one in names if one != name and x[one].shape == x[name].shape]
        if others and x[name].min() >= 0 and x[name].max() <= 1:
            exact = [(one["spectral_norm"], one["margin_radius"]) for one in truth[name]["inputs"][:inputs]]
            both = _served(folder / f"{name}.onnx"), _served(folder / f"{others[0]}.onnx")
            yield Subject(name, *both, x[name][:inputs], 0.0, 1.0, exact)


def _served(path: Path) -> Answer:
    """Float64 probabilities of a file's float32 logits, on one thread."""
    import onnxruntime as ort

    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    session_input = session.get_inputs()[0]

    def answer(batch: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(batch, np.float32)
        parts = [row[None] for row in rows] if isinstance(session_input.shape[0], int) else [rows]
        logits = np.concatenate([np.asarray(session.run(None, {session_input.name: part})[0]) for part in parts])
        return softmax(logits.reshape(len(rows), -1).astype(np.float64))

    return answer
