"""Softmax regressions whose numbers are known, behind every format in which probabilities are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.estimation.peak_norm import peak_norm
from fimaudit.measurement.design import bends
from fimaudit.measurement.distances import spread


def digits(p: np.ndarray, count: int) -> np.ndarray:
    return np.array([[float(f"{value:.{count - 1}e}") for value in row] for row in p])


FORMATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float64": lambda p: p,
    "float32": lambda p: p.astype(np.float32),
    "float32 widened": lambda p: p.astype(np.float32).astype(np.float64),
    "float32 as text": lambda p: np.array([[float(str(value)) for value in row] for row in p.astype(np.float32)]),
    "4 digits": lambda p: digits(p, 4),
    "6 digits": lambda p: digits(p, 6),
    "8 digits": lambda p: digits(p, 8),
    **{f"{t} decimals": lambda p, t=t: p.round(t) for t in (3, 4, 5, 7, 8, 10, 12)},
}


class Regression:
    """A softmax regression, by its seed: from flat to one whose least class has a probability of 1e-30."""

    def __init__(self, seed: int, classes: int, features: int) -> None:
        rng = np.random.default_rng(seed)
        steep = 10 ** rng.uniform(-0.5, 1.3)
        self.weights = steep * rng.standard_normal((features, classes)) / np.sqrt(features)
        self.offset, self.x = steep * rng.standard_normal(classes), rng.standard_normal((6, features))

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows, dtype=float) @ self.weights + self.offset

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        z = self.logits(rows)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def truth(self, x: np.ndarray) -> tuple[float, float, float]:
        """Spectral norm, peak and radius."""
        z, p = self.logits(x[None])[0], self(x[None])[0]
        top, centred = int(z.argmax()), self.weights - (self.weights @ p)[:, None]
        norm = float(np.linalg.norm(centred * np.sqrt(p), 2) ** 2)
        odds = np.delete(self.weights[:, [top]] - self.weights, top, axis=1)
        radius = float((np.delete(z[top] - z, top) / np.linalg.norm(odds, axis=0)).min())
        return norm, peak_norm(self.weights - self.weights[:, [top]], z - np.logaddexp.reduce(z))[0], radius


def audited(name: str, seed: int, classes: int) -> tuple[Regression, Report]:
    """One column stands for two classes."""
    rng = np.random.default_rng(seed)
    model = Regression(seed, max(2, classes), int(rng.choice([5, 30, 200])))

    def answer(rows: Any) -> np.ndarray:
        p = model(rows)
        return FORMATS[name](p[:, 1:] if classes == 1 else p)

    options: dict[str, Any] = {"link": "identity"} if classes == 1 else {}
    return model, audit(answer, model.x, queries=int(rng.choice([50, 200])), seed=seed, scale="raw", **options)


@pytest.mark.parametrize("name", FORMATS)
def test_limits_hold_in_every_format(name: str) -> None:
    """Seen behind 12 decimals: a peak of 18 [15, 23] for 1.2; one column of 8 digits: [0, 2e-9] for a norm of 2e-6."""
    looked_at = missed = 0
    for seed, classes in enumerate((1, 1, 1, 2, 3, 10, 10, 40)):
        model, report = audited(name, seed, classes)
        for s in report.inputs:
            each = zip((s.spectral_norm, s.peak_spectral_norm, s.margin_radius), model.truth(model.x[s.index]), strict=True)
            for found, truth in each:
                lower, upper = found.lower or 0.0, np.inf if found.upper is None else found.upper
                looked_at += 1
                missed += not lower * (1 - 1e-6) <= truth <= upper * (1 + 1e-6)
                if s.kind == "local":
                    assert lower / 2 <= truth <= 2 * upper, (seed, classes, s, truth)
    assert looked_at == 144
    assert missed <= 14, f"{missed} of {looked_at} intervals do not hold"


def test_answers_that_lie_all_over_the_place_are_not_local() -> None:
    """A steep regression whose two checked pairs of directions happen to be flat; the main rows are not.

    Seen: a norm of 121 [103, 148] that was called local, for 677.
    """
    rng = np.random.default_rng(0)
    for scatter in (0.05, 0.3, 3.0, 10.0):
        z = -1.7 + scatter * rng.standard_normal(100)
        assert bends(np.stack([1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))], axis=1)) == (scatter > 1)


@pytest.mark.parametrize("name", ["4 decimals", "5 decimals", "12 decimals", "float64"])
def test_local_displacements_lead_nowhere_near_what_bends(name: str) -> None:
    """What ``FAR_AWAY`` rests on: local inputs' answers lie within a mean square of 0.03 of their mean."""
    rng, farthest = np.random.default_rng(1), 0.0
    for seed in range(12):
        model, report = audited(name, seed, 3)
        for s in report.inputs:
            if s.kind == "local" and s.status == "ok":
                rows = s.displacement * rng.standard_normal((100, model.x.shape[1])) / np.sqrt(model.x.shape[1])
                farthest = max(farthest, float(spread(model(model.x[s.index] + rows)).mean()))
    assert 0 < farthest < 0.03
