"""The one door to a local model: counting, budget, batches, and every answer checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimaudit.errors import BudgetExhausted, InputFailed, LinkError, ModelFailure, OutputError
from fimaudit.models.classifier import ModelInfo
from fimaudit.models.leases import Usage
from fimaudit.models.meter import BATCH_BYTES, MOST_ROWS, Meter
from fimaudit.models.network_calls import RowsFailed
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.rows import JoinedRows, PlainRows
from fimaudit.perturbations.sign_rows import DisplacedRows
from fimaudit.space import Box
from fimaudit.storage.journal import CountingLedger, Journal


class Echo:
    """Two classes from the first feature; remembers the batches it was asked."""

    def __init__(self, answer: Any = None, **info: Any) -> None:
        self.info = ModelInfo(**{"name": "echo", "adapter": "test", "input_shape": None, "dtype": "float64", **info})
        self.batches: list[int] = []
        self._answer = answer

    def probabilities(self, batch: np.ndarray) -> Any:
        self.batches.append(len(batch))
        if self._answer is not None:
            return self._answer(batch)
        p = 1 / (1 + np.exp(-batch.reshape(len(batch), -1)[:, 0]))
        return np.stack([1 - p, p], axis=1)

    def close(self) -> None:
        pass


def block(count: int, features: int = 3, seed: int = 0) -> PlainRows:
    return PlainRows(np.random.default_rng(seed).standard_normal((count, features)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 50))
def test_answers_come_back_by_question_and_rows_are_counted_once(sizes: list[int], batch: int) -> None:
    model, answered = Echo(), []
    meter = Meter(model, batch=batch, on_rows=answered.append)
    questions = [block(size, seed=i) for i, size in enumerate(sizes)]
    answers = meter.ask(questions)
    for question, answer in zip(questions, answers, strict=True):
        np.testing.assert_allclose(answer, Echo().probabilities(question.rows))
    assert meter.usage.rows == sum(sizes) == sum(model.batches) == sum(answered)
    assert meter.usage.requests == len(model.batches)
    assert meter.usage.bytes == sum(sizes) * 24
    assert max(model.batches) <= batch


def test_batches_are_bounded_in_bytes_and_rows() -> None:
    meter = Meter(Echo())
    assert meter.batch_rows(8) == MOST_ROWS
    assert meter.batch_rows(BATCH_BYTES // 3) == 3
    assert meter.batch_rows(10 * BATCH_BYTES) == 1
    assert Meter(Echo(call_bytes=80)).batch_rows(8) == 10
    assert Meter(Echo(call_bytes=80, preferred_batch=7)).batch_rows(8) == 7
    assert Meter(Echo(preferred_batch=7)).batch_rows(8) == 7
    assert Meter(Echo(preferred_batch=7), batch=2).batch_rows(8) == 2


def test_budget_ends_before_the_call_that_would_exceed_it() -> None:
    model = Echo()
    meter = Meter(model, budget=25, batch=10)
    with pytest.raises(BudgetExhausted, match="the budget of 25 rows is spent: 20 were sent and the next call needs 10"):
        meter.ask([block(30)])
    assert model.batches == [10, 10]
    assert meter.usage.rows == 20
    meter.ask([block(5)])  # what still fits is still answered
    with pytest.raises(BudgetExhausted, match="go on with resume=True and a larger budget="):
        meter.ask([block(1)])


def test_rows_of_an_earlier_process_count_in_the_budget(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", {}, resume=False, overwrite=False)
    journal.asked = Usage(rows=20, requests=2)
    meter = Meter(Echo(), budget=25, ledger=CountingLedger(journal))
    meter.ask([block(5)])
    assert meter.usage.rows == 25
    with pytest.raises(BudgetExhausted):
        meter.ask([block(1)])


WRONG: dict[str, tuple[Any, str]] = {
    "too few rows": (
        lambda b: np.full((len(b) - 1, 2), 0.5),
        r"expected 4 rows of probabilities for 4 inputs, got shape \(3, 2\)",
    ),
    "one number": (lambda b: np.float64(0.5), r"expected 4 rows of probabilities for 4 inputs, got shape \(\)"),
    "one column": (lambda b: np.ones((len(b), 1)), "expected at least two classes, got 1"),
    "NaN": (lambda b: np.full((len(b), 2), np.nan), "expected finite probabilities, got 8 that are not"),
    "infinite": (lambda b: np.full((len(b), 2), np.inf), "expected finite probabilities"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_refused(name: str) -> None:
    answer, words = WRONG[name]
    with pytest.raises(OutputError, match=words):
        Meter(Echo(answer)).ask([block(4)])


def test_the_number_of_classes_is_fixed_by_the_first_answer() -> None:
    shapes = iter([3, 3, 4])
    meter = Meter(Echo(lambda b: np.full((len(b), k := next(shapes)), 1 / k)))
    meter.ask([block(2)])
    meter.ask([block(2)])
    with pytest.raises(OutputError, match="expected 3 classes in every answer, got 4"):
        meter.ask([block(2)])
    with pytest.raises(OutputError, match="expected 5 classes in every answer, got 2"):
        Meter(Echo(classes=5)).ask([block(2)])


def test_a_model_that_exits_is_a_failure_and_not_the_end_of_the_audit() -> None:
    """``sys.exit(0)`` in a model ended the command with 0 and without a word."""

    def exits(_: np.ndarray) -> np.ndarray:
        raise SystemExit(0)

    with pytest.raises(ModelFailure, match="SystemExit on a batch of 1 rows: 0"):
        Meter(Echo(exits)).ask([PlainRows(np.zeros((1, 2)))])


def test_a_model_that_raises_is_a_failure_with_its_cause() -> None:
    def answer(batch: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("no\n  luck " + "x" * 500)

    meter = Meter(Echo(answer))
    with pytest.raises(
        ModelFailure, match=r"ZeroDivisionError on a batch of 4 rows: no luck x+…; if it takes one row a call, give batch=1$"
    ) as raised:
        meter.ask([block(4)])
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert meter.usage.rows == 4  # it was sent


def test_our_own_errors_pass_unchanged() -> None:
    def answer(batch: np.ndarray) -> np.ndarray:
        raise LinkError("rows do not sum to 1")

    with pytest.raises(LinkError, match="do not sum to 1"):
        Meter(Echo(answer)).ask([block(4)])


class OnDevice(Echo):
    """Builds the displaced rows itself."""

    def displaced(
        self, x: np.ndarray, packed_signs: np.ndarray, step: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        self.batches.append(-len(packed_signs))
        rows = DisplacedRows(x, packed_signs, step, Box(lower, upper), "float64")
        return Echo().probabilities(rows.build(0, len(rows)))


def test_displaced_rows_go_to_the_device_and_nothing_else_does() -> None:
    x = np.zeros(3)
    edges = Box(np.full(3, -np.inf), np.full(3, np.inf))
    rows = DisplacedRows(x, packed_signs(generator(0, 0), 9, 3), np.full(3, 0.1), edges, "float64")
    device, host = OnDevice(), Echo()
    np.testing.assert_array_equal(Meter(device, batch=4).ask([rows])[0], Meter(host, batch=4).ask([rows])[0])
    assert device.batches == [-3, -3, -3]  # as few calls as can be, and as even
    meter = Meter(device)
    meter.ask([JoinedRows([PlainRows(x[None]), rows])])
    assert device.batches[-1] == 10
    assert meter.usage.rows == 10


class Endpoint(Echo):
    """Counts each ``ask``; fails rows whose first feature is 99."""

    def ask(self, batch: np.ndarray, lease: Any, sizes: Sequence[int] = ()) -> np.ndarray:
        parts = []
        for part in np.split(batch, np.cumsum(sizes or [len(batch)])[:-1]):
            ticket = lease.reserve(len(part), part.tobytes())
            parts.append(self.probabilities(part))
            lease.commit(ticket, len(part), parts[-1], "ok", part.nbytes)
        answers = np.concatenate(parts)
        sick = np.flatnonzero(batch[:, 0] == 99)
        if sick.size:
            answers[sick] = np.nan
            raise RowsFailed(answers, {int(row): "the row is sick" for row in sick})
        return answers


@pytest.mark.parametrize("kind", [Echo, Endpoint])
def test_blocks_share_no_call(kind: type[Echo]) -> None:
    model = kind()
    meter = Meter(model)
    blocks = [block(3), block(1, seed=1), block(2, seed=2), block(4, seed=3)]
    answers = meter.ask(blocks)
    for question, answer in zip(blocks, answers, strict=True):
        np.testing.assert_allclose(answer, Echo().probabilities(question.build(0, len(question))), rtol=1e-12)
    assert model.batches == [3, 1, 2, 4]
    assert meter.usage.rows == 10
    assert Meter(model, batch=2).ask([blocks[3]])[0].shape == (4, 2)


def test_a_block_that_fails_leaves_the_others() -> None:
    sick = block(1, seed=1).rows.copy()
    sick[0, 0] = 99
    questions = [block(3), PlainRows(sick), block(2), block(4)]
    answers = Meter(Endpoint()).ask_each(questions)
    assert [isinstance(answer, InputFailed) for answer in answers] == [False, True, False, False]
    assert "sick" in str(answers[1])
    with pytest.raises(InputFailed, match="sick"):
        Meter(Endpoint()).ask(questions)


def test_notes_are_kept_for_the_run() -> None:
    meter = Meter(Echo())
    assert meter.note("batch") is None
    meter.remember("batch", 12)
    assert meter.note("batch") == 12


def told(answer: Any) -> Any:
    """Answers, or what is said of their failure."""
    return str(answer) if isinstance(answer, InputFailed) else answer.tolist()


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.sampled_from(["identity", "softmax", "sigmoid"]),
    st.sampled_from(["float16", "float32", "float64"]),
    st.lists(st.sampled_from(["", "", "NaN", "percent", "columns", "raises", "rows"]), min_size=6, max_size=6),
    st.sampled_from([None, 7]),
)
def test_answers_that_are_checked_together_are_those_of_each_block_alone(
    sizes: list[int], link: Any, dtype: str, wrong: list[str], batch: int | None
) -> None:
    """Probabilities to the bit, failures to the word, and no call after one that failed."""
    buffer = np.empty((64, 3 if link != "sigmoid" else 1), dtype)

    def model(x: np.ndarray) -> np.ndarray:
        asked.append(len(x))
        case = wrong[int(x[0, 0])]
        if case == "raises":
            raise ValueError(case)
        answers = buffer[: len(x)]  # the same memory for each call
        answers[:] = x[:, 1 : 1 + answers.shape[1]]
        if link == "identity":
            answers[:] = np.abs(answers) / np.abs(answers).sum(axis=1, keepdims=True)
        answers[...] = np.nan if case == "NaN" else answers * (100 if case == "percent" else 1)
        return {"columns": answers[:, :1] if link != "sigmoid" else np.hstack([answers] * 2), "rows": answers[1:]}.get(
            case, answers
        )

    blocks = [block(size, 4, seed) for seed, size in enumerate(sizes)]
    for place, one in enumerate(blocks):
        one.rows[:, 0] = place
    asked: list[int] = []
    together = Meter(open_classifier(model, link), batch=batch)
    answers = [told(answer) for answer in together.ask_each(blocks)]
    calls, asked = asked, []
    each = Meter(open_classifier(model, link), batch=batch)
    assert [told(each.ask_each([one, one])[0]) for one in blocks] == answers
    assert together.usage.requests == len(calls)
    failing = [isinstance(answer, str) for answer in answers]
    expected = [1 if failed else -(-size // (batch or MOST_ROWS)) for failed, size in zip(failing, sizes, strict=True)]
    assert len(calls) == sum(expected)
    good = sum(len(one) for one, failed in zip(blocks, failing, strict=True) if not failed)
    assert together.usage.bytes == 32 * good


def test_what_was_answered_before_the_budget_was_spent_is_counted() -> None:
    answered: list[int] = []
    meter = Meter(open_classifier(lambda x: np.full((len(x), 2), 0.5)), budget=7, on_rows=answered.append)
    with pytest.raises(BudgetExhausted):
        meter.ask_each([block(3), block(4, seed=1), block(5, seed=2)])
    assert (meter.usage.rows, meter.usage.bytes, answered) == (7, 7 * 24, [3, 4])


def test_the_ledger_has_an_answer_before_the_next_row_is_asked(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", {}, resume=False, overwrite=False)
    ledger = CountingLedger(journal)
    kept: list[int] = []
    commit = ledger.commit
    ledger.commit = lambda ticket, rows, *rest: kept.append(rows) or commit(ticket, rows, *rest)  # type: ignore[method-assign,func-returns-value]

    def model(x: np.ndarray) -> np.ndarray:
        before.append(list(kept))
        return np.full((len(x), 2), 0.5)

    before: list[list[int]] = []
    Meter(open_classifier(model), ledger=ledger).ask_each([block(3), block(4, seed=1), block(5, seed=2)])
    assert before == [[], [3], [3, 4]]
    assert kept == [3, 4, 5]
