"""Correlations, ratio, AUC and calibration against values that are known by hand; censoring."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fimaudit.validation.correlations import auc, calibration, kendall, median_ratio, spearman
from fimaudit.validation.results import AttackedInput
from fimaudit.validation.summary import attack_summaries, correlate, flipped_within

NAN = math.nan


def test_rank_correlations_by_hand() -> None:
    # Ranks 1 2 3 4 5 against 1 2 3 5 4: sum d^2 = 2, rho = 1 - 6 * 2 / (5 * 24) = 0.9; one of ten pairs is discordant.
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 50.0, 40.0]
    assert spearman(x, y).value == pytest.approx(0.9)
    assert kendall(x, y).value == pytest.approx(0.8)
    assert spearman(x, [-v for v in y]).value == pytest.approx(-0.9)


def test_rank_correlations_agree_with_scipy_on_ties() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, 60).astype(float)
    y = x + rng.integers(0, 6, 60)
    assert spearman(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall(x, y).value == pytest.approx(stats.kendalltau(x, y).statistic)


def test_the_bootstrap_is_that_of_resampled_pairs() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(40)
    y = x + rng.standard_normal(40)
    rows = np.random.default_rng(7).integers(0, 40, (2000, 40))
    for function, plain in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        found = function(x, y, confidence=0.9, seed=7)
        drawn = [plain(x[r], y[r]).statistic for r in rows[:300]]
        assert found.lower == pytest.approx(np.quantile(drawn, 0.05), abs=0.05)
        assert found.upper == pytest.approx(np.quantile(drawn, 0.95), abs=0.05)
        assert found == function(x, y, confidence=0.9, seed=7)


def test_intervals_cover_the_correlation_of_the_population() -> None:
    # Bivariate normal with r = 0.8 has Spearman 6 / pi asin(r / 2) = 0.786.
    rng = np.random.default_rng(3)
    truth, held = 6 / math.pi * math.asin(0.4), 0
    for seed in range(60):
        x = rng.standard_normal(50)
        y = 0.8 * x + 0.6 * rng.standard_normal(50)
        found = spearman(x, y, confidence=0.9, seed=seed)
        assert found.lower is not None
        assert found.upper is not None
        held += found.lower <= truth <= found.upper
    assert held >= 45  # 54 expected, standard deviation 2.3: four below


def test_what_has_no_order_has_no_correlation() -> None:
    assert spearman([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]).value is None
    assert kendall([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]).value is None
    assert spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).value is None
    assert median_ratio([NAN], [1.0]).value is None


def test_auc_by_hand() -> None:
    # Flipped within 1: the inputs with predictions 1 and 3, not those with 2 and 4: (1<2), (1<4), (3<4) of four pairs.
    area, near, far = auc([1.0, 2.0, 3.0, 4.0], [0.5, 3.0, 0.9, 5.0], 1.0)
    assert (area.value, near, far) == (0.75, 2, 2)
    assert auc([2.0, 2.0], [0.5, 3.0], 1.0)[0].value == 0.5  # ties count half
    assert auc([1.0, 2.0], [0.5, 0.6], 1.0) == (auc([1.0, 2.0], [3.0, 3.0], 1.0)[0], 2, 0)


def test_an_input_that_no_attack_flipped_is_not_flipped_and_not_zero() -> None:
    area, near, far = auc([1.0, 2.0, 3.0], [0.5, NAN, NAN], 1.0)
    assert (area.value, near, far) == (1.0, 1, 2)
    assert median_ratio([1.0, 2.0, 3.0], [0.5, NAN, 1.0]).value == 2.5


def test_calibration_bins_hold_equally_many() -> None:
    x = np.arange(1.0, 11.0)
    bins = calibration(x, 2 * x, bins=2)
    assert [(b.predicted, b.found, b.inputs) for b in bins] == [(3.0, 6.0, 5), (8.0, 16.0, 5)]
    assert (bins[0].lower, bins[0].upper) == (4.0, 8.0)


def _inputs() -> list[AttackedInput]:
    found = [0.5, 1.0, 2.0, 4.0, None]
    return [
        AttackedInput(
            index=i,
            status="censored" if d is None else "found",
            margin_radius=float(i + 1),
            peak_spectral_norm=1.0 / (i + 1),
            spectral_norm=None if i == 0 else float(i),
            smallest_perturbation=d,
            attack=None if d is None else "pgd",
            attacks={"pgd": d, "deepfool": None if d is None else 1.1 * d},
        )
        for i, d in enumerate(found)
    ] + [AttackedInput(index=5, status="failed", reason="the model raised")]


def test_censored_inputs_are_counted_and_left_out() -> None:
    margin, peak, norm = correlate(_inputs(), 0.95, 0)
    assert (margin.inputs, margin.censored, margin.unmeasured) == (4, 1, 0)
    assert margin.spearman.value == pytest.approx(1.0)
    assert peak.spearman.value == pytest.approx(1.0)  # the norm's reciprocal: +1 is the right order
    assert (norm.inputs, norm.unmeasured) == (3, 1)
    assert margin.ratio.value == pytest.approx(1.75)  # of 2, 2, 1.5, 1


def test_flips_and_attacks_are_summed_up() -> None:
    (near,) = flipped_within(_inputs(), [1.5], 0.95, 0)
    assert (near.flipped, near.not_flipped, near.auc.value) == (2, 3, 1.0)
    pgd, deepfool = attack_summaries(_inputs(), ["pgd", "deepfool"])
    assert (pgd.succeeded, pgd.smallest, pgd.median_excess) == (4, 4, 0.0)
    assert (deepfool.succeeded, deepfool.smallest) == (4, 0)
    assert deepfool.median_excess == pytest.approx(0.1)
