"""Integrity checks of a run: models that were made to look robust are found, honest ones are not accused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fimaudit import Report, audit
from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import open_data
from fimaudit.errors import ModelFailure, UsageError
from fimaudit.measurement.integrity_cost import MOST_INTEGRITY_ROWS, TYPICAL_ROWS
from fimaudit.runs.integrity.drawing import candidates
from fimaudit.storage.tables import read_inputs_table

Array = NDArray[np.float64]
Model = Callable[[Any], Array]

FEATURES, CLASSES, INPUTS = 20, 5, 16
RNG = np.random.default_rng(5)
U, V, W = RNG.normal(size=(FEATURES, 32)) * 2, RNG.normal(size=32), RNG.normal(size=(32, CLASSES)) / 2
X = RNG.random((INPUTS, FEATURES))
OPTIONS: dict[str, Any] = {"lower": 0.0, "upper": 1.0, "queries": 180, "mode": "black-box"}


def logits(batch: Any) -> Array:
    flat = np.asarray(batch, np.float64).reshape(len(batch), -1)
    return np.asarray(np.tanh((flat - 0.5) @ U + V) @ W * 1.5)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def honest(batch: Any) -> Array:
    return softmax(logits(batch))


def binary(batch: Any) -> Array:
    """Two classes in float32."""
    return softmax(logits(batch)[:, :2]).astype(np.float32)


def linear(batch: Any) -> Array:
    return softmax(np.asarray(batch, np.float64) @ U[:, :CLASSES] / 2)


def one_hot(p: Array) -> Array:
    return np.eye(p.shape[1])[p.argmax(axis=1)]


def blended(share: float, model: Model = honest) -> Model:
    return lambda batch: (1 - share) * one_hot(model(batch)) + share * np.asarray(model(batch))


def winner_raised(batch: Any) -> Array:
    z = logits(batch)
    return softmax(0.1 * z + 2 * one_hot(z))


def flattened(batch: Any) -> Array:
    z = logits(batch)
    return softmax(-np.sqrt(np.sqrt(z.max(axis=1, keepdims=True) - z)) * 2)


class Remembers:
    """Near a row that it was asked before it answers that again, or a step of it that is shrunk."""

    def __init__(self, reach: float, shrunk: float, model: Model = honest, after: int = 0) -> None:
        self.reach, self.shrunk, self.model, self.after = reach, shrunk, model, after
        self.rows: list[Array] = []
        self.hits: list[int] = []

    def __call__(self, batch: Any) -> Array:
        return np.concatenate([self._one(row) for row in np.asarray(batch, np.float64)])

    def _one(self, row: Array) -> Array:
        if self.rows:
            distance = np.linalg.norm(np.array(self.rows) - row, axis=1)
            nearest = int(distance.argmin())
            if distance[nearest] < self.reach:
                self.hits[nearest] += 1
                if self.hits[nearest] > self.after:
                    centre = self.rows[nearest]
                    return np.asarray(self.model((centre + self.shrunk * (row - centre))[None]))
                return np.asarray(self.model(row[None]))
        self.rows.append(row.copy())
        self.hits.append(0)
        return np.asarray(self.model(row[None]))


class Noisy:
    def __init__(self, size: float, model: Model = honest, each_call: bool = False) -> None:
        self.size, self.model, self.each_call = size, model, each_call
        self.rng = np.random.default_rng(3)

    def __call__(self, batch: Any) -> Array:
        shape = (1, FEATURES) if self.each_call else np.shape(batch)
        return np.asarray(self.model(np.asarray(batch) + self.size * self.rng.standard_normal(shape)))


def outcomes(report: Report) -> dict[str, str]:
    return {check.name: check.outcome for check in report.integrity}


def dumped(report: Report) -> list[dict[str, Any]]:
    return [s.model_dump() for s in report.inputs]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (honest, {}),
        (linear, {"lower": None, "upper": None}),
        (binary, {}),
        (lambda b: np.round(honest(b), 4), {}),
        (lambda b: honest(np.round(np.asarray(b) * 255) / 255), {}),
        (honest, {"quantum": 1 / 64}),
        (honest, {"frozen": [0, 3, 7]}),
        (honest, {"scale": "std", "lower": None, "upper": None}),
        (lambda b: softmax(logits(b).astype(np.float16).astype(np.float64)), {}),
        (lambda b: blended(1.0)(b), {}),
        (lambda b: softmax(logits(b) / 5), {}),
        (lambda b: softmax(logits(b) * 5), {}),
    ],
    ids=["plain", "open", "two", "rounded", "8bit", "levels", "held", "std", "half", "blend1", "cool", "hot"],
)
def test_honest_models_are_not_accused(model: Model, options: dict[str, Any], seed: int) -> None:
    report = audit(model, X, **{**OPTIONS, **options}, seed=seed)
    assert [check.name for check in report.integrity] == ["history", "last_digit", "boundary", "slope", "radius", "ceiling"]
    assert report.contradicted == []
    assert not any("integrity" in warning for warning in report.warnings)
    assert outcomes(report)["history"] == "ok"


@pytest.mark.parametrize("each_call", [False, True])
@pytest.mark.parametrize("size", [1e-3, 0.03])
def test_noise_is_not_called_a_contradiction(size: float, each_call: bool) -> None:
    for seed in range(3):
        report = audit(Noisy(size, each_call=each_call), X, **OPTIONS, seed=seed)
        assert report.contradicted == [], report.contradicted
        assert "answers are random)" in report.integrity[0].finding  # which is why a difference is none


@pytest.mark.parametrize("reach", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("shrunk", [0.0, 0.1])
@pytest.mark.parametrize("after", [0, 20])
def test_answers_that_depend_on_earlier_ones_are_found(reach: float, shrunk: float, after: int) -> None:
    report = audit(Remembers(reach, shrunk, after=after), X, **OPTIONS)
    assert outcomes(report)["history"] == "contradicted"
    assert any("integrity contradicted (history)" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    "options", [{"lower": None, "upper": None}, {"quantum": 1 / 64}, {"frozen": [0, 3, 7]}, {"scale": "range"}]
)
def test_a_shrinking_step_is_found_in_every_domain(options: dict[str, Any]) -> None:
    report = audit(Remembers(0.5, 0.1), X, **{**OPTIONS, **options})
    assert outcomes(report)["history"] == "contradicted"


@pytest.mark.parametrize("model", [blended(1e-6), blended(0.01), blended(0.5), winner_raised, blended(0.01, binary)])
def test_decisions_that_jump_are_found(model: Model) -> None:
    for seed in range(3):
        report = audit(model, X, **OPTIONS, seed=seed)
        assert outcomes(report)["boundary"] == "contradicted"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_second_version_is_noticed_as_often_as_the_report_says(share: float) -> None:
    """Calls are drawn as the walks make them: each of ``calls`` twice, the second version answering some of either."""
    check = next(check for check in audit(honest, X, **OPTIONS).integrity if check.name == "history")
    calls, stated = int(check.numbers["calls_repeated"]), check.numbers[f"noticed_share_{share}"]
    assert f"{share:.0%} of the calls with probability {stated:.2f}" in check.finding
    rng = np.random.default_rng(0)
    there, back = rng.random((2, 4000, calls)) < share
    seen = (there != back).any(axis=1).mean()
    assert calls > 0
    assert seen == pytest.approx(stated, abs=0.03)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_second_version_is_noticed_in_real_runs_as_often_as_stated(share: float) -> None:
    """It is contradicted, or the answers are said to be random; at most as much is missed as is stated, at three sigma."""
    runs, missed, stated = 40, 0, []
    for seed in range(runs):
        rng = np.random.default_rng(1000 + seed)
        moved = 0.05 * rng.normal(size=CLASSES)

        def model(batch: Any, rng: np.random.Generator = rng, moved: Array = moved) -> Array:
            return softmax(logits(batch) + moved * (rng.random() < share))

        try:
            report = audit(model, X, **{**OPTIONS, "queries": 40}, integrity=True, seed=seed)
        except ModelFailure:  # no input could be measured
            continue
        check = report.integrity[0]
        stated.append(1 - check.numbers[f"noticed_share_{share}"])
        random = "answers are random" in check.finding or any("not deterministic" in text for text in report.warnings)
        missed += not report.contradicted and not random
    assert len(stated) > 30
    most = sum(stated) + 3 * np.sqrt(sum(one * (1 - one) for one in stated))
    assert missed <= most, (missed, sum(stated))


def test_slopes_that_do_not_reach_are_found() -> None:
    report = audit(flattened, X, **OPTIONS)
    assert outcomes(report)["slope"] == "contradicted"
    assert {s.index for s in report.inputs if "local_radius_overstates" in s.flags}
    for s in report.inputs:  # no limit against its own evidence
        assert s.witness is None or (s.margin_radius.lower or 0) <= s.witness.distance


def capped(most: float, model: Model = honest) -> Model:
    def answer(batch: Any) -> Array:
        p = np.asarray(model(batch), np.float64)
        top = p.max(axis=1, keepdims=True)
        return np.where(top > most, np.where(p == top, most, p * (1 - most) / (1 - top)), p)

    return answer


@pytest.mark.parametrize("seed", range(3))
def test_confidence_that_is_cut_off_takes_the_norms_away_and_leaves_the_radius(seed: int) -> None:
    report = audit(capped(0.6), X, **OPTIONS, seed=seed)
    assert outcomes(report)["ceiling"] == "contradicted"
    (check,) = report.contradicted
    assert check.rows == 0
    assert check.metrics == ["spectral_norm", "peak_spectral_norm"]
    assert check.numbers["piled"] == sum(
        s.probability is not None and abs(s.probability - 0.6) < 1e-9 for s in report.inputs
    )
    assert any("no rule on spectral_norm, peak_spectral_norm is decided" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        (lambda b: softmax(2 * np.tanh(3 * logits(b))), "ok"),  # saturated: where the largest is constant, all others are
        (lambda b: softmax(np.clip(logits(b), -1, 1)), "ok"),
        (lambda b: 0.8 * honest(b) + 0.04, "ok"),
        (capped(0.6, binary), "not_applicable"),
        (lambda b: np.round(capped(0.6)(b), 3), "not_applicable"),
        (Noisy(0.03), "not_applicable"),
        (lambda b: softmax(200 * logits(b)), "ok"),
    ],
    ids=["saturated", "clipped", "smoothed", "two", "rounded", "noisy", "sure"],
)
def test_a_bounded_confidence_is_no_ceiling(model: Model, outcome: str) -> None:
    assert outcomes(audit(model, X, **OPTIONS))["ceiling"] == outcome


def test_a_change_on_the_way_to_another_input_cuts_the_radius() -> None:
    report = audit(blended(1e-6), X, **OPTIONS)
    assert outcomes(report)["radius"] == "contradicted"
    for s in report.inputs:
        if "counterexample_within_radius" in s.flags:
            assert s.margin_radius.lower is None
            assert s.margin_radius.value == s.margin_radius.upper


def test_by_default_they_are_made_where_they_cost_a_tenth_at_most() -> None:
    assert audit(honest, X[:4], **OPTIONS).integrity == []
    assert audit(honest, X, **OPTIONS, integrity=False).integrity == []
    assert audit(honest, X[:4], **OPTIONS, integrity=True).integrity != []
    whole = audit(linear, X, **OPTIONS)
    without = audit(linear, X, **OPTIONS, integrity=False)
    assert dumped(whole) == dumped(without)
    assert whole.summary.queries - without.summary.queries == sum(check.rows for check in whole.integrity)
    assert TYPICAL_ROWS <= sum(check.rows for check in whole.integrity) <= 1.2 * TYPICAL_ROWS


def test_derivatives_are_not_checked_by_answers() -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(FEATURES, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3), torch.nn.Softmax(1))
    x = X.astype(np.float32)
    assert audit(network.eval(), x, queries=180).integrity == []
    with pytest.raises(UsageError, match="mode='black-box'"):
        audit(network, x, queries=180, integrity=True, mode="white-box")


def test_a_budget_that_does_not_reach_says_so_and_resume_makes_up_for_it(tmp_path: Path) -> None:
    free = audit(honest, X, **OPTIONS, integrity=False).summary.queries
    short = audit(honest, X, **OPTIONS, out=tmp_path / "run", budget=free + 10)
    assert short.integrity == []
    assert any(f"may take {MOST_INTEGRITY_ROWS} rows" in warning for warning in short.warnings)
    again = audit(honest, X, **OPTIONS, out=tmp_path / "run", resume=True)
    assert again.integrity == audit(honest, X, **OPTIONS).integrity
    kept = audit(honest, X, **OPTIONS, out=tmp_path / "run", resume=True)
    assert kept.summary.queries == again.summary.queries
    assert kept.integrity == again.integrity


@pytest.mark.parametrize("rows", [3, 30, 60, 100, 120, 140, 150])
def test_killed_within_the_checks_and_resumed_it_finds_the_same(tmp_path: Path, rows: int) -> None:
    model = blended(1e-6)
    whole = audit(model, X, **OPTIONS, name="m")
    left = whole.summary.queries - sum(check.rows for check in whole.integrity) + rows

    def killed(batch: Any) -> Array:
        nonlocal left
        left -= len(batch)
        if left < 0:
            raise KeyboardInterrupt
        return model(batch)

    with pytest.raises(KeyboardInterrupt):
        audit(killed, X, **OPTIONS, out=tmp_path / "run", name="m")
    again = audit(model, X, **OPTIONS, out=tmp_path / "run", name="m", resume=True)
    assert again.integrity == whole.integrity
    assert dumped(again) == dumped(whole)


def test_results_in_parts_are_checked_and_revised_alike(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X[:9])
    np.savez(tmp_path / "b.npz", x=X[9:])
    model = blended(1e-6)
    streamed = audit(model, open_data(str(tmp_path / "*.npz")), **OPTIONS, out=tmp_path / "run")
    plain = audit(model, X, **OPTIONS)
    assert streamed.integrity == plain.integrity
    assert [s.flags for s in read_inputs_table(tmp_path / "run" / "inputs.parquet")] == [s.flags for s in plain.inputs]


def test_the_choice_depends_on_the_seed_alone() -> None:
    numbers = np.arange(2000)
    assert candidates(numbers, 3) == candidates(numbers, 3) != candidates(numbers, 4)
    assert len(candidates(numbers, 3)) == 512
    assert candidates(numbers[:5], 3) == [0, 1, 2, 3, 4]


def test_groups_and_labels_stay_with_a_revised_input() -> None:
    y = honest(X).argmax(axis=1)
    report = audit(blended(1e-6), Inputs(X, y.astype(np.int64), np.array(["a", "b"] * 8), None, "made"), **OPTIONS)
    assert [s.group for s in report.inputs] == ["a", "b"] * 8
    assert [s.label for s in report.inputs] == y.tolist()
