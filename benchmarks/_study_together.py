"""Many inputs attacked side by side: each attack runs as if alone, and their questions share the model's calls.

An attack is a long chain of small questions, and a call of one row costs nearly as much as one of twenty. Each task has a
thread; when all of them wait for an answer, their questions are put together and asked at once, in the order of the
tasks. So what shares a call depends on the tasks alone, not on how fast threads run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.counted_passes import CountedModel, LinearizedRows

__all__ = ["run_together"]

Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class _Question:
    """Rows to answer (together or apart) or to linearise, or cotangents for rows linearised together with others'."""

    kind: str
    payload: NDArray[Any]
    at: _Slice | None = None


@dataclass(frozen=True)
class _Slice:
    """One task's rows among those that were linearised in one call."""

    whole: LinearizedRows
    start: int
    stop: int


def run_together(passes: CountedModel, tasks: Sequence[Callable[[CountedModel], T]]) -> list[T]:
    """Run tasks that ask a model, their questions put together; results in the order of the tasks.

    Args:
        passes: asks and counts; rows of one linearisation are pulled back together, so it may count more backward rows
            than the tasks asked.
        tasks: each gets an object like ``passes`` that counts its own rows.

    Raises:
        whatever the first task that failed raised; the others are ended.
    """
    exchange = _Exchange(len(tasks))
    results: list[Any] = [None] * len(tasks)
    failures: list[BaseException | None] = [None] * len(tasks)

    def work(place: int) -> None:
        try:
            results[place] = tasks[place](_Shared(passes, exchange, place))
        except BaseException as exc:
            failures[place] = exc
        finally:
            exchange.leave(place)

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(tasks))]
    for thread in threads:
        thread.start()
    while waiting := exchange.collect():
        try:
            answers = _serve(passes, waiting)
        except Exception as exc:
            answers = dict.fromkeys(waiting, exc)
        exchange.answer(answers)
    for thread in threads:
        thread.join()
    for failure in failures:
        if failure is not None:
            raise failure
    return results


class _Exchange:
    """Where tasks leave questions and wait; ``collect`` gives them once every task that still runs waits."""

    def __init__(self, tasks: int) -> None:
        self._running = tasks
        self._inbox: queue.SimpleQueue[tuple[int, _Question | None]] = queue.SimpleQueue()
        self._outboxes: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(tasks)]

    def ask(self, place: int, question: _Question) -> Any:
        self._inbox.put((place, question))
        answer = self._outboxes[place].get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self, place: int) -> None:
        self._inbox.put((place, None))

    def collect(self) -> dict[int, _Question]:
        """The questions of all tasks that still run, in their order; empty when none does."""
        waiting: dict[int, _Question] = {}
        while len(waiting) < self._running:
            place, question = self._inbox.get()
            if question is None:
                self._running -= 1
            else:
                waiting[place] = question
        return dict(sorted(waiting.items()))

    def answer(self, answers: Mapping[int, Any]) -> None:
        for place, one in answers.items():
            self._outboxes[place].put(one)


def _serve(passes: CountedModel, questions: dict[int, _Question]) -> dict[int, Any]:
    """Answer all with one call a kind, one for each question apart, and one for each linearisation that is pulled back."""
    out: dict[int, Any] = {place: passes.apart(q.payload) for place, q in questions.items() if q.kind == "apart"}
    for kind in ("probabilities", "linearized"):
        places = [place for place, q in questions.items() if q.kind == kind]
        if not places:
            continue
        rows = np.concatenate([questions[place].payload for place in places])
        cuts = np.cumsum([0, *(len(questions[place].payload) for place in places)])
        if kind == "probabilities":
            answers = passes.probabilities(rows)
            out |= {place: answers[a:b] for place, a, b in zip(places, cuts[:-1], cuts[1:], strict=True)}
        else:
            whole = passes.linearized(rows)
            out |= {place: _Slice(whole, a, b) for place, a, b in zip(places, cuts[:-1], cuts[1:], strict=True)}
    pulls = [place for place, q in questions.items() if q.kind == "pull"]
    for whole in {id(of.whole): of.whole for place in pulls if (of := questions[place].at) is not None}.values():
        cotangents = np.zeros_like(whole.log_probabilities)
        slices = {place: of for place in pulls if (of := questions[place].at) is not None and of.whole is whole}
        for place, of in slices.items():
            cotangents[of.start : of.stop] = questions[place].payload
        back = whole.pull(cotangents)
        out |= {place: back[of.start : of.stop] for place, of in slices.items()}
    return out


class _Shared(CountedModel):
    """One task's view of the model."""

    def __init__(self, passes: CountedModel, exchange: _Exchange, place: int) -> None:
        self._exchange, self._place = exchange, place
        self._meter = passes._meter
        self.dtype, self.differentiable = passes.dtype, passes.differentiable
        self.forward = self.backward = 0

    def probabilities(self, rows: NDArray[Any]) -> Array:
        self.forward += len(rows)
        return np.asarray(self._exchange.ask(self._place, _Question("probabilities", np.asarray(rows).astype(self.dtype))))

    def apart(self, rows: NDArray[Any]) -> Array:
        self.forward += len(rows)
        return np.asarray(self._exchange.ask(self._place, _Question("apart", np.asarray(rows).astype(self.dtype))))

    def linearized(self, rows: NDArray[Any]) -> LinearizedRows:
        self.forward += len(rows)
        at: _Slice = self._exchange.ask(self._place, _Question("linearized", np.asarray(rows).astype(self.dtype)))
        return _SharedRows(self, at)

    def pull(self, at: _Slice, cotangents: Array) -> Array:
        """Cotangents of this task's rows pulled back."""
        self.backward += len(cotangents)
        return np.asarray(self._exchange.ask(self._place, _Question("pull", cotangents, at)))


class _SharedRows(LinearizedRows):
    """This task's rows of a linearisation."""

    def __init__(self, shared: _Shared, at: _Slice) -> None:
        self._shared, self._slice = shared, at
        self.log_probabilities = at.whole.log_probabilities[at.start : at.stop]

    def pull(self, cotangents: Array) -> Array:
        return self._shared.pull(self._slice, cotangents)
