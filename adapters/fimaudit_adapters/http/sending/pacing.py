"""How fast to ask: a number of requests in flight that adapts, a rate that is kept, and pauses that the server asks for."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable

__all__ = ["Pace", "WaitingClock"]

FIRST = 4


class WaitingClock:
    """The machine's own clock, as requests see it; tests put another one in its place."""

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let others run for so many seconds."""
        await asyncio.sleep(seconds)


class Pace:
    """Additive increase, multiplicative decrease (Chiu & Jain 1989, doi 10.1016/0169-7552(89)90019-6).

    One request more in flight after each full round without trouble; half as many on 429, 503 or a timeout, at most once
    a round, so that the failures of one burst count once.

    Args:
        most: upper limit of requests in flight.
        rate: most sends a second, retries included; ``None`` for no limit.
        clock: what is waited by.
    """

    def __init__(self, most: int, rate: float | None, clock: WaitingClock | None = None) -> None:
        self.most = most
        self._clock = clock or WaitingClock()
        self.allowed = float(min(FIRST, most))
        self.in_flight = 0
        self._gap = 1.0 / rate if rate else 0.0
        self._next_send = 0.0
        self._slowed_at = -1.0
        self._turn: Callable[[], float] | None = None
        self._on_pause: Callable[[float], None] | None = None
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    def share(self, turn: Callable[[], float], pause: Callable[[float], None], of: int) -> None:
        """Send in turns with other processes that ask the same endpoint.

        Args:
            turn: takes the next place in the common rate and says how many seconds from now it is.
            pause: tells the others that the server asked for a pause.
            of: processes, which share the requests in flight.
        """
        self._turn, self._on_pause = turn, pause
        self.most = max(1, self.most // of)
        self.allowed = min(self.allowed, float(self.most))

    async def enter(self) -> float:
        """Wait for a place among the requests in flight; returns the moment of entry by the clock."""
        while self.in_flight >= int(self.allowed):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self.in_flight += 1
        return self._clock.now()

    async def turn(self) -> float:
        """Wait for the rate and any pause, right before rows go out; returns the moment by the clock."""
        if self._turn is not None:
            await self._clock.sleep(await asyncio.to_thread(self._turn))
        while (now := self._clock.now()) < self._next_send:
            await self._clock.sleep(self._next_send - now)
        self._next_send = now + self._gap
        return now

    def leave(self, entered: float, *, trouble: bool) -> None:
        """Give the place back and learn from how it went."""
        if trouble:
            if entered > self._slowed_at:
                self.allowed = max(1.0, self.allowed / 2)
                self._slowed_at = self._clock.now()
        else:
            self.allowed = min(float(self.most), self.allowed + 1.0 / max(1.0, self.allowed))
        self._give_back()

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the gateway's limit holds for every request, not for the one it refused."""
        self._next_send = max(self._next_send, self._clock.now() + seconds)
        if self._on_pause is not None:
            self._on_pause(seconds)

    def _give_back(self) -> None:
        self.in_flight -= 1
        free = int(self.allowed) - self.in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one takes no place
                turn.set_result(None)
                free -= 1
