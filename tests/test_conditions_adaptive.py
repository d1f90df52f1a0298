"""Stopping early: thresholds decided with few rows and few errors, intervals that stop when they are narrow enough."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.adaptive import decide_threshold, next_look

SPECTRA = {"rank one": [1.0, 0, 0, 0, 0], "fast": [1.0, 0.3, 0.1, 0.03, 0.01], "slow": (1 / np.arange(1, 9)).tolist()}


def decided(spectrum: list[float], lam: float, rng: np.random.Generator, most: int = 130) -> tuple[str | None, int]:
    y = rng.standard_normal((most, len(spectrum))) * np.sqrt(np.array(spectrum) * lam)
    asked = 0
    while asked < most:
        asked = next_look(asked, most)
        verdict = decide_threshold(y[:asked], 1.0, 0.05)
        if verdict is not None:
            return verdict, asked
    return None, asked


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SPECTRA)
def test_twice_the_threshold_is_decided_in_under_sixty_queries(name: str) -> None:
    rng = np.random.default_rng(0)
    out = [decided(SPECTRA[name], 2.0, rng) for _ in range(120)]
    assert np.mean([v == "below" for v, _ in out]) <= 0.05
    assert np.median([asked + 2 for _, asked in out]) < 60


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SPECTRA)
def test_at_the_threshold_hardly_anything_is_decided(name: str) -> None:
    rng = np.random.default_rng(1)
    out = [decided(SPECTRA[name], 1.0, rng) for _ in range(60)]
    assert np.mean([v is not None for v, _ in out]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def answer(rows: np.ndarray) -> np.ndarray:
    weights = 3 * np.random.default_rng(0).standard_normal((400, 3)) / 20
    z = np.asarray(rows) @ weights
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def test_an_audit_stops_where_the_threshold_is_decided_or_the_interval_is_narrow() -> None:
    x = np.random.default_rng(3).standard_normal((6, 400))
    full = audit(answer, x, input_shape=(400,), queries=600, profile="off")
    low = min(s.spectral_norm.value for s in full.inputs) / 4
    soon = audit(answer, x, input_shape=(400,), queries=600, profile="off", threshold=low)
    for s in soon.inputs:
        assert "above_threshold" in s.flags
        assert s.queries < 100
    narrow = audit(answer, x, input_shape=(400,), queries=600, profile="off", precision=0.25)
    for s, all_rows in zip(narrow.inputs, full.inputs, strict=True):
        assert (s.spectral_norm.upper - s.spectral_norm.lower) / (2 * s.spectral_norm.value) <= 0.25
        assert s.queries < all_rows.queries
