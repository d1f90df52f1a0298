"""The event loop of endpoints: a call ends although the system refused to wake the loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import inspect
import socket
import sys
from asyncio.selector_events import BaseSelectorEventLoop

import pytest
from fimaudit_adapters.http.sending.event_loop import Loop


async def answer() -> int:
    return 7


async def late() -> int:
    raise TimeoutError("the work's own")


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_wake_up_that_is_lost_ends_nothing(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: an input-output error on the loop's own pipe, and a run that waited for ever."""
    loop, left = Loop(), [lost]
    assert loop.run(answer()) == 7
    wake = BaseSelectorEventLoop._write_to_self  # type: ignore[attr-defined]

    def refused(self: asyncio.AbstractEventLoop) -> None:
        left[0] -= 1
        if left[0] < 0:
            wake(self)

    monkeypatch.setattr(BaseSelectorEventLoop, "_write_to_self", refused)
    assert loop.run(answer()) == 7
    loop.close()


def test_what_the_work_raises_is_raised() -> None:
    loop = Loop()
    with pytest.raises(TimeoutError, match="the work's own"):
        loop.run(late())
    loop.close()


def test_a_loop_that_cannot_be_made_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at ``socket:socketpair:1:EMFILE``: an error in a sentence, and then the half-made loop's finaliser failed."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def work() -> None: ...

    waiting = work()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            Loop().run(waiting)
    gc.collect()
    assert said == []
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED
