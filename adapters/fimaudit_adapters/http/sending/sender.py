"""A batch cut into requests, each sent under the meter's lease until it is answered or must be given up."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from fimaudit.errors import ModelFailure
from fimaudit.models.call_order import in_turns
from fimaudit.models.classifier import Lease
from fimaudit.models.leases import is_refused
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.protocols.base import Answer, Body, Reply, WireFormat
from fimaudit_adapters.http.sending.batch import RESUME, Batch
from fimaudit_adapters.http.sending.faults import Fault, most_sends
from fimaudit_adapters.http.sending.outages import Outages
from fimaudit_adapters.http.sending.pacing import Pace, WaitingClock
from fimaudit_adapters.http.sending.polling import Poller
from fimaudit_adapters.http.sending.transport import Transport, Turn
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["GivenUp", "Sender"]

#: So many requests in a row given up without one answered: the endpoint is down, not a row bad.
MOST_GIVEN_UP = 12
#: A request that is split has been tried in full already: its parts are tried less often.
SENDS_OF_A_PART = 2
#: A gateway that counts by the minute and does not say so lets the next request pass after at most so many seconds.
MINUTE = 61.0
#: Faults that no row can be the reason of.
AT_THE_DOOR = ("429", "connect")
LOG = logging.getLogger("fimaudit.http")


class GivenUp(ModelFailure):
    """One request that will not be sent again; ``fault`` says why."""

    def __init__(self, message: str, kept: str, fault: Fault) -> None:
        super().__init__(message, kept=kept)
        self.fault = fault


class Sender:
    """Sends requests for one endpoint: recall, reserve, post, commit; retries, splits, and the run's deadline."""

    def __init__(self, endpoint: Endpoint, fingerprint: str, transport: Transport) -> None:
        self.endpoint, self._transport = endpoint, transport
        self._fingerprint = fingerprint.encode()
        self._clock = WaitingClock()
        self.pace = Pace(endpoint.concurrency, endpoint.rate, self._clock)
        self.outages = Outages(endpoint.patience, endpoint.concurrency, self._clock)
        self._poller = None if endpoint.poll is None else Poller(endpoint, endpoint.poll, self._transport.look, self._clock)
        self._numbers = itertools.count(1)
        self._jitter = random.Random()  # shapes waiting times and nothing else
        self._kept: dict[bytes, NDArray[np.float64]] = {}
        self._given_up = 0
        self._started: float | None = None
        self.turns: int | None = None

    async def send(
        self,
        wire: WireFormat,
        reader: AnswerReader,
        rows: NDArray[Any],
        size: int,
        lease: Lease,
        sizes: Sequence[int],
        again: Sequence[int] = (),
    ) -> NDArray[np.float64]:
        """Answer all rows, in requests of ``size``, many at a time; the answers come back in the rows' order.

        Requests go out part by part, or in random turns drawn from the seed ``turns``, where it is set.

        Args:
            wire, reader: how rows are said and answers read.
            rows: parts of ``sizes`` rows each; no request holds rows of two.
            size: rows of a request at most.
            lease: counts and recalls.
            again: a number for each part, which tells questions that are repeated on purpose apart.

        Raises:
            BudgetExhausted: no more may be sent; everything in flight was awaited and committed.
            RowsFailed: some rows could not be answered, the others are in it.
            ModelFailure: the endpoint failed throughout, or the run's deadline passed.
        """
        batch = Batch(rows, lease, reader.probabilities, sizes, again, outlast=True)
        ends = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        parts = [[(at, min(at + size, last)) for at in range(first, last, size)] for first, last in ends]
        pieces = collections.deque(in_turns(parts, self.turns, b"" if self.turns is None else rows.tobytes()))

        async def work() -> None:
            while pieces and batch.stop is None:
                start, stop = pieces.popleft()
                try:
                    await self._piece(wire, batch, start, stop, self.endpoint.attempts)
                except Exception as exc:
                    batch.stop = batch.stop or exc

        await asyncio.gather(*(work() for _ in range(min(self.endpoint.concurrency, len(pieces)))))
        self._kept.clear()
        if batch.stop is not None:
            raise batch.stop
        return batch.assembled()

    async def once(
        self,
        wire: WireFormat,
        rows: NDArray[Any],
        lease: Lease,
        read: Callable[[Answer, int], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Answer the rows with one request, retried but never split; an outage is waited out; raises ``GivenUp``.

        The next request for the same rows takes this answer, with a ledger or without. An answer of an earlier process is
        taken as it was kept: ``read`` does not get to see it.
        """
        batch = Batch(rows, lease, read, outlast=True)
        try:
            answers = await self._request(wire, batch, 0, len(rows), self.endpoint.attempts)
        except GivenUp as exc:
            out = exc.fault.kind in ("transport", "busy") and self.outages.likely
            if not out or not await self._outlasted(wire, batch, 0, len(rows), exc, halves=False):
                raise
            answers = batch.answers[0]
        self._kept[self._key(wire.encode(rows).identity, batch.times)] = answers
        return answers

    async def _piece(
        self, wire: WireFormat, batch: Batch, start: int, stop: int, attempts: int, *, part: bool = False
    ) -> None:
        """Answer rows start to stop; where the request is given up for what is in it, its halves are asked.

        An endpoint that answers nobody any more is waited for; then the same request is sent, not parts of it.
        """
        if start in batch.answers:  # asked already, to see whether an endpoint answers at all
            return
        try:
            batch.answers[start] = await self._request(wire, batch, start, stop, attempts)
            self._given_up = 0
            return
        except GivenUp as exc:
            fault, failure = exc.fault, exc
        if fault.kind in ("settings", "quota", "deadline"):
            raise failure
        if fault.kind in ("transport", "busy"):
            if not self.outages.may_wait:
                if fault.kind == "transport" or fault.status in ("429", "timeout"):
                    raise failure
            elif (
                (not part or self.outages.likely)  # of a part, the other part's answer tells
                and await self._outlasted(wire, batch, start, stop, failure)
            ):
                return
        if fault.kind != "size":
            self._given_up += 1
        if self._given_up >= MOST_GIVEN_UP:
            row = f"{self._given_up} requests in a row were given up; the last: "
            raise ModelFailure(f"{row}{failure}", kept=f"{row}{failure.kept}") from None
        if stop - start == 1:
            batch.reasons[start] = f"the endpoint does not answer this row ({_plainly(fault)})"
            if fault.kind != "rejected" and fault.status != "mismatch":
                batch.unanswered.add(start)
            return
        middle = (start + stop) // 2
        for first, last in ((start, middle), (middle, stop)):
            if batch.stop is None:
                await self._piece(wire, batch, first, last, min(attempts, SENDS_OF_A_PART), part=True)

    async def _outlasted(
        self, wire: WireFormat, batch: Batch, start: int, stop: int, failure: GivenUp, *, halves: bool = True
    ) -> bool:
        """Wait until the endpoint answers somebody again, then send the same request.

        Args:
            wire, batch, start, stop: the request.
            failure: why it was given up.
            halves: first see whether the halves of it are answered, which tells an outage from rows that are at fault.

        Returns:
            whether it was answered; if not, others are, and what is in it is at fault.

        Raises:
            GivenUp: nobody was answered for as long as ``patience``.
        """
        since, fault = self.outages.since, failure.fault
        wait = 1.0
        while True:
            async with self.outages.probing:
                if self.outages.answered_since(since):
                    break
                if halves and stop - start > 1 and fault.status not in AT_THE_DOOR and self.outages.first_look(since):
                    for first, last in ((start, (start + stop) // 2), ((start + stop) // 2, stop)):
                        try:
                            batch.answers[first] = await self._request(wire, batch, first, last, SENDS_OF_A_PART)
                        except GivenUp:
                            continue
                        return False
                if not self.outages.keep_waiting(since, alone=stop - start == 1 and fault.status not in AT_THE_DOOR):
                    if stop - start == 1 and fault.status not in AT_THE_DOOR:
                        return False
                    raise failure
                await self._clock.sleep(min(wait, self.outages.left(since), self._until_deadline()))
                wait = min(2 * wait, MINUTE)
                if self.outages.answered_since(since):
                    break
                try:
                    batch.answers[start] = await self._request(wire, batch, start, stop, 1)
                    self._given_up = 0
                    return True
                except GivenUp as exc:
                    failure = exc
                    if exc.fault.kind not in ("transport", "busy"):
                        break
        try:
            batch.answers[start] = await self._request(wire, batch, start, stop, self.endpoint.attempts)
        except GivenUp as exc:
            if exc.fault.status in AT_THE_DOOR:  # whatever is in it: it was never looked at
                return await self._outlasted(wire, batch, start, stop, exc, halves=halves)
            if exc.fault.kind in ("deadline", "quota"):
                raise
            return False
        self._given_up = 0
        return True

    async def _request(self, wire: WireFormat, batch: Batch, start: int, stop: int, attempts: int) -> NDArray[np.float64]:
        body = wire.encode(batch.rows[start:stop])
        key = self._key(body.identity, batch.times[start:stop])
        async with batch.waiting[key]:
            return await self._answered(wire, batch, start, stop, attempts, body, key)

    async def _answered(
        self, wire: WireFormat, batch: Batch, start: int, stop: int, attempts: int, body: Body, key: bytes
    ) -> NDArray[np.float64]:
        count, number = stop - start, next(self._numbers)
        known = self._kept.pop(key, None)
        if known is None:
            known = batch.lease.recall(key)
        if known is not None:
            return known
        sends: collections.Counter[str] = collections.Counter()

        async def send() -> NDArray[np.float64]:
            asked = self._clock.now()
            entered, trouble = await self.pace.enter(), False
            ticket, status, size = None, "interrupted", len(body.content)
            answers: NDArray[np.float64] | None = None

            async def turn() -> float:
                nonlocal ticket, entered
                entered = await self.pace.turn()
                if batch.stop is not None:
                    raise batch.stop
                seconds = self._seconds_left()
                if ticket is not None:
                    batch.lease.commit(ticket, count, None, "challenged", size)
                    ticket = None
                ticket = batch.lease.reserve(count, key)
                return seconds

            try:
                if batch.stop is not None:
                    raise batch.stop
                reply = await self.replied(wire.url, body, self._seconds_left(), turn)
                size += len(reply.content)
                answers, status = batch.decoded(wire, reply, count, self._transport.secrets), "ok"
                self.outages.answered()
                return answers
            except Fault as fault:
                sends[fault.kind] += 1
                status, trouble = fault.status, fault.kind == "busy"
                self.outages.record(fault)
                raise
            finally:
                if ticket is not None:
                    batch.lease.commit(ticket, count, answers, status, size)
                self.pace.leave(entered, trouble=trouble)
                if LOG.isEnabledFor(logging.INFO):
                    took = self._clock.now() - entered
                    LOG.info("request %d: %d rows, %s, %.3f s, waited %.3f s", number, count, status, took, entered - asked)

        try:
            return await self._until_answered(send, sends, batch, attempts)
        except Fault as fault:
            tries = sum(sends.values())
            often = "once" if tries == 1 else f"{tries} times"
            where = f"request {number} (rows {start} to {stop - 1} of this batch, sent {often}) was given up: "
            came = f" (it begins: {fault.came!r})" if fault.came else ""
            raise GivenUp(f"{where}{fault.detail}{came}; {RESUME}", f"{where}{_plainly(fault)}", fault) from None

    async def _until_answered(
        self, send: Callable[[], Awaitable[NDArray[np.float64]]], sends: Mapping[str, int], batch: Batch, attempts: int
    ) -> NDArray[np.float64]:
        """Send, and again while that may help; ``sends`` counts the faults by kind."""

        def again(exc: BaseException) -> bool:
            if not isinstance(exc, Fault) or batch.stop is not None:
                return False
            if batch.outlast and exc.kind in ("transport", "busy") and self.outages.likely:
                return False  # one of them waits for all
            return sends[exc.kind] < most_sends(exc.kind, attempts)

        def spent(state: RetryCallState) -> bool:
            return state.attempt_number >= 2 * attempts

        failed: list[Fault] = []

        async def first_known() -> NDArray[np.float64]:
            if failed:
                raise failed.pop()
            return await send()

        # Nearly every request is answered at once: tenacity, which takes longer than SQLite, is called for the others.
        try:
            return await send()
        except Fault as fault:
            failed.append(fault)
        retrying = AsyncRetrying(
            sleep=self._clock.sleep, retry=retry_if_exception(again), stop=spent, wait=self._wait, reraise=True
        )
        answers: NDArray[np.float64] = await retrying(first_known)
        return answers

    async def replied(self, url: str, body: Body, seconds: float, turn: Turn | None = None) -> Reply:
        """The answer to one request, waited for where the endpoint works in the background."""
        reply = await self._transport.post(url, body, seconds, turn)
        if self._poller is not None:
            try:
                return await self._poller.result(url, reply, self._transport.secrets)
            except Fault as fault:
                if is_refused(fault.status):  # a look was; the rows had been taken
                    fault.status = f"look-{fault.status}"
                raise
        if reply.status == 202 and "location" in reply.headers:
            raise Fault("settings", "202", "HTTP 202: the endpoint works in the background: say poll: {}")
        return reply

    def _key(self, content: bytes, times: NDArray[np.uint32]) -> bytes:
        again = times.tobytes() if times.any() else b""
        return hashlib.sha256(self._fingerprint + content + again).digest()

    def _seconds_left(self) -> float:
        now = self._clock.now()
        self._started = self._started or now
        if self.endpoint.deadline is None:
            return self.endpoint.timeout
        left = self._started + self.endpoint.deadline - now
        if left <= 0:
            raise Fault("deadline", "deadline", f"the deadline of {self.endpoint.deadline:g} s for the run has passed")
        return min(left, self.endpoint.timeout)

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next send: what the server asks for, else growing with the sends, half of it random."""
        fault = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(fault, Fault):
            return 0.0
        if fault.wait is not None:
            # A wait beyond the run's deadline is cut to it: the next send then ends the run with a clear message.
            self.pace.pause(min(fault.wait, self._until_deadline()))
            return 0.0
        if fault.status == "429":
            self.pace.pause(min(MINUTE, 2.0 ** (state.attempt_number - 1), self._until_deadline()))
            return 0.0
        first, most = {"busy": (0.25, 20.0), "transport": (0.05, 5.0)}.get(fault.kind, (0.02, 0.5))
        longest = min(most, first * 2.0 ** (state.attempt_number - 1))
        return float(min(longest * (0.5 + 0.5 * self._jitter.random()), self._until_deadline()))

    def _until_deadline(self) -> float:
        if self.endpoint.deadline is None or self._started is None:
            return float("inf")
        return max(0.0, self._started + self.endpoint.deadline - self._clock.now())


def _plainly(fault: Fault) -> str:
    """The fault without what the server said: reports are read by others. Of an unreadable answer, our own sentence."""
    if fault.kind == "answer":
        return fault.detail
    return f"HTTP {fault.status}" if fault.status.isdecimal() else fault.status
