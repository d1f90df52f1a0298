"""Working on many inputs at once changes nothing but the time: bit for bit what each gets alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fimaudit.estimation.grouping import positions_by_kind
from fimaudit.estimation.noise import BaseAnswers, OutputQuality
from fimaudit.estimation.sketch import Sketch, estimate_sketch, estimate_sketches
from fimaudit.measurement.energy import Answered, Rungs, read_rungs_each
from fimaudit.measurement.protocol import BatchedStep, run_batched
from fimaudit.measurement.scale_profile import read_profiles
from fimaudit.perturbations.rows import PlainRows


def answers(rng: np.random.Generator, classes: int, rows: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(1, K) at an input and (rows, K) around it."""
    start = 3.0 * rng.standard_normal(classes)
    if kind == "hidden":
        start[rng.integers(classes)] = -200.0
    moves = 0.01 * rng.standard_normal((rows, classes))
    if kind == "constant":
        moves[:] = 0.0
    logits = np.concatenate([start[None], start + moves])
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    if kind == "float32":
        p = p.astype(np.float32).astype(np.float64)
    if kind == "rounded":
        p = np.round(p, 4)
    return p[:1], p[1:]


KINDS = st.sampled_from(["plain", "plain", "hidden", "constant", "float32", "rounded", "random", "relative"])


def base_answers(kind: str, base: np.ndarray, rng: np.random.Generator) -> BaseAnswers:
    """What is known of such answers."""
    if kind == "random":
        base = np.abs(base + 1e-5 * rng.standard_normal((8, base.shape[1])))
        return BaseAnswers(OutputQuality(random=True), base / base.sum(axis=1, keepdims=True))
    return BaseAnswers(
        OutputQuality(quantum=1e-4 if kind == "rounded" else 0.0, relative=1e-4 if kind == "relative" else 0.0), base
    )


@settings(max_examples=60)
@given(
    st.lists(st.tuples(KINDS, st.sampled_from([2, 3, 10, 30, 90]), st.sampled_from([7, 40])), min_size=2, max_size=6),
    st.data(),
)
def test_sketches_at_once_are_those_alone(cases: list[tuple[str, int, int]], data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    sketches = []
    for kind, classes, rows in cases:
        base, around = answers(rng, classes, rows, kind)
        features = data.draw(st.sampled_from([None, 300]))
        sketches.append(Sketch(base_answers(kind, base, rng).view, around, 0.01 * (1 + rng.random()), 0.95, features))
    alone = [estimate_sketches([one])[0] for one in sketches]
    assert estimate_sketches(sketches) == alone
    assert estimate_sketches(sketches, 2 * sketches[0].answers.nbytes) == alone  # too many for the cache: some at a time


@settings(max_examples=40)
@given(st.lists(st.tuples(KINDS, st.sampled_from([2, 10])), min_size=2, max_size=6), st.integers(0, 999))
def test_rungs_at_once_are_those_alone(cases: list[tuple[str, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked = []
    for kind, classes in cases:
        base, around = answers(rng, classes, 8, kind)
        rungs = Rungs(PlainRows(np.zeros((8, 3))), np.array([0.01, 0.03]), np.array([True, True]), rng.random(2) < 0.5)
        asked.append(Answered(rungs, around, base_answers(kind, base, rng)))
    together, alone = read_rungs_each(asked), [read_rungs_each([one])[0] for one in asked]
    for of_all, of_one in zip(together, alone, strict=True):
        for name in ("energy", "above_noise", "even", "odd", "even_share"):
            np.testing.assert_array_equal(getattr(of_all, name), getattr(of_one, name))
    for profile, one in zip(read_profiles(asked), asked, strict=True):
        (by_itself,) = read_profiles([one])
        assert (profile.radii, profile.flips) == (by_itself.radii, by_itself.flips)
        np.testing.assert_array_equal(profile.changed, by_itself.changed)


def test_work_is_done_once_for_all_who_want_it() -> None:
    calls: list[Any] = []

    def double(parts: Any) -> list[int]:
        calls.append(list(parts))
        return [2 * part for part in parts]

    def negative(parts: Any) -> list[int]:
        return [-part for part in parts]

    asked = run_batched({4: BatchedStep(double, 1), 7: BatchedStep(negative, 5), 9: BatchedStep(double, 3)})
    assert asked == {4: 2, 7: -5, 9: 6}
    assert calls == [[1, 3]]
    with pytest.raises(ValueError, match="zip"):
        run_batched({0: BatchedStep(lambda parts: [], 1)})  # one result for each, or a fault
    assert positions_by_kind([]) == []


@pytest.mark.parametrize("seed", range(6))
def test_a_class_between_two_rounded_numbers_is_no_rival_and_one_that_moves_is(seed: int) -> None:
    """Class 2 stays at 15.5 quanta and is written as 15 or 16 of them; class 1 moves by about one."""
    rng, quantum, features = np.random.default_rng(seed), 1e-3, 50
    p = np.array([0.6045, 0.38, 15.5 * quantum])
    gradient = rng.standard_normal(features)
    gradient /= np.linalg.norm(gradient)
    length = quantum / p[1]
    z = np.log(p) + (rng.choice([-length, length], (60, features)) @ gradient)[:, None] * np.array([0.0, 1.0, 0.0])
    rows = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    base, rounded = (np.round(np.atleast_2d(one) / quantum) * quantum for one in (p, rows))
    view = OutputQuality(quantum=quantum).view(base, rounded)
    found = estimate_sketch(Sketch(view, rounded, length, 0.95, None))
    assert found is not None
    assert found.margin is not None
    assert found.margin.rival == 1
    assert found.margin.radius.lower < np.log(p[0] / p[1]) < found.margin.radius.upper
