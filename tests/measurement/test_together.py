"""Arithmetic that is done for the inputs of a block at once gives each the numbers that it would have alone, bit for bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from fimaudit.domain import InputDomain
from fimaudit.estimation.estimate import MeasuredJacobian, estimate_jacobians, named_contrast
from fimaudit.estimation.noise import BaseAnswers, OutputQuality, VisibleClasses
from fimaudit.measurement.additivity import Joint, unexplained_shares
from fimaudit.measurement.counterexample import Way, rows_along, rows_along_each
from fimaudit.measurement.energy import Answered, Displacements, Rungs, displaced_rungs, displaced_rungs_each, draw_signs
from fimaudit.measurement.full_jacobian import _BothWays, _differences, whole_jacobian
from fimaudit.measurement.protocol import BatchedStep, run_batched
from fimaudit.measurement.recheck import Alone, far_alone_each
from fimaudit.space import Space

DOMAINS = {
    "open": (InputDomain(), (30,)),
    "wide": (InputDomain(), (70_000,)),
    "with bounds": (InputDomain(lower=0.0, upper=1.0), (3, 4)),
    "scaled, some held": (InputDomain(scale=np.linspace(0.5, 2.0, 9), frozen=[1, 4]), (9,)),
    "levels": (InputDomain(lower=0.0, upper=1.0, quantum=1 / 255), (12,)),
}


def inputs(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).random((4, *shape)).astype(np.float32)


def spaces(domain: InputDomain, x: np.ndarray) -> list[Space]:
    """One of them is another one."""
    shared = domain.resolve(x, "float32")
    return [shared, shared, domain.resolve(x, "float32"), shared]


@pytest.mark.parametrize("name", DOMAINS)
def test_displacements_and_rows_along_a_slope(name: str) -> None:
    domain, shape = DOMAINS[name]
    x = inputs(shape)
    rhos = [(0.01, 0.03), (0.02, 0.5), (0.01, 0.03), (0.1, 0.2, 0.3)]
    asked = [
        Displacements(one, space, draw_signs(3, i, 0, 8, one.size), own)
        for i, (one, space, own) in enumerate(zip(x, spaces(domain, x), rhos, strict=True))
    ]
    for one, together in zip(asked, displaced_rungs_each(asked), strict=True):
        same_rungs(together, displaced_rungs(one.x, one.space, one.signs, one.rhos))
    rng = np.random.default_rng(0)
    ways = []
    for one, lengths in zip(asked, ([0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.1, 0.2, 3.0]), strict=True):
        unit = rng.standard_normal(one.space.features)
        ways.append((one.x, one.space, unit / np.linalg.norm(unit), np.array(lengths)))
    for way, (rows, distances) in zip(ways, rows_along_each([Way(*way) for way in ways]), strict=True):
        alone, far = rows_along(*way)
        np.testing.assert_array_equal(rows, alone)
        np.testing.assert_array_equal(distances, far)


def same_rungs(one: Rungs, other: Rungs) -> None:
    for name in ("lengths", "full", "centred"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.rows.build(0, len(one.rows)), other.rows.build(0, len(other.rows)))


def model(weights: np.ndarray) -> Any:
    def answer(rows: np.ndarray) -> np.ndarray:
        odds = np.exp(np.tanh(rows.reshape(len(rows), -1).astype(np.float64)) @ weights)
        return odds / odds.sum(axis=1, keepdims=True)

    return answer


def test_whole_jacobians_single_features_and_what_they_leave_unexplained() -> None:
    x, rng = inputs((6,)), np.random.default_rng(1)
    space = InputDomain().resolve(x, "float32")
    steps: dict[int, BatchedStep] = {}
    joint, estimates = {}, {}
    for i, one in enumerate(x):
        answer = model(rng.standard_normal((6, 3)) * 10.0 ** (i - 1))  # of some, not every class is visible
        base = BaseAnswers(OutputQuality(), answer(one[None]))
        flow = whole_jacobian(one, space, 0.01, 24, base.view)
        coarse = next(flow)
        fine = flow.send(answer(coarse.build(0, 12)))
        steps[i] = flow.send(answer(fine.build(0, 12)))
        rungs = displaced_rungs(one, space, draw_signs(0, i, 0, 8, 6), [0.01])
        joint[i] = Answered(rungs, answer(rungs.rows.build(0, 8)), base)
        estimates[i] = flow
    together = run_batched(steps)
    for i, step in steps.items():
        np.testing.assert_array_equal(together[i], step.function([step.argument])[0])
    measured = [estimates[i].send(together[i]).argument for i in steps]
    assert all(isinstance(one, MeasuredJacobian) for one in measured)
    assert estimate_jacobians(measured) == [estimate_jacobians([one])[0] for one in measured]
    left = [Joint(space, joint[i], one.fine[0]) for i, one in enumerate(measured)]
    assert unexplained_shares(left) == [unexplained_shares([one])[0] for one in left]


def test_single_features_that_lie_far_out() -> None:
    rng = np.random.default_rng(2)

    def around(far: bool, rows: int) -> Alone:
        answers = 0.5 + 1e-4 * rng.random((rows, 2))
        answers[1] += 0.3 * far
        return Alone(answers, np.array([0.5, 0.5]))

    asked = [around(far, rows) for far, rows in ((False, 12), (True, 12), (False, 12), (True, 8), (False, 8))]
    assert far_alone_each(asked) == [False, True, False, True, False]


def test_differences_beside_an_input_with_a_class_of_probability_nought() -> None:
    rng, asked = np.random.default_rng(2), []
    for hidden in (0, 1, 0, 2):
        base = np.sort(rng.dirichlet(np.ones(30)))[::-1]
        base[0] += 2.0  # by 1 minus the others, whose sum depends on their order in memory
        answers = rng.dirichlet(1000 * base, 120)
        answers[:, 30 - hidden :] = 0.0
        view = VisibleClasses(base / base.sum(), 0, np.arange(30))
        asked.append(_BothWays(view, answers / answers.sum(axis=1, keepdims=True), np.full((1, 60), 0.01)))
    for one, together in zip(asked, _differences(asked), strict=True):
        np.testing.assert_array_equal(together, _differences([one])[0])


def test_whole_jacobians_with_many_classes_take_little_memory_and_give_the_norm() -> None:
    """Seen with 1,000 classes: 1.2 GB beside the model and 0.4 s an input, by matrices of 1,000 x 1,000."""
    rng, asked = np.random.default_rng(0), []
    for _ in range(12):
        base = np.sort(rng.dirichlet(np.ones(600)))[::-1]
        logs = rng.standard_normal((10, 600))
        logs -= (logs @ base)[:, None]
        secants = (logs * np.sqrt(base), logs)
        asked.append(MeasuredJacobian(VisibleClasses(base, 0, np.arange(600)), secants, secants))
    tracemalloc.start()
    try:
        found = estimate_jacobians(asked)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20 * 2**20
    for one, estimate in zip(asked, found, strict=True):
        assert estimate is not None
        assert estimate.spectral.value == pytest.approx(np.linalg.norm(one.fine[0], 2) ** 2, rel=1e-12)
        direction = np.linalg.svd(one.fine[0])[2][0]
        assert estimate.contrast == named_contrast(one.view, direction, one.view.base)
