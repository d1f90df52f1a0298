"""Few features have few sign patterns: rows that are the same are rounded the same, which no number of them averages out."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit import InputDomain, audit
from fimaudit.measurement.least_squares import antipodal_pairs
from tests.cases import tanh_network, truth_of


@pytest.mark.parametrize("features", [1, 2, 3])
def test_local_intervals_of_rounded_scores_hold_with_few_features(features: int) -> None:
    """Before, 40, 62 and 86 % of those by least squares held, and 85 % of one feature by random signs."""
    held = []
    for seed in range(4):
        network = tanh_network(seed, 2, features)
        x = np.random.default_rng(seed).standard_normal((12, features))
        exact = [truth_of(network.jacobian(one), network.logits(one[None])[0]).spectral for one in x]
        for queries, decimals in ((50, 3), (100, 3), (100, 2), (200, 2)):
            report = audit(lambda rows, d=decimals, n=network: np.round(n(rows), d), x, queries=queries, seed=seed)
            for s in report.inputs:
                norm = s.spectral_norm
                if s.status == "ok" and s.kind == "local" and norm.value is not None:
                    held.append((norm.lower or 0.0) <= exact[s.index] <= (np.inf if norm.upper is None else norm.upper))
    assert len(held) >= 30
    assert np.mean(held) >= 0.94


def test_pairs_of_few_features_have_lengths_of_their_own() -> None:
    x = np.array([0.2, 0.9])
    space = InputDomain(lower=0.0, upper=1.0).resolve(x[None], "float64")
    pairs = antipodal_pairs(x, 0, space, 0.05, 100, 0)
    assert pairs is not None
    assert len(np.unique(pairs.moved.round(12), axis=0)) == 50
    rows = pairs.rows.build(0, 100)
    assert rows.min() >= 0.0
    assert rows.max() <= 1.0
    assert (rows[:50] - rows[50:]) / 2 == pytest.approx(pairs.moved)
    assert np.abs(pairs.moved).max() <= 0.05 / np.sqrt(2) * (1 + 1e-12)


def test_levels_that_leave_few_pairs_are_left_alone() -> None:
    x = np.array([0.2, 0.8])
    space = InputDomain(lower=0.0, upper=1.0, quantum=0.1).resolve(x[None], "float64")
    assert antipodal_pairs(x, 0, space, 0.1, 100, 0) is None
