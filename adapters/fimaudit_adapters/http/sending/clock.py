"""Time as requests see it; tests put another one in its place."""

from __future__ import annotations

import asyncio
import time

__all__ = ["WaitingClock"]


class WaitingClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let others run for so many seconds."""
        await asyncio.sleep(seconds)
