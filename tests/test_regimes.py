"""A few regimes of the benchmark, from few queries: where a number claims to be local it is the right one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._regime_scores import Scores, exact_inputs, exact_numbers, measure, score
from benchmarks._regimes import REGIMES, Local, Workshop
from fimaudit import audit

#: Regimes that show every sort of score and train in a second.
SMOOTH = ("tanh_table", "logistic", "naive_bayes")
NOTHING_LOCAL = ("rounded_to_8", "one_hot", "hash_noise_0_1")


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_models_get_local_values_that_hold(name: str, tmp_path: Path) -> None:
    regime = REGIMES[name](Workshop(4, tmp_path))
    found = measure(regime, exact_inputs(regime), queries=50, seed=1)
    assert found.refused == 0
    assert found.local == found.compared["spectral_norm"] == 4
    assert found.held["spectral_norm"] == 4
    assert found.off == 0


@pytest.mark.parametrize("name", NOTHING_LOCAL)
def test_nothing_local_is_claimed_where_there_is_nothing(name: str, tmp_path: Path) -> None:
    regime = REGIMES[name](Workshop(4, tmp_path))
    found = measure(regime, exact_inputs(regime), queries=50, seed=0)
    assert found.inputs == 4
    assert found.off == found.local == 0


def test_numbers_of_a_linear_model_are_exact() -> None:
    """Two classes, slope w: spectral norm p q |w|^2, radius margin / |w|, peak 0.439 / radius^2."""
    w, margin = np.array([3.0, 4.0]), 2.0
    p = 1 / (1 + np.exp(-margin))
    logs = np.log(np.array([p, 1 - p]))
    slopes = np.stack([(1 - p) * w, -p * w])
    norm, peak, radius = exact_numbers(Local(logs, slopes, np.ones(2, dtype=bool)), np.ones(2))
    assert norm == pytest.approx(p * (1 - p) * 25)
    assert radius == pytest.approx(margin / 5)
    assert peak == pytest.approx(0.439 / radius**2, rel=2e-3)


def test_a_wrong_value_and_an_overstated_radius_are_counted(tmp_path: Path) -> None:
    regime = REGIMES["logistic"](Workshop(2, tmp_path))
    exact = exact_inputs(regime)
    report = audit(regime.model, regime.x, queries=50, mode="black-box")
    assert score(regime, exact, report, {}).off == 0
    inputs = [
        s.model_copy(
            update={
                "spectral_norm": s.spectral_norm.model_copy(update={"value": 3 * (exact[s.index].spectral_norm or 0.0)}),
                "margin_radius": s.margin_radius.model_copy(update={"lower": 1.01 * exact[s.index].change}),
            }
        )
        for s in report.inputs
    ]
    found = score(regime, exact, report.model_copy(update={"inputs": inputs}), {"queries": 50, "seed": 0})
    assert (found.off, found.overstated, found.silent) == (2, 2, 2)
    assert found.worst[0]["seed"] == 0


def test_scores_add_up() -> None:
    both = Scores(inputs=1, factor=3.0, off=1) + Scores(inputs=2, factor=2.0)
    assert (both.inputs, both.factor, both.off) == (3, 3.0, 1)
    assert both.coverage() is None
