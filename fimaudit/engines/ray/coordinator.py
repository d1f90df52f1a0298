"""What the workers of a run share, in one actor beside the driver: budget, ledger, rate, and who died on what."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import BudgetExhausted, FimauditError
from fimaudit.models.classifier import Notes
from fimaudit.models.leases import MemoryNotes, Usage, is_refused, over_budget
from fimaudit.storage.answers import AnswerLog
from fimaudit.storage.ledger import RequestLedger, open_ledger

__all__ = ["Coordinator", "SharedLedger"]


class Coordinator:
    """One object that every worker asks before it sends rows; it runs one call at a time, so nothing is counted twice.

    Args:
        budget: most rows in all, ``None`` for no limit.
        spent: what earlier processes of the run asked, where no ledger knows it.
        ledger: path of the endpoint's ledger, which was begun, and its fingerprint; ``None`` for local models.
        rate: most sends a second over all workers, ``None`` for no limit.
        answers: where answers of local models are kept until their input is done, and whether what is there is gone on
            with; ``None`` keeps none.
    """

    def __init__(
        self,
        budget: int | None,
        spent: Usage,
        ledger: tuple[str, str] | None,
        rate: float | None = None,
        answers: tuple[str, bool] | None = None,
    ) -> None:
        self._budget = budget
        self._answers = AnswerLog(Path(answers[0]), resume=answers[1]) if answers is not None else None
        self._tickets = 0
        self._keys: dict[int, bytes] = {}
        self._ledger: RequestLedger | None = None
        if ledger is not None:
            self._ledger = open_ledger(Path(ledger[0]), ledger[1], resume=True)
        self._usage = self._ledger.usage() if self._ledger is not None else spent
        self._gap = 1.0 / rate if rate else 0.0
        self._next_send = 0.0
        self._begun: Counter[tuple[str, int]] = Counter()
        self._notes: Notes = MemoryNotes() if self._ledger is None else self._ledger
        self._stopped = False
        self._nodes: dict[str, tuple[Any, str]] = {}

    def register(self, name: str, worker: Any, node: str) -> None:
        """A worker says where it lives; it says so again when it was restarted elsewhere."""
        self._nodes[name] = (worker, node)

    def on_lost_nodes(self, alive: list[str]) -> list[Any]:
        """Handles of the workers whose node is no longer alive; each is named once."""
        lost = [name for name, (_, node) in self._nodes.items() if node not in alive]
        return [self._nodes.pop(name)[0] for name in lost]

    def begin(self, what: str, number: int) -> int:
        """How often this piece, block or input was begun before and not finished; -1 once the run has been stopped."""
        if self._stopped:
            return -1
        before = self._begun[what, number]
        self._begun[what, number] += 1
        return before

    def finish(self, what: str, number: int) -> None:
        """Forget what was begun and is done."""
        del self._begun[what, number]

    def stop(self) -> None:
        """Let no further piece begin."""
        self._stopped = True

    def usage(self) -> tuple[int, int, int, int]:
        """Rows, requests and bytes of the run so far, and rows that were refused."""
        return self._usage.rows, self._usage.requests, self._usage.bytes, self._usage.refused

    def reserve(self, rows: int, key: bytes) -> tuple[int, str | None]:
        """A ticket, or the sentence that says why there is none."""
        refused = over_budget(self._budget, self._usage.rows, rows)
        if refused is not None:
            return 0, refused
        self._tickets += 1
        ticket = self._ledger.reserve(rows, key) if self._ledger is not None else self._tickets
        if self._answers is not None:
            self._keys[ticket] = key
        self._usage.rows += rows
        self._usage.requests += 1
        return ticket, None

    def count(self, rows: int, requests: int) -> None:
        """What a worker asked that reserves nothing: without a budget, calls of local models are counted by the piece."""
        self._usage.rows += rows
        self._usage.requests += requests

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """How a reserved send ended."""
        self._usage.bytes += bytes
        if is_refused(status):
            self._usage.refused += rows
            self._usage.rows -= rows
        if self._ledger is not None:
            self._ledger.commit(ticket, rows, answers, status, bytes)
        elif self._answers is not None and answers is not None:
            self._answers.keep(self._keys.pop(ticket), answers)

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """The committed answers to a request, or to a local call of an earlier process."""
        book = self._ledger or self._answers
        return None if book is None else book.recall(key)

    def finish_inputs(self, inputs: list[int]) -> None:
        """The results of these inputs are kept."""
        if self._answers is not None:
            self._answers.finish(inputs)

    def note(self, name: str) -> Any:
        """A fact of this run."""
        return self._notes.note(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact of this run."""
        self._notes.remember(name, value)

    def turn(self) -> float:
        """Take the next place in the common rate: how many seconds from now a send may leave."""
        now = time.monotonic()
        at = max(now, self._next_send)
        self._next_send = at + self._gap
        return at - now

    def pause(self, seconds: float) -> None:
        """No worker sends for so long: the server asked for it."""
        self._next_send = max(self._next_send, time.monotonic() + seconds)

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()
        if self._answers is not None:
            self._answers.close()


class SharedLedger:
    """The coordinator as a ``fimaudit.models.leases.Ledger`` for one worker's meter, or the driver's.

    Args:
        coordinator: the actor.
        get: ``ray.get``.
        keeps: whether answers are kept there; else they are not sent there either.
    """

    def __init__(self, coordinator: Any, get: Callable[[Any], Any], *, keeps: bool) -> None:
        self._coordinator, self._keeps = coordinator, keeps
        self._get = _with_own_errors(get)

    def usage(self) -> Usage:
        """Of all workers together."""
        return Usage(*self._get(self._coordinator.usage.remote()))

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """See ``Ledger``."""
        known: NDArray[np.float64] | None = self._get(self._coordinator.recall.remote(key)) if self._keeps else None
        return known

    def reserve(self, rows: int, key: bytes) -> int:
        """See ``Ledger``; raises ``BudgetExhausted`` when all workers together have spent the budget."""
        ticket, refused = self._get(self._coordinator.reserve.remote(rows, key))
        if refused is not None:
            raise BudgetExhausted(refused)
        return int(ticket)

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """See ``Ledger``; waits, so that an answer that was used is kept."""
        if self._keeps:
            self._get(self._coordinator.commit.remote(ticket, rows, answers, status, bytes))

    def finish(self, inputs: Iterable[int]) -> None:
        """See ``Ledger``."""
        if self._keeps:
            self._get(self._coordinator.finish_inputs.remote(list(inputs)))

    def note(self, name: str) -> Any:
        """See ``Ledger``."""
        return self._get(self._coordinator.note.remote(name))

    def remember(self, name: str, value: Any) -> None:
        """See ``Ledger``."""
        self._get(self._coordinator.remember.remote(name, value))


def _with_own_errors(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What the coordinator raised comes as it was raised there, not as Ray's account of it: a full disk is a sentence."""

    def got(reference: Any) -> Any:
        try:
            return get(reference)
        except Exception as exc:
            cause = getattr(exc, "cause", None)
            if isinstance(cause, FimauditError):
                raise cause from exc
            raise

    return got
