"""What is counted and remembered of a run: the ledger as a protocol, and leases that stand in for a run or wrap one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.classifier import Lease

__all__ = [
    "OWNER_BYTES",
    "CountingLease",
    "Ledger",
    "MemoryNotes",
    "RepeatLease",
    "Usage",
    "is_refused",
    "over_budget",
]

#: Sends that ended before anything was sent, or at the door: no connection, no trust, no token, a challenge.
_NEVER_SENT = frozenset(("connect", "tls", "url", "token", "challenged", "deadline"))
#: A local call's key begins with the input that it belongs to, in so many bytes.
OWNER_BYTES = 8


@dataclass
class Usage:
    """What has been asked so far.

    Attributes:
        rows: sent, those of failed and repeated sends included.
        requests: calls of a local model, or sends.
        bytes: of rows that a local model answered, or of bodies sent and received.
        refused: rows of requests that were turned away unprocessed (``is_refused``); not among ``rows``.
    """

    rows: int = 0
    requests: int = 0
    bytes: int = 0
    refused: int = 0


class Ledger(Lease, Protocol):
    """Where a meter keeps what was sent and answered beyond this process (``storage.ledger``); the budget is the meter's."""

    def usage(self) -> Usage:
        """Rows, requests and bytes of this run so far, earlier processes included."""
        ...

    def finish(self, inputs: Iterable[int]) -> None:
        """The results of these inputs are kept (``THE_RUN``: what the run's first questions said)."""
        ...


class MemoryNotes:
    """Facts of a run as long as this object lives."""

    def __init__(self) -> None:
        self._notes: dict[str, Any] = {}

    def note(self, name: str) -> Any:
        """See ``Lease``."""
        return self._notes.get(name)

    def remember(self, name: str, value: Any) -> None:
        """See ``Lease``."""
        self._notes[name] = value


class CountingLease(MemoryNotes):
    """A lease without budget or ledger, for asking outside of a run; recalls nothing. For one thread.

    Attributes:
        usage: what was reserved and committed so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.usage = Usage()

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """Always ``None``."""
        return None

    def reserve(self, rows: int, key: bytes) -> int:
        """Count the rows and one request; never refused."""
        self.usage.rows += rows
        self.usage.requests += 1
        return self.usage.requests

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """Count the bytes, and keep nothing else."""
        self.usage.bytes += bytes


class RepeatLease:
    """A lease under which rows that were answered before are sent again, once for each name.

    A sentinel asks the same question several times on purpose; without a name of its own, the second time would be
    recalled rather than sent. Within one occasion, a resumed run still recalls what it has.

    Args:
        lease: the lease to go through; ``note``, ``remember`` and ``commit`` are its own.
        name: of the occasion, hashed into every key.
    """

    def __init__(self, lease: Lease, name: str) -> None:
        self._lease, self._salt = lease, hashlib.sha256(name.encode()).digest()
        self.note, self.remember, self.commit = lease.note, lease.remember, lease.commit

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """What was answered under this name."""
        return self._lease.recall(self._key(key))

    def reserve(self, rows: int, key: bytes) -> int:
        """See ``Lease``; ``BudgetExhausted`` as there."""
        return self._lease.reserve(rows, self._key(key))

    def _key(self, key: bytes) -> bytes:
        return hashlib.sha256(self._salt + key).digest()


def is_refused(status: str) -> bool:
    """Whether a send ended before any row was processed, as no vendor bills: by its status in the ledger.

    >>> [is_refused(status) for status in ("429", "401", "503", "connect", "ok", "500", "timeout")]
    [True, True, True, True, False, False, False]
    """
    if status.isdecimal():
        return status == "503" or 300 <= int(status) < 500
    return status in _NEVER_SENT


def over_budget(budget: int | None, sent: int, rows: int) -> str | None:
    """The sentence that refuses ``rows`` more rows, or ``None`` where the budget allows them: sent + rows <= budget.

    >>> over_budget(100, 80, 20) is None, over_budget(None, 80, 21) is None, over_budget(100, 80, 21) is None
    (True, True, False)
    """
    if budget is None or sent + rows <= budget:
        return None
    return (
        f"the budget of {budget} rows is spent: {sent} were sent and the next call needs {rows}; "
        "go on with --resume and a larger --budget"
    )
