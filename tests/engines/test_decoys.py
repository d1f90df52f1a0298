"""Decoys are asked in the rounds of the inputs: call by call, each after the one that it follows, once in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.engines.decoys import Decoy, DecoyRounds, ask_decoys, known_answers
from fimaudit.errors import InputFailed
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier

ROWS = np.arange(5.0)[:, None] / 10


@dataclass(frozen=True, eq=False, kw_only=True)
class After(Decoy):
    """Asked after another, and twice more."""

    first: Decoy

    @property
    def follows(self) -> Decoy:
        return self.first

    def repeats(self, answers: NDArray[np.float64], meter: Meter) -> int:
        assert known_answers(self.first, meter) is not None
        return 2


def metered(asked: list[list[float]], batch: int = 2) -> Meter:
    def model(rows: Any) -> Any:
        asked.append(np.asarray(rows)[:, 0].round(3).tolist())
        if np.isnan(rows).any():
            raise ValueError("no answer")
        return np.concatenate([rows, 1 - rows], axis=1)

    return Meter(open_classifier(model), batch=batch)


def played(rounds: DecoyRounds, inputs_ask: int) -> list[list[int]]:
    """The numbers asked in each round, the first so many with inputs."""
    numbers = []
    calls = rounds.calls(inputs_left=inputs_ask > 0)
    while inputs_ask > 0 or rounds.in_progress:
        numbers.append([number for number, _ in calls])
        rounds.take([np.repeat(call.build(0, len(call)), 2, axis=1) for _, call in calls])
        inputs_ask -= 1
        calls = rounds.calls(inputs_left=inputs_ask > 0)
    return numbers


def test_each_asks_one_call_a_round_from_its_round_on() -> None:
    decoys = [Decoy(ROWS, 1000, 1), Decoy(ROWS[:1], 2000, 3)]
    assert played(DecoyRounds(decoys, metered([])), 6) == [[], [1000], [1000], [1000, 2000], [], []]


def test_nobody_waits_for_inputs_that_are_done() -> None:
    assert played(DecoyRounds([Decoy(ROWS[:1], 1000, 7)], metered([])), 1) == [[], [1000]]


def test_one_that_follows_another_comes_after_its_last_call_and_repeats_under_other_numbers() -> None:
    first = Decoy(ROWS, 1000, 2)
    after = After(ROWS[:2], 2000, 0, first=first)
    meter = metered([])
    assert played(DecoyRounds([after, first], meter), 9) == [
        [], [], [1000], [1000], [1000], [2000], [2100], [2200], [],
    ]  # fmt: skip
    known = known_answers(after, meter)
    assert known is not None
    assert known.shape == (3, 2, 2)


def test_one_that_follows_another_elsewhere_waits_until_that_was_answered() -> None:
    first = Decoy(ROWS[:2], 1000)
    after, meter = After(ROWS[:2], 2000, first=first), metered([])
    assert played(DecoyRounds([after], meter), 2) == [[], []]
    assert known_answers(after, meter) is None
    ask_decoys([first], meter)
    assert played(DecoyRounds([after], meter), 2) == [[2000], [2100], [2200]]


def test_what_the_run_knows_takes_its_rounds_and_asks_nothing() -> None:
    """So that the calls which a killed run had not made come in the rounds in which they would have come."""
    first = Decoy(ROWS, 1000)
    after, meter = After(ROWS[:2], 2000, first=first), metered([])
    whole = played(DecoyRounds([first, after], meter), 0)
    assert whole == [[1000], [1000], [1000], [2000], [2100], [2200]]
    other = metered([])
    ask_decoys([first], other)
    assert played(DecoyRounds([first, after], other), 0) == [[], [], [], *whole[3:]]


def test_they_are_asked_once_in_calls_of_the_meters_size_in_order() -> None:
    asked: list[list[float]] = []
    first = Decoy(ROWS, 1000)
    after, meter = After(ROWS[::-1], 2000, first=first), metered(asked)
    for _ in range(2):
        ask_decoys([after, first], meter)
    back = [[0.4, 0.3], [0.2, 0.1], [0.0]]
    assert asked == [[0.0, 0.1], [0.2, 0.3], [0.4], *back, *back, *back]
    assert meter.usage.rows == 20


def test_one_that_fails_is_not_kept_nor_what_follows_it_and_others_go_on() -> None:
    bad = Decoy(np.array([[np.nan]]), 1000)
    after, good, meter = After(ROWS[:1], 2000, first=bad), Decoy(ROWS, 3000), metered([])
    ask_decoys([bad, after, good], meter)
    assert [known_answers(one, meter) is not None for one in (bad, after, good)] == [False, False, True]


def test_answers_that_failed_are_taken_in_their_order() -> None:
    meter = metered([])
    rounds = DecoyRounds([Decoy(ROWS[:1], 1000), Decoy(ROWS[1:2], 2000)], meter)
    calls = rounds.calls(inputs_left=True)
    answers: Sequence[Any] = [InputFailed("no"), np.array([[0.25, 0.75]])]
    rounds.take(answers)
    assert [number for number, _ in calls] == [1000, 2000]
    assert meter.note("decoy 1000") is None
    assert meter.note("decoy 2000") == [[[0.25, 0.75]]]
