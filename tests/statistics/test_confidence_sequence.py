"""Limits that hold at every look together, and what they cost beside a fixed sample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fimaudit.statistics.confidence_sequence import LimitsAtLooks, planned_looks


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99, 0.999])
def test_limits_hold_at_all_looks_together(p):
    rng, runs, error = np.random.default_rng(int(1000 * p)), 1500, 0.05
    low_missed = high_missed = 0
    for _ in range(runs):
        sequence = LimitsAtLooks(3000, error)
        hits = np.cumsum(rng.random(3000) < p)
        for look in sequence.looks:
            low, high = sequence.update(int(hits[look - 1]), look)
        low_missed += low > p
        high_missed += high < p
    assert max(low_missed, high_missed) <= stats.binom.ppf(0.999, runs, error)


def test_looks_end_where_they_should_and_no_other_is_taken():
    assert planned_looks(64) == [64]
    assert planned_looks(20) == [20]
    assert planned_looks(10_000)[-1] == 10_000
    with pytest.raises(ValueError, match="planned look"):
        LimitsAtLooks(500, 0.05).update(5, 10)


def test_one_look_is_a_fixed_sample():
    low, high = LimitsAtLooks(50, 0.05).update(45, 50)
    assert low == pytest.approx(stats.beta.ppf(0.05, 45, 6))
    assert high == pytest.approx(stats.beta.ppf(0.95, 46, 5))


@pytest.mark.parametrize("p", [0.8, 0.9, 0.95, 0.99])
def test_ten_thousand_labels_are_within_five_percent_of_a_hundred_thousand_at_fixed_size(p):
    """The radius sigma Phi^-1(p_lower), Clopper-Pearson at the fixed size, both of counts at their expectation."""
    few, many, error = 10_000, 100_000, 0.001
    low, _ = LimitsAtLooks(few, error).update(round(p * few), few)
    fixed = stats.beta.ppf(error, round(p * many), many - round(p * many) + 1)
    assert stats.norm.ppf(low) >= 0.95 * stats.norm.ppf(fixed)


def test_far_from_the_radius_asked_for_a_few_percent_of_the_labels_decide():
    """A class that always wins is certified to 0.5 sigma; a fixed sample of 100,000 asks all of its labels."""
    sequence, wanted = LimitsAtLooks(100_000, 0.001), stats.norm.cdf(0.5)
    needed = next(look for look in sequence.looks if sequence.update(look, look)[0] >= wanted)
    assert needed <= 100
