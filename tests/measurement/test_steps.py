"""The ladder of displacements and the plateau on it, on energies with the faults of real models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimaudit.measurement.plateau import DECADES, PERCENTILE, find_plateau, ladder, spread

RUNGS = 10.0 ** np.arange(-6, 0.01, 0.25)
INPUTS = np.array([1.0, 30.0, 1e-4, 7.0, 2.0])[:, None]  # energies differ between inputs by orders of magnitude


def noise(level: float) -> np.ndarray:
    """Rounding noise of the answers: energy falls with 1 / h^2 until the signal stands out."""
    return INPUTS * (1 + (level / RUNGS) ** 2)


def curved(knee: float) -> np.ndarray:
    return INPUTS * (1 + (RUNGS / knee) ** 2)


def rounded(edge: float) -> np.ndarray:
    """Rounded answers: nothing at all, then overshoot, then the plateau."""
    return INPUTS * np.where(edge > RUNGS, 0.0, 1 + 3 * (edge / RUNGS))


#: Energies, and the displacements between which the plateau's middle must lie.
ENERGIES = {
    "flat": (np.ones((5, 1)) * INPUTS * np.ones(25), 2e-4, 5e-3),
    "noise floor": (noise(1e-4), 1e-3, 0.5),
    "noise and curvature": (noise(1e-5) * curved(0.3), 1e-4, 0.05),
    "curvature early": (curved(3e-3), 1e-6, 1e-3),
    "rounded": (rounded(1e-4), 1e-2, 0.8),
    "rounded and curved": (rounded(1e-5) * curved(0.5), 5e-4, 0.1),
    "saturating": (INPUTS / (1 + (RUNGS / 1e-2) ** 2), 1e-6, 2e-3),
    "one input": ((noise(1e-5) * curved(0.3))[:1], 1e-4, 0.05),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_displacement_lies_on_the_plateau(name: str) -> None:
    energy, low, high = ENERGIES[name]
    found = find_plateau(energy, RUNGS)
    assert found is not None
    assert low <= found.displacement <= high
    assert found.displacement == pytest.approx(np.sqrt(RUNGS[found.first] * RUNGS[found.last]))
    assert found.last > found.first
    run = energy[:, found.first : found.last + 1]
    steps = np.abs(np.diff(np.log(run), axis=1))
    assert found.change == pytest.approx(np.percentile(steps, PERCENTILE, axis=0, method="higher").max(), rel=1e-6)
    # the error that the step leaves is small
    assert np.interp(np.log(found.displacement), np.log(RUNGS), energy[0] / INPUTS[0]) == pytest.approx(1, abs=0.06)


def test_zero_energies_never_count() -> None:
    energy = np.ones((3, 25))
    energy[:, :15] = 0
    found = find_plateau(energy, RUNGS)
    assert found is not None
    assert found.first == 15
    assert find_plateau(np.zeros((3, 25)), RUNGS) is None
    alone = np.zeros((3, 25))
    alone[:, 7] = 1  # a single rung has no neighbour
    assert find_plateau(alone, RUNGS) is None
    assert find_plateau(np.zeros((0, 25)), RUNGS) is None


def test_an_input_that_never_answers_does_not_decide() -> None:
    energy = np.vstack([noise(1e-5) * curved(0.3), np.zeros((2, 25))])
    expected = find_plateau(energy[:5], RUNGS)
    assert find_plateau(energy, RUNGS) == expected


def test_without_a_plateau_the_stillest_pair_is_taken() -> None:
    energy = INPUTS * RUNGS**0.9
    energy[:, 11:] *= np.exp(-0.9 * np.log(10**DECADES) * 0.8)  # one step much smaller than the others
    found = find_plateau(energy, RUNGS)
    assert found is not None
    assert (found.first, found.last) == (10, 11)
    assert found.change > 0.03  # and says how little it stands still


def test_the_longest_run_wins_over_a_stiller_short_one() -> None:
    steps = np.full(24, 0.5)
    steps[2:4] = 0.0
    steps[10:20] = 0.02
    found = find_plateau(np.exp(np.cumsum(np.append(0, steps)))[None], RUNGS)
    assert found is not None
    assert (found.first, found.last) == (10, 20)


@given(st.floats(-8, 8), st.floats(-3, 3))
def test_plateau_ignores_the_unit_of_energy_and_moves_with_that_of_the_input(energy_unit: float, input_unit: float) -> None:
    energy = noise(1e-5) * curved(0.3)
    one = find_plateau(energy, RUNGS)
    other = find_plateau(energy * 10**energy_unit, RUNGS * 10**input_unit)
    assert one is not None
    assert other is not None
    assert (other.first, other.last) == (one.first, one.last)
    assert other.displacement == pytest.approx(one.displacement * 10**input_unit)


def test_ladder_spans_six_decades_in_quarters_up_to_the_spread() -> None:
    x = np.random.default_rng(0).standard_normal((20, 50)) * 3
    rungs = ladder(x, 50)
    size, small = spread(x)
    np.testing.assert_allclose(rungs[1:] / rungs[:-1], 10**DECADES)
    assert rungs[-1] == pytest.approx(size * np.sqrt(50))
    assert rungs[0] == pytest.approx(1e-6 * small * np.sqrt(50), rel=1.0)
    assert size == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(ladder(x * 255, 50), rungs * 255)


def test_ladder_starts_where_the_dtype_resolves_differences() -> None:
    x = np.random.default_rng(0).standard_normal((20, 50))
    assert ladder(x, 1, finest=1e-3)[0] == pytest.approx(1e-3, rel=0.8)
    assert len(ladder(x, 1, finest=1e9)) >= 4  # never emptied


@pytest.mark.parametrize("x", [np.zeros((1, 3)), np.ones((4, 3)), np.zeros((5, 1)), np.full((1, 1), -2.0)])
def test_ladder_of_inputs_that_do_not_vary(x: np.ndarray) -> None:
    rungs = ladder(x, x.shape[1])
    assert np.isfinite(rungs).all()
    assert (rungs > 0).all()


def test_spread_reads_the_typical_and_the_small_feature() -> None:
    x = np.random.default_rng(0).standard_normal((4000, 3)) * [1.0, 10.0, 0.0]
    size, small = spread(x)
    assert size == pytest.approx(np.sqrt(101 / 2), rel=0.05)
    assert small == pytest.approx(5.5, rel=0.05)
