"""Planning: counts, prices, intervals that simulation confirms, and proposals within the budget."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.errors import ModelFailure, UsageError
from fimaudit.measurement.counterexample import ROUNDS, STEPPED_ROWS, WITNESS_REQUESTS
from fimaudit.measurement.integrity_cost import MOST_INTEGRITY_ROWS, TYPICAL_ROWS, looks_at_integrity
from fimaudit.measurement.query_split import WITNESS_FROM, most_on_top
from fimaudit.measurement.recheck import WARY_LOOKS
from fimaudit.runs.cost import START, cost_of, per_second, rows_of
from fimaudit.runs.expected import expected_interval
from fimaudit.runs.proposal import PURPOSES, proposal
from fimaudit.statistics.one_sided import FOR_TAIL

command = importlib.import_module("fimaudit.cli.plan")  # in fimaudit.cli this name is the command itself


def test_cost():
    prices = {"price_per_row": 0.01, "price_per_request": 0.5}
    cost = cost_of(50, 199, features=10, classes=3, batch=64, rate=4.0, **prices, integrity=False)
    rows = 9950 + 50 * (6 + WARY_LOOKS + STEPPED_ROWS) + 40
    assert cost.rows == rows + rows // 250
    assert cost.requests == -(-cost.rows // 64) + 16 + (6 + ROUNDS + WITNESS_REQUESTS) * 50 + cost.rows // 1000
    assert cost.seconds == cost.requests / 4
    assert cost.money == pytest.approx(cost.rows / 100 + cost.requests / 2)
    assert cost.bytes == cost.rows * 13 * 20 + cost.requests * 200
    checked = cost_of(50, 199, features=10, classes=3, batch=64, rate=4.0, **prices)
    assert cost.rows + MOST_INTEGRITY_ROWS <= checked.rows <= cost.rows + MOST_INTEGRITY_ROWS + 2  # and for sentinels
    assert checked.requests >= cost.requests + MOST_INTEGRITY_ROWS
    assert cost_of(20, 60, features=4, batch=1).requests == cost_of(20, 60, features=4, batch=1).rows
    assert cost_of(1, 200, features=10).seconds is None
    assert cost_of(1, 200, features=10).money is None
    slow = cost_of(10, 200, features=4, rate=100.0, seconds_per_request=2.0, concurrency=4)
    assert slow.seconds == slow.requests * 0.5
    for bad in ({"inputs": 0}, {"batch": 0}, {"rate": 0.0}, {"price_per_row": -1.0}):
        with pytest.raises(UsageError, match="expected"):
            cost_of(**{"inputs": 1, "queries": 10, "features": 3, **bad})


def test_expected_interval_is_what_the_estimator_gives():
    from fimaudit.estimation.secants import contrasts
    from fimaudit.estimation.spectral_norm import spectral_limits

    rng = np.random.default_rng(0)
    scale = np.array([1.0, 0.2, 0.1, 0.05])
    widths = []
    for _ in range(60):
        limits = spectral_limits(contrasts(rng.standard_normal((100, 4)) * scale), 0.95)[0]
        widths.append((limits.lower, limits.upper))
    lower, upper = np.median(widths, axis=0)
    expected = expected_interval(120)  # the check and the profile take 19
    assert lower == pytest.approx(expected.lower, rel=0.08)
    assert upper == pytest.approx(expected.upper, rel=0.08)
    with pytest.raises(UsageError, match="at least 4"):
        expected_interval(3)


@pytest.mark.parametrize("queries", [43, 60, 200])
def test_expected_interval_is_what_an_audit_gives(queries):
    """Seen: 1.5 times the norm was to be expected of 60 queries, as if check and profile took none; it was 1.65."""
    weights = np.random.default_rng(0).standard_normal(2100) / 40  # too many features for orthonormal directions

    def model(batch):
        p = 1 / (1 + np.exp(-batch @ weights))
        return np.stack([1 - p, p], axis=1)

    x = np.random.default_rng(1).standard_normal((40, 2100))
    found = [s.spectral_norm for s in audit(model, x, queries=queries, name="m").inputs]
    expected = expected_interval(queries)
    assert np.median([s.upper / s.value for s in found]) == pytest.approx(expected.upper, rel=0.05)
    truth = [s * (1 - s) * (weights**2).sum() for s in 1 / (1 + np.exp(-x @ weights))]
    assert np.std([s.value for s in found] / np.array(truth)) == pytest.approx(expected.standard_error, rel=0.35)


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("budget", [600, 700, 20_000, 1_000_000])
@pytest.mark.parametrize("available", [None, 1, 100, 5000])
def test_proposals_stay_within_the_budget(purpose, budget, available):
    found = proposal(purpose, budget, available=available)
    assert found.rows <= budget
    assert found.inputs >= 1
    assert available is None or found.inputs <= available
    assert found.queries >= 43
    assert found.reason


def test_proposals_answer_their_question():
    p95 = proposal("p95", 20_000)
    assert p95.inputs > 200
    assert p95.standard_error == pytest.approx(0.103, abs=0.005)
    few = proposal("p95", 20_000, available=50)
    assert few.queries > 300
    assert str(FOR_TAIL) in few.reason
    largest = proposal("max", 20_000, available=100)
    assert largest.inputs == 100
    assert largest.again > largest.queries
    assert 70 <= proposal("threshold", 6_600).inputs <= 80
    assert proposal("compare", 20_000).inputs < proposal("mean", 20_000).inputs
    with pytest.raises(UsageError, match="too small"):
        proposal("compare", 150)
    with pytest.raises(UsageError, match="among mean"):
        proposal("mode", 4000)


def test_p95_error_formula_against_simulation():
    """The DESIGN's two allocations of 20,000 queries, with its spread of log lambda."""
    rng = np.random.default_rng(1)
    sigma, truth = 0.7, np.exp(0.7 * 1.6449)
    for inputs, terms in ((100, 198), (1176, 15)):
        noise = rng.chisquare(terms, (400, inputs)) / terms
        values = np.exp(sigma * rng.standard_normal((400, inputs))) * noise
        spread = np.log(np.quantile(values, 0.95, axis=1)).std()
        density = np.exp(-(1.6449**2) / 2) / np.sqrt(2 * np.pi)
        formula = np.sqrt(0.95 * 0.05 / inputs) / density * np.sqrt(sigma**2 + 2 / terms)
        assert spread == pytest.approx(formula, rel=0.2)
    assert truth > 0


def smooth(batch):
    z = batch @ np.random.default_rng(0).standard_normal((batch.shape[1], 3)) / np.sqrt(batch.shape[1])
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def rounded(batch):
    return np.round(smooth(batch), 3)


def stepped(batch):
    return smooth(np.round(batch, 1))


def unsteady(batch):
    """Bends at each input on another scale."""
    p = 1 / (1 + np.exp(-3 * np.sin(np.exp(np.minimum(6 * (batch**2).mean(axis=1), 12)))))
    return np.stack([p, 1 - p], axis=1)


def at_random(model, deviation):
    rng = np.random.default_rng(0)

    def noisy(batch):
        p = np.clip(model(batch) + deviation * rng.standard_normal((len(batch), 1)), 1e-6, None)
        return p / p.sum(axis=1, keepdims=True)

    return noisy


def now_and_then(model):
    rng = np.random.default_rng(0)

    def answer(batch):
        p = model(batch) ** np.where(rng.random((len(batch), 1)) < 0.1, 1.01, 1.0)
        return p / p.sum(axis=1, keepdims=True)

    return answer


MODELS = {
    "smooth": lambda: smooth,
    "rounded": lambda: rounded,
    "stepped": lambda: stepped,
    "unsteady": lambda: unsteady,
    "random": lambda: at_random(smooth, 1e-3),
    "random and stepped": lambda: at_random(stepped, 1e-5),
    "random now and then": lambda: now_and_then(smooth),
}


@pytest.mark.parametrize(("inputs", "queries"), [(1, 12), (1, 200), (10, 22), (40, 22), (20, 60), (20, 100), (20, 200)])
@pytest.mark.parametrize("features", [3, 30, 300])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_takes_no_more_rows_than_planned(model, inputs, queries, features):
    """Seen: 272 rows for 10 x 22, which is 24 % on top and not 10 %; 14,758 for 300 x 22 that were planned with 8,764."""
    x = np.random.default_rng(1).standard_normal((inputs, features))
    try:
        report = audit(MODELS[model](), x, queries=queries, name="m")
    except ModelFailure as refused:  # of a few inputs none may be left that is answered the same twice
        if model != "random now and then":
            raise refused
        return
    assert report.summary.queries <= rows_of(inputs, queries) - START
    if queries >= 100 and inputs >= 20:
        rare = inputs * WARY_LOOKS * (1.0 if model == "random now and then" else 0.2)  # else few answers are looked at twice
        checks = TYPICAL_ROWS * looks_at_integrity(None, inputs, queries)
        assert report.summary.queries <= inputs * (queries + most_on_top(queries)) + rare + checks + 8  # rows of preflight


@pytest.mark.parametrize("profile", ["off", "full"])
def test_the_plan_knows_of_profile_and_witness(profile):
    x = np.random.default_rng(1).standard_normal((4, 60))
    report = audit(smooth, x, queries=60, profile=profile, witness=True, name="m")
    assert report.summary.queries <= rows_of(4, 60, profile, witness=True) - START
    assert rows_of(4, 60, "off") < rows_of(4, 60) < rows_of(4, 60, "full") < rows_of(4, 60, "full", witness=True)


def test_many_queries_are_planned_to_the_row():
    """No input takes more than its allowance on top, whatever the model: a budget is not laid out for more."""
    for queries in (100, 200, 800):
        planned = rows_of(100, queries, integrity=False)
        assert planned * (1 - 1 / 250) - START == pytest.approx(
            100 * (queries + most_on_top(queries) + WARY_LOOKS + STEPPED_ROWS * (queries >= WITNESS_FROM)), rel=1e-3
        )


def test_command(capsys, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 3, 2)))
    command.plan(data=tmp_path / "x.npz", rate="120/min", price_per_row=0.5, json=True)
    plan = json.loads(capsys.readouterr().out)
    cost = plan["cost"]
    assert cost["rows"] == rows_of(40, 200)
    assert cost["bytes"] == cost["rows"] * 16 * 20 + cost["requests"] * 200
    assert cost["seconds"] == cost["requests"] / 2
    assert cost["money"] == cost["rows"] / 2
    assert 8000 < cost["expected"] < cost["rows"]
    command.plan(data=tmp_path / "x.npz", purpose="p95", budget=5000)
    said = capsys.readouterr().out
    assert "40 x 113" in said
    assert "no finite upper limit" in " ".join(said.split())
    with pytest.raises(UsageError, match="budget="):
        command.plan(inputs=3, features=4, purpose="mean")
    with pytest.raises(UsageError, match="how many inputs"):
        command.plan(features=4)
    with pytest.raises(UsageError, match="20/s"):
        per_second("fast")


def test_confirmation_is_asked_on_a_terminal_only():
    assert command.confirm(cost_of(1, 200, features=3))
