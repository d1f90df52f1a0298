"""Whether an endpoint answers nobody any more, since when, and how long that is waited out."""

from __future__ import annotations

import asyncio
import logging

from fimaudit_adapters.http.sending.faults import Fault
from fimaudit_adapters.http.sending.pacing import WaitingClock

__all__ = ["Outages"]

#: So many sends in a row without an answer, or as many as are in flight, are taken for an outage.
IN_A_ROW = 4
LOG = logging.getLogger("fimaudit.http")


class Outages:
    """What all requests of an endpoint know together.

    Args:
        patience: seconds that an outage is waited out.
        concurrency: requests in flight.
        clock: what is waited by.

    Attributes:
        probing: held by the one request that is sent while the others wait.
        seconds: how long each outage lasted that was waited out.
    """

    def __init__(self, patience: float, concurrency: int, clock: WaitingClock) -> None:
        self._patience, self._in_a_row, self._clock = patience, max(IN_A_ROW, concurrency), clock
        self.probing = asyncio.Lock()
        self.seconds: list[float] = []
        self._answered_at: float | None = None
        self._since: float | None = None
        self._failures = 0
        self._looked_at: float | None = None
        self._warned = False
        self._in_vain = self._rows_at_fault = False

    @property
    def may_wait(self) -> bool:
        """Whether there is patience, and an endpoint that has answered before: one that never did is a wrong address."""
        return self._patience > 0 and self._answered_at is not None

    @property
    def likely(self) -> bool:
        """Whether so many sends failed in a row that trying each request on its own is of no use."""
        return self.may_wait and self._failures >= self._in_a_row

    @property
    def since(self) -> float:
        """When the first send failed after the last one that was answered."""
        return self._clock.now() if self._since is None else self._since

    def record(self, fault: Fault) -> None:
        """A send ended in a fault: of an outage's kind, or another, which shows that somebody is there."""
        if fault.kind in ("transport", "busy"):
            self.failed(fault.detail)
        else:
            self.answered(reply=False)

    def failed(self, detail: str) -> None:
        """A send was not answered."""
        self._since = self.since
        self._failures += 1
        if self.likely and not self._warned:
            self._warned = True
            LOG.warning("the endpoint does not answer (%s); waiting for it, up to %.0f s", detail, self._patience)

    def answered(self, *, reply: bool = True) -> None:
        """A send was answered, by a reply or at least by a refusal that no outage makes."""
        if self._warned:
            lasted = self._clock.now() - self.since
            self.seconds.append(lasted)
            LOG.warning("the endpoint answers again after %.0f s", lasted)
        self._since, self._failures, self._warned = None, 0, False
        if reply:
            self._answered_at = self._clock.now()
            self._rows_at_fault |= self._in_vain
            self._in_vain = False

    def answered_since(self, since: float) -> bool:
        """Whether anybody was."""
        return self._since is None or self._since > since

    def first_look(self, since: float) -> bool:
        """Whether nobody has tried yet if parts of a request are answered."""
        first = self._looked_at != since
        self._looked_at = since
        return first

    def left(self, since: float) -> float:
        """Seconds of patience."""
        return max(0.0, since + self._patience - self._clock.now())

    def keep_waiting(self, since: float, *, alone: bool) -> bool:
        """Whether to wait further.

        Args:
            since: begin of the outage.
            alone: a single row, which may be at fault itself: once one was waited for in vain, others are not.
        """
        if alone and (self._rows_at_fault or self._in_vain):
            return False
        if self.left(since) > 0:
            return True
        self._in_vain |= alone
        return False
