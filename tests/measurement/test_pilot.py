"""The pilot's questions: all inputs in one go, as few directions as decide it, and one bad input that sinks nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fimaudit import InputDomain, audit, open_classifier
from fimaudit.errors import BudgetExhausted, FimauditError, ModelFailure
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.ladder import NO_PLATEAU, PilotLadder
from fimaudit.measurement.ladder_questions import answers_each, ask_ladder
from fimaudit.measurement.pilot import Steps, choose_steps
from fimaudit.measurement.second_look import SUSPECTS
from fimaudit.measurement.settings import Settings
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from tests.cases import normal_inputs, tanh_network

Model = Callable[[np.ndarray], np.ndarray]
SMOOTH = tanh_network(0, 3, 12)
FEW, MANY = normal_inputs(0, 30, 12), normal_inputs(0, 100, 12)


class Counted:
    """A model that remembers its calls."""

    __qualname__ = "m"

    def __init__(self, model: Model) -> None:
        self._model = model
        self.calls: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.calls.append(len(batch))
        return self._model(batch)


def pilot(
    model: Model,
    x: np.ndarray,
    quality: OutputQuality | None = None,
    budget: int | None = None,
    queries: int = 200,
    batch: int | None = None,
) -> tuple[Steps, Meter]:
    classifier = open_classifier(model, input_shape=x.shape[1:], dtype="float64")
    meter = Meter(classifier, budget=budget, batch=batch)
    return choose_steps(meter, x, InputDomain().resolve(x, "float64"), Settings(queries, 0.95, 0), quality), meter


def half(batch: np.ndarray) -> np.ndarray:
    """Half-precision arithmetic inside, float64 outside."""
    weights = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float16)
    logits = (np.tanh(batch).astype(np.float16) @ weights).astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def rounded(batch: np.ndarray) -> np.ndarray:
    return np.round(SMOOTH(batch), 4)


def test_each_input_is_asked_in_one_call() -> None:
    model = Counted(SMOOTH)
    steps, meter = pilot(model, FEW)
    assert sum(model.calls) == meter.usage.rows == 5 * (2 * len(steps.profile) + 1 + SUSPECTS)
    assert len(model.calls) == 5 + 1  # one more for the second look
    assert steps.share == -(-meter.usage.rows // len(FEW))


def test_a_second_pair_only_where_the_first_does_not_decide() -> None:
    for model, quality, directions in (
        (SMOOTH, None, 2),
        (half, None, 4),
        (rounded, OutputQuality(1e-4), 4),
        (rounded, None, 4),  # the preflight saw no rounding, the pilot does
    ):
        steps, meter = pilot(model, MANY, quality)
        assert meter.usage.rows == 5 * (directions * len(steps.profile) + 1 + SUSPECTS)


def steps_of_a_tenth(batch: np.ndarray) -> np.ndarray:
    return SMOOTH(np.round(batch, 1))


def test_no_verdict_on_the_whole_run_from_one_pair() -> None:
    """Thirty inputs have rows for one pair and their checks; a run without a local value takes the second all the same."""
    for model, directions, kind in ((SMOOTH, 2, "local"), (steps_of_a_tenth, 4, "finite_scale")):
        steps, meter = pilot(model, FEW)
        looks = meter.usage.rows - 5 * (directions * len(steps.profile) + 1)
        assert looks == 5 * SUSPECTS if kind == "local" else 0 <= looks <= 5 * SUSPECTS  # steps hide some of them
        assert steps.kind == kind
        report = audit(model, FEW, queries=200, name="m")
        assert report.summary.queries <= 1.1 * 200 * len(FEW) + 8  # rows of preflight beside


def test_both_pairs_count_alike_in_one_go_and_in_two() -> None:
    at_once, _ = pilot(rounded, MANY, OutputQuality(1e-4))
    in_two, _ = pilot(rounded, MANY)
    assert in_two.displacement == at_once.displacement
    assert [r["energy"] for r in in_two.profile] == pytest.approx([r["energy"] for r in at_once.profile], rel=1e-9)


def bad_near(place: int, x: np.ndarray) -> Model:
    def model(batch: np.ndarray) -> np.ndarray:
        if (np.linalg.norm(batch - x[place], axis=1) < 1.0).any():
            raise RuntimeError("not this one")
        return SMOOTH(batch)

    return model


def test_a_pilot_input_without_answers_is_left_out() -> None:
    steps, _ = pilot(bad_near(29, FEW), FEW)
    whole, _ = pilot(SMOOTH, FEW)
    assert steps.share < whole.share
    assert abs(np.log10(steps.displacement / whole.displacement)) < 1.0
    with pytest.raises(FimauditError, match="not this one"):
        pilot(bad_near(0, FEW[:1]), FEW[:1])


def test_a_pilot_input_without_answers_is_asked_once() -> None:
    """Where the first inputs leave a doubt further ones are asked, but not those that had no answers."""
    x = np.random.default_rng(3).uniform(0, 1, (16, 12))
    asked = []

    def eight_bits(batch: np.ndarray) -> np.ndarray:
        if np.abs(batch - x[0]).max() < np.abs(batch - x[8]).max():
            asked.append(batch)
            raise RuntimeError("no answer here")
        return SMOOTH(np.round(batch * 255) / 255)

    pilot(eight_bits, x, queries=60)
    rows = np.concatenate(asked)
    assert len(rows) == len(np.unique(rows, axis=0))


def test_a_spent_budget_ends_the_pilot() -> None:
    with pytest.raises(BudgetExhausted):
        pilot(SMOOTH, FEW, budget=100)


def test_large_inputs_are_asked_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(open_classifier(SMOOTH, input_shape=(12,), dtype="float64"))
    questions = [PlainRows(FEW[first : first + 5]) for first in range(0, 30, 5)]
    whole, asked = meter.ask(questions), []
    ask = Meter.ask_each
    monkeypatch.setattr(
        Meter, "ask_each", lambda self, questions, **how: asked.append(len(questions)) or ask(self, questions, **how)
    )
    np.testing.assert_array_equal(answers_each(meter, questions, most_bytes=2 * 8 * 12 * 5), whole)
    assert asked == [2, 2, 2]


def refusing_after(rows: int, model: Model) -> Model:
    """Answers so many rows and no more."""
    asked = 0

    def some(batch: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(batch)
        if asked > rows:
            raise RuntimeError("no more")
        return model(batch)

    return some


@pytest.mark.parametrize(("x", "queries", "seconds"), [(MANY, 200, 0), (MANY, 200, 2), (MANY[:1], 2000, 0)])
def test_the_first_pair_stands_where_the_second_has_no_answers(x: np.ndarray, queries: int, seconds: int) -> None:
    """Seen: the pilot ended where all inputs refused the second pair, and forgot the first of those that did."""
    whole, meter = pilot(rounded, x, queries=queries)
    each, count = 2 * len(whole.profile), min(5, len(x))
    first = count * (each + 1)
    assert meter.usage.rows == first + count * each + count * SUSPECTS
    found, _ = pilot(refusing_after(first + seconds * each, rounded), x, queries=queries, batch=each + 1)  # a call an input
    assert found.share == -(-(first + seconds * each) // len(x))
    space, settings = InputDomain().resolve(x, "float64"), Settings(queries, 0.95, 0)
    models = refusing_after(first + seconds * each, rounded), rounded
    refusing, answering = (open_classifier(one, input_shape=(12,), dtype="float64") for one in models)
    both = ask_ladder(Meter(refusing, batch=each + 1), x, x, space, settings, OutputQuality())
    one_pair = ask_ladder(Meter(answering), x, x, space, settings, OutputQuality(), most_pairs=1)
    assert np.array_equal(both.raw, one_pair.raw) is (seconds == 0)


def test_no_verdict_on_the_whole_run_where_the_second_pair_has_no_answers() -> None:
    rungs = len(pilot(SMOOTH, FEW)[0].profile)
    with pytest.raises(FimauditError, match="no more"):
        pilot(refusing_after(5 * (2 * rungs + 1), steps_of_a_tenth), FEW)


class Endpoint:
    """A network's door to a model."""

    def __init__(self, model: Model) -> None:
        self._model, self.info = model, open_classifier(model, input_shape=(12,), dtype="float64").info

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        return self._model(batch)

    def ask(self, batch: np.ndarray, lease: object) -> np.ndarray:
        try:
            return self._model(batch)
        except RuntimeError as exc:
            raise ModelFailure(f"the endpoint answered none of {len(batch)} rows: {exc}") from exc

    def close(self) -> None:
        pass


def test_an_endpoint_that_goes_down_within_the_pilot_ends_it() -> None:
    """Resumed, the run asks the same again; steps from one pair would be other steps than those of a run undisturbed."""
    space = InputDomain().resolve(MANY, "float64")
    rungs = len(pilot(rounded, MANY)[0].profile)
    for after, fails in ((5 * (4 * rungs + 1 + SUSPECTS), False), (5 * (4 * rungs + 1), True), (5 * (2 * rungs + 1), True)):
        meter = Meter(Endpoint(refusing_after(after, rounded)))
        if not fails:
            assert choose_steps(meter, MANY, space, Settings(200, 0.95, 0)) == pilot(rounded, MANY)[0]
            continue
        with pytest.raises(ModelFailure, match="answered none"):
            choose_steps(meter, MANY, space, Settings(200, 0.95, 0))


def test_behind_noise_the_two_longest_rungs_are_no_linear_range() -> None:
    """Seen: where noise hides all shorter rungs the energy's turn from rising to falling was taken for a plateau."""
    for seed in range(40):
        rng = np.random.default_rng(seed)

        def noisy(batch: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
            p = np.clip(SMOOTH(batch) + 0.05 * rng.standard_normal((len(batch), 3)), 1e-9, None)
            return p / p.sum(axis=1, keepdims=True)

        steps, _ = pilot(noisy, FEW, OutputQuality(random=True))
        assert steps.reach < steps.profile[-1]["displacement"]


def test_inputs_that_waver_do_not_hide_the_plateau_of_the_others() -> None:
    """Seen on a network for radiographs: two saturated inputs of five, and answers that were said to jump."""
    rungs = 10.0 ** (0.25 * np.arange(12))
    flat = 8.0 * np.exp(0.02 * np.sin(np.arange(12)))
    wavering = 0.01 * np.exp(np.where(np.arange(12) % 2, 0.6, -0.6))
    energy = np.stack([flat, 3 * flat, wavering, 100 * flat, 2 * wavering])
    quiet = np.arange(12) < 10

    def found(share: float, energy: np.ndarray = energy) -> Any:
        level = np.zeros(12, dtype=bool)
        seen = SimpleNamespace(
            energy=energy, rungs=rungs, quiet=quiet, exact=True, even_share=np.full(12, share), above_linear=level
        )
        return PilotLadder.plateau.func(seen)  # type: ignore[attr-defined]

    assert (found(1e-3).first, found(1e-3).last) == (0, 9)
    assert found(1e-3).change <= NO_PLATEAU
    assert found(np.nan).change > NO_PLATEAU  # where nothing moved, nothing is quiet
    jumping = np.stack([flat / rungs, flat / rungs, wavering, flat / rungs, wavering])
    assert found(1e-3, jumping).change > NO_PLATEAU
