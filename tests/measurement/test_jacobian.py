"""The whole Jacobian, feature by feature: central, central once and forward, against the analytic numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.domain import InputDomain
from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.full_jacobian import DECISIVE, WholeJacobian, fits, whole_jacobian
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.space import Space
from tests.cases import CASES, Case, box_inputs, normal_inputs, tanh_network

#: Displaced rows allowed for each way of measuring d features.
WAYS = {
    "central twice": lambda d: 4 * d,
    "central once": lambda d: 2 * d + 2 * DECISIVE,
    "forward": lambda d: d + 2 * DECISIVE,
}
METHOD = {"central twice": "basis-central", "central once": "basis-central", "forward": "basis-forward"}
SMALL = [case for case in CASES if case.x[0].size <= 150]
SMALL += [
    Case("tanh K=3 d=9 float32, frozen", tanh_network(20, 3, 9, answers="float32"), box_inputs(20, 4, 3, 3), 0, 1, (1, 7),
         "float32"),
    Case("tanh K=4 d=25 float32 input, float64 answers", tanh_network(21, 4, 25), normal_inputs(21, 4, 25), dtype="float32"),
]  # fmt: skip
#: Displacement of all features, and the relative error of the norms that it leaves.
STEP = {
    "float64": {"central": (1e-3, 3e-5), "forward": (1e-4, 2e-3)},
    "float32": {"central": (0.03, 1e-2), "forward": (0.03, 0.05)},
}


def drive(case: Case, index: int, rho: float, rows: int) -> tuple[str, Estimate, int, list[np.ndarray]]:
    space = space_of(case)
    x = case.x[index]
    base = np.asarray(case.model(x.astype(case.dtype)[None]), np.float64)
    talk = whole_jacobian(x, space, rho, rows, OutputQuality().view(base, base[:0]))
    sent: list[np.ndarray] = []

    def answer(batch: np.ndarray) -> np.ndarray:
        sent.append(batch)
        return case.model(batch)

    found = answered(talk, answer)
    return found.method, found.estimate, found.rows, sent


def answered(talk: Flow[WholeJacobian], model: Callable[[np.ndarray], np.ndarray]) -> WholeJacobian:
    asked = next(talk)
    while True:
        try:
            if isinstance(asked, BatchedStep):
                asked = talk.send(asked.function([asked.argument])[0])
            else:
                asked = talk.send(np.asarray(model(asked.build(0, len(asked))), np.float64))
        except StopIteration as stop:
            return stop.value


def space_of(case: Case) -> Space:
    domain = InputDomain(lower=case.lower, upper=case.upper, frozen=case.frozen)
    return domain.resolve(case.x, case.dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_numbers_are_the_analytic_ones(case: Case, way: str) -> None:
    d = space_of(case).features
    rows = WAYS[way](d)
    if (way != "central twice" and rows >= 4 * d) or not fits(d, rows):
        pytest.skip("so few features take the fuller way with these rows")
    # an answer in float32 needs the longer step, whatever it is fed
    precision = "float32" if "float32" in (case.dtype, case.model.answers) else "float64"
    rho, error = STEP[precision]["forward" if way == "forward" else "central"]
    for index in range(len(case.x)):
        truth = case.truth(index)
        method, estimate, used, sent = drive(case, index, rho, rows)
        assert method == METHOD[way]
        assert used == 1 + sum(len(block) for block in sent) <= rows + 1
        assert estimate.spectral.value == pytest.approx(truth.spectral, rel=error)
        assert estimate.trace.value == pytest.approx(truth.trace, rel=error)
        assert estimate.peak is not None
        assert estimate.peak.value == pytest.approx(truth.peak, rel=max(error, 3e-3))
        assert estimate.margin is not None
        assert estimate.margin.radius.value == pytest.approx(truth.radius, rel=error)
        assert estimate.margin.rival == truth.rival
        for limits, value in (
            (estimate.spectral, truth.spectral),
            (estimate.peak, truth.peak),
            (estimate.margin.radius, truth.radius),
        ):
            room = 2e-3 * value if precision == "float32" else 0.0  # what rounding of the answers adds is not step bias
            assert limits.lower - room <= value <= limits.upper + room
        for block in sent:
            assert block.dtype == case.dtype
            assert (block >= np.float64(case.lower).astype(case.dtype)).all()
            assert (block <= np.float64(case.upper).astype(case.dtype)).all()
            held = block.reshape(len(block), -1)[:, list(case.frozen)]
            assert (held == case.x[index].astype(case.dtype).ravel()[list(case.frozen)]).all()


def test_fits_counts_the_rows() -> None:
    assert fits(1, 4)
    assert not fits(1, 3)
    assert fits(193, 199)
    assert not fits(194, 199)
    assert not fits(1000, 199)


@pytest.mark.parametrize("scale", ["raw", "std"])
def test_numbers_are_in_units_of_the_scale(scale: str) -> None:
    case = CASES[2]
    stretch = np.geomspace(0.1, 10, 30)
    x = case.x * stretch
    space = InputDomain(scale=scale).resolve(x, "float64")
    model = case.model

    talk = whole_jacobian(x[0], space, 1e-3, 4 * 30, OutputQuality().view(model(x[:1]), model(x[:1])[:0]))
    asked = next(talk)
    estimate = None
    while estimate is None:
        try:
            batched = isinstance(asked, BatchedStep)
            asked = talk.send(asked.function([asked.argument])[0] if batched else model(asked.build(0, len(asked))))
        except StopIteration as stop:
            estimate = stop.value.estimate
    J = model.jacobian(x[0]) * (1 if scale == "raw" else x.std(axis=0))
    p = model(x[:1])[0]
    F = J.T @ (np.diag(p) - np.outer(p, p)) @ J
    assert estimate.spectral.value == pytest.approx(np.linalg.eigvalsh(F)[-1], rel=1e-5)


def test_a_constant_model_has_no_estimate() -> None:
    case = Case("constant", tanh_network(0, 3, 5, gain=0.0), normal_inputs(0, 1, 5))
    _, estimate, _, _ = drive(case, 0, 1e-2, 20)
    assert estimate is None


def test_a_class_that_is_nought_at_the_input_alone() -> None:
    """Seen at nearest neighbours weighted by distance: its logarithm there is -inf, and a decomposition did not converge."""

    def model(rows: np.ndarray) -> np.ndarray:
        z = np.stack([rows[:, 0] + 3.0, rows[:, 1], 40 * np.abs(rows).sum(axis=1) - 40], axis=1)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p[(rows == 0).all(axis=1), 2] = 0.0
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    for queries in (60, 200):
        assert audit(model, np.zeros((1, 20)), queries=queries).inputs[0].status != "failed"


def test_answers_that_move_call_by_call_do_not_agree_by_themselves() -> None:
    """Both steps in one call would agree whatever moved it (of 108 intervals 9 held); in two they agree by chance only."""
    network, x, runs = tanh_network(20, 3, 9), np.full(9, 0.4), 400
    space, rng = InputDomain().resolve(x[None], "float64"), np.random.default_rng(3)
    base = np.asarray(network(x[None]), np.float64)
    true = 4 * np.linalg.norm(full_jacobian_of_roots(network, x), 2) ** 2
    held = 0
    for _ in range(runs):
        talk = whole_jacobian(x, space, 1e-3, 36, OutputQuality().view(base, base[:0]))
        spectral = answered(talk, lambda rows: network(rows + 0.1 * rng.standard_normal(9))).estimate.spectral
        held += spectral.lower <= true <= spectral.upper
    assert 0.86 * runs < held < 0.92 * runs


def full_jacobian_of_roots(model: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    step = 1e-6 * np.eye(len(x))
    return (np.sqrt(model(x + step)) - np.sqrt(model(x - step))) / 2e-6
