"""Rows that are asked among those of the inputs, to see whether they are answered alike at every time of the run."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.models.meter import DECOYS, Meter
from fimaudit.perturbations.rows import PlainRows

__all__ = ["Decoy", "DecoyRounds", "ask_decoys", "known_answers"]

Answers = NDArray[np.float64]

#: Between the numbers of two repeats of a decoy: more than the rows of one, of which each copy has a number of its own
#: where rows are asked one by one.
REPEAT = 100


@dataclass(frozen=True, eq=False)
class Decoy:
    """Rows that are asked at one time of the run, no call before the one ahead of it is answered.

    Attributes:
        rows: (n, \\*shape) as the model is sent them.
        number: under which they are asked anew; no two of a run have the same, and no copy of a row within a block.
        wait: so many rounds of the inputs beside it go before.
    """

    rows: NDArray[Any]
    number: int
    wait: int = 0

    @property
    def name(self) -> str:
        """Under which the run keeps the answers."""
        return f"decoy {self.number}"

    @property
    def follows(self) -> Decoy | None:
        """The decoy that is answered before this one is asked."""
        return None

    def repeats(self, answers: Answers, meter: Meter) -> int:
        """How often the rows are asked again.

        Args:
            answers: (n, K) to the rows.
            meter: knows what ``follows`` was answered.
        """
        return 0

    def calls(self, meter: Meter) -> list[PlainRows]:
        """The rows in calls of the meter's size."""
        size = min(meter.batch_rows(int(self.rows[:1].nbytes)), len(self.rows))
        return [PlainRows(self.rows[start : start + size]) for start in range(0, len(self.rows), size)]


def known_answers(decoy: Decoy, meter: Meter) -> Answers | None:
    """(times, n, K) answers that the run has kept, if the decoy was asked."""
    kept = meter.note(decoy.name)
    if kept is None:
        return None
    answers = np.array(kept, dtype=np.float64)
    return answers.reshape(-1, len(decoy.rows), answers.shape[-1])


def ask_decoys(decoys: Iterable[Decoy], meter: Meter) -> None:
    """Ask those that were not asked yet, without waiting for inputs."""
    rounds = DecoyRounds([decoy for decoy in decoys if meter.note(decoy.name) is None], meter)
    rounds.finish(rounds.calls(inputs_left=False))


class DecoyRounds:
    """Asks decoys in the rounds in which inputs are asked: of each one call a round, from the round on that it waits for.

    A decoy that the run has asked takes as many rounds and asks nothing, so that a run that was killed goes on with the
    calls that it would have made. What was answered is kept by the meter; what failed is asked again by ``ask_decoys``.

    Args:
        decoys: what is asked.
        meter: the door to the model.
    """

    def __init__(self, decoys: Sequence[Decoy], meter: Meter) -> None:
        self._meter, self._round = meter, 0
        self._waiting = list(decoys)
        self._own = {decoy.number for decoy in decoys}
        self._ended: set[int] = set()
        self._flows: dict[int, _Flow] = {}
        self._next: dict[int, tuple[int, PlainRows] | None] = {}

    @property
    def in_progress(self) -> bool:
        """Whether any of them is under way."""
        return bool(self._next)

    def calls(self, *, inputs_left: bool) -> list[tuple[int, PlainRows]]:
        """The rows of this round, each with the number under which they are asked.

        Args:
            inputs_left: whether inputs ask too; else nobody waits for them.
        """
        begin = [decoy for decoy in self._waiting if self._may_begin(decoy, inputs_left)]
        self._waiting = [decoy for decoy in self._waiting if decoy not in begin]
        for decoy in begin:
            flow = _asked(decoy, self._meter)
            self._flows[decoy.number], self._next[decoy.number] = flow, next(flow)
        self._round += 1
        return [call for call in self._next.values() if call is not None]

    def take(self, answers: Sequence[Answers | InputFailed]) -> None:
        """Take the answers to the rows of this round, in their order."""
        came = iter(answers)
        for number, call in list(self._next.items()):
            answer = next(came) if call is not None else None
            try:
                if isinstance(answer, InputFailed):
                    raise StopIteration(False)
                self._next[number] = self._flows[number].send(answer)
            except StopIteration as end:
                del self._next[number], self._flows[number]
                if end.value:
                    self._ended.add(number)

    def finish(self, calls: Sequence[tuple[int, PlainRows]]) -> None:
        """Ask what is left, from these calls on: no more inputs ask.

        Raises:
            BudgetExhausted, ModelFailure: no more can be asked.
        """
        while self.in_progress:
            owners, numbers = [DECOYS] * len(calls), [number for number, _ in calls]
            self.take(self._meter.ask_each([rows for _, rows in calls], owners=owners, again=numbers) if calls else [])
            calls = self.calls(inputs_left=False)

    def _may_begin(self, decoy: Decoy, inputs_left: bool) -> bool:
        if inputs_left and self._round < decoy.wait:
            return False
        first = decoy.follows
        if first is None or first.number in self._ended:
            return True
        return first.number not in self._own and self._meter.note(first.name) is not None


#: Yields calls with their numbers, or ``None`` for one whose answers are known; returns whether all were answered.
_Flow = Generator[tuple[int, PlainRows] | None, Answers | None, bool]


def _asked(decoy: Decoy, meter: Meter) -> _Flow:
    known = known_answers(decoy, meter)
    found: list[Answers] = []
    calls, times = decoy.calls(meter), 1 if known is None else len(known)
    while len(found) < times:
        number, parts = decoy.number + REPEAT * len(found), []
        for call in calls:
            parts.append((yield (number, call) if known is None else None))
        if known is not None:
            found.append(known[len(found)])
            continue
        found.append(np.concatenate([part for part in parts if part is not None]))
        if len(found) == 1:
            times += decoy.repeats(found[0], meter)
    if known is None:
        meter.remember(decoy.name, [answers.tolist() for answers in found])
    return True
