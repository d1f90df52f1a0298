"""What a pilot of one input says of jumps: those met now and then, and those right beyond a short plateau."""

from __future__ import annotations

import numpy as np

from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.ladder import PilotLadder


def ladder(energy: list[float], share: list[float]) -> PilotLadder:
    """One input's energies and even shares."""
    raw, even = np.array([energy]), np.array([share])
    rungs = 10.0 ** (0.25 * np.arange(len(energy)))
    base = np.array([[0.7, 0.3]])
    every = np.ones(raw.shape, dtype=np.bool_)
    return PilotLadder(rungs, raw, every, even, 1 - even, np.empty((1, 0)), base, OutputQuality(), 0, {})


def test_one_rung_far_above_its_plateau_is_a_lone_jump_and_steep_curvature_is_not() -> None:
    flat, none = [1.0] * 9, [0.0] * 9
    assert ladder(flat, none).lone_jumps == 0
    assert ladder([*flat[:6], 15.0, *flat[7:]], [*none[:6], 0.4, *none[7:]]).lone_jumps == 1
    assert ladder([1, 1, 1, 1, 1, 1, 15, 60, 200], [0, 0, 0, 0, 0, 0, 0.4, 0.4, 0.4]).lone_jumps == 0
    assert ladder([900, 90, 9, 1, 1, 1, 1, 1, 1], [0.7, 0.7, 0.5, 0, 0, 0, 0, 0, 0]).lone_jumps == 0


def test_a_long_rung_between_curved_ones_is_curvature() -> None:
    """Far beyond the plateau no rung is a linear function's: so answered a network of 64 x 64 images."""
    energy = [1, 1, 1, 1, 1, 1.1, 1.4, 1.7, 1.1, 0.9, 1.1, 1.9, 9.3, 0.7, 0.2, 0.1]
    share = [0, 0, 0, 0, 0.01, 0.04, 0.1, 0.2, 0.7, 0.9, 0.96, 0.98, 0.98, 1.0, 1.0, 1.0]
    assert ladder(energy, share).lone_jumps == 0
    assert ladder([*energy[:3], 9.3, *energy[4:]], [*share[:3], 0.98, *share[4:]]).lone_jumps == 1
    at_the_end_of_the_linear_range = [*energy[:6], 22.3, 1.1, *energy[8:]], [*share[:6], 0.5, 0.4, *share[8:]]
    assert ladder(*at_the_end_of_the_linear_range).lone_jumps == 1


def test_a_short_plateau_below_jumps_may_be_the_inside_of_a_cell() -> None:
    """As dynamic int8 answered one input; a long one is a slope, whatever lies beyond."""
    jumping = [5146.0, 516.0, 2075.0, 520.0, 59.0, 15.0]
    short = ladder([0.03, 1.14, 1.0, 1.0, *jumping], [0.96, 0.05, 0.01, 0.0, 0.5, 0.5, 0.65, 0.49, 0.68, 0.35])
    long = ladder([1.0] * 6 + jumping, [0.0] * 6 + [0.5, 0.5, 0.65, 0.49, 0.68, 0.35])
    smooth = ladder([1.0, 1.0, 1.0, 1.02, 1.3, 2.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.01, 0.05, 0.1, 0.2, 0.3])
    assert short.jumps_beyond
    assert not long.jumps_beyond
    assert not smooth.jumps_beyond
