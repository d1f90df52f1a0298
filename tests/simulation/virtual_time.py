"""An event loop whose time passes while everybody waits, and at no other moment: hours take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Deadlock", "VirtualLoop"]

T = TypeVar("T")


class Deadlock(AssertionError):
    """Everybody waits and nothing will happen."""


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, puts the clock forward."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("the run waits, and nothing is left that could happen")
        self._clock.now += max(timeout, 0.0)
        return []


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0


class _EventLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: _Clock) -> None:
        super().__init__(_Selector(clock))
        self._virtual, self._clock_resolution = clock, 1e-6

    def time(self) -> float:
        return self._virtual.now


class VirtualLoop:
    """Stands in for the adapter's ``Loop``, in the caller's own thread; several share one clock.

    Attributes:
        clock: shared by all loops of a simulation.
    """

    clock = _Clock()

    def __init__(self) -> None:
        self._loop = _EventLoop(self.clock)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work``, and end what it left behind."""
        try:
            return self._loop.run_until_complete(work)
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
                for task in left:  # what they ended with is known already
                    task.cancelled() or task.exception()

    def close(self) -> None:
        """May be called twice."""
        self._loop.close()
