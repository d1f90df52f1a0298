"""Stopping early: thresholds decided with few rows and few errors, intervals that stop when they are narrow enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.errors import UsageError
from fimaudit.estimation.stopping import decide_threshold, most_queries, next_look

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


def half_width(s: Any) -> float:
    return float(s.spectral_norm.upper - s.spectral_norm.lower) / (2 * float(s.spectral_norm.value))


def test_behind_noise_the_interval_that_is_reported_is_the_narrow_one() -> None:
    """It allows for noise and scatter; seen where only the directions counted: 20 of 40 inputs stopped too early."""
    rng, x = np.random.default_rng(0), np.random.default_rng(3).standard_normal((10, 400))

    def noisy(rows: np.ndarray) -> np.ndarray:
        p = np.clip(answer(rows) + 1e-4 * rng.standard_normal((len(rows), 3)), 0, 1)
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    report = audit(noisy, x, input_shape=(400,), queries=600, profile="off", precision=0.25)
    stopped = [s for s in report.inputs if s.status == "ok" and s.queries < 500]
    assert len(stopped) >= 5
    assert all(half_width(s) <= 0.25 for s in stopped)


@pytest.mark.parametrize("precision", [0.1, 0.45])
def test_queries_auto_takes_what_the_precision_takes(precision: float) -> None:
    x = np.random.default_rng(3).standard_normal((4, 400))
    report = audit(answer, x, input_shape=(400,), queries="auto", precision=precision, profile="off")
    assert all(half_width(s) <= precision for s in report.inputs)
    assert len({s.queries for s in report.inputs}) > 1 or precision < 0.2  # each stops where it has enough
    fewer = audit(answer, x, input_shape=(400,), queries="auto", precision=2 * precision, profile="off")
    assert fewer.summary.queries < report.summary.queries


def test_few_features_stop_at_the_cheapest_whole_jacobian_that_serves() -> None:
    x = np.random.default_rng(4).standard_normal((3, 40))
    narrow = lambda rows: answer(np.hstack([rows, np.zeros((len(rows), 360))]))  # noqa: E731
    quick = audit(narrow, x, input_shape=(40,), queries="auto", precision=0.2)
    assert {s.method for s in quick.inputs} == {"basis-forward"}
    assert max(s.queries for s in quick.inputs) <= 40 + 7
    exact = audit(narrow, x, input_shape=(40,), queries="auto", precision=0.001)
    assert {s.method for s in exact.inputs} == {"basis-central"}
    for a, b in zip(quick.inputs, exact.inputs, strict=True):
        assert a.spectral_norm.lower <= b.spectral_norm.value <= a.spectral_norm.upper


@pytest.mark.parametrize(("features", "decimals", "precision"), [(10, 4, 0.05), (30, 4, 0.05), (30, 5, 0.02)])
def test_a_whole_jacobian_stops_where_its_reported_interval_is_narrow(
    features: int, decimals: int, precision: float
) -> None:
    """Seen before the rounding counted: up to 7 of 20 inputs stopped at the fewest rows with a wider one."""
    rng = np.random.default_rng(features)
    weights, x = rng.standard_normal((features, 3)), 0.6 * rng.standard_normal((20, features)) / np.sqrt(features)

    def rounded(rows: Any) -> np.ndarray:
        e = np.exp(np.asarray(rows) @ weights)
        return np.asarray((e / e.sum(axis=1, keepdims=True)).round(decimals))

    widths = {"basis-forward": [0.0], "basis-central": [0.0]}
    for s in audit(rounded, x, queries=400, precision=precision, scale="raw").inputs:
        widths[s.method].append((s.spectral_norm.upper - s.spectral_norm.lower) / 2 / s.spectral_norm.value)
    assert max(widths["basis-forward"]) <= 1.0001 * precision  # all others were given all rows
    assert len(widths["basis-forward"]) > 1


def test_queries_auto_needs_to_know_when_to_stop() -> None:
    with pytest.raises(UsageError, match="precision= or threshold= beside queries='auto'"):
        audit(answer, np.zeros((1, 400)), input_shape=(400,), queries="auto")


def test_the_most_queries_stay_within_memory_and_sense() -> None:
    assert most_queries(0.1, None, 0.95, 10**6) <= 600
    assert most_queries(None, 3.0, 0.95, 784) == 1001
    assert most_queries(0.01, None, 0.95, 20) == 101


def test_looks_come_sparsely_and_then_direction_by_direction() -> None:
    asked, looks = 0, []
    while asked < 230:  # a width that falls as the root of the number and is reached at 230
        asked = next_look(asked, 1000, None if not asked else float(np.sqrt(230 / asked)))
        looks.append(asked)
    assert looks[-1] == 230
    assert len(looks) < 25
    assert next_look(230, 231, 1.5) == 231


@pytest.mark.parametrize(
    "wrong", [{"precision": -1.0}, {"precision": 0.0}, {"threshold": float("nan")}, {"threshold": -2.0}]
)
def test_a_precision_or_threshold_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"expected a finite (precision|threshold) above 0"):
        audit(answer, np.zeros((1, 400)), input_shape=(400,), **wrong)
