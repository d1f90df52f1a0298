"""An event loop in a thread of its own, so that the core stays synchronous."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Loop"]

T = TypeVar("T")

#: Seconds after which a loop is woken again: where the system refused to wake it, asyncio says nothing.
AGAIN = 1.0


class Loop:
    """Runs coroutines for synchronous callers; one thread, started on the first use and ended by ``close``."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work``; an interrupt of the caller (Ctrl-C) cancels it."""
        try:
            loop = self._running()
        except OSError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return _waited_for(future, self._running())
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def close(self) -> None:
        """Stop the thread; may be called twice."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            _waited_for(asyncio.run_coroutine_threadsafe(_cancel_all(), loop), loop)
            while thread.is_alive():
                loop.call_soon_threadsafe(loop.stop)
                thread.join(AGAIN)
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = _EventLoop()
                self._loop.set_exception_handler(_noted)
                self._thread = threading.Thread(target=self._loop.run_forever, name="fimaudit-http", daemon=True)
                self._thread.start()
            return self._loop


class _EventLoop(asyncio.SelectorEventLoop):
    """One that cannot be made, for want of descriptors, ends without a traceback of its half-made self."""

    _made = False

    def __init__(self) -> None:
        super().__init__()
        self._made = True

    def __del__(self) -> None:
        if self._made:
            super().__del__()


def _waited_for(future: Future[T], loop: asyncio.AbstractEventLoop) -> T:
    """What the loop makes of it, woken now and then."""
    while True:
        try:
            return future.result(AGAIN)
        except TimeoutError:
            if future.done():  # it was the work that raised
                raise
            loop.call_soon_threadsafe(lambda: None)


def _noted(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What fails inside the loop itself is for the log; what work raised reaches who waits for it."""
    logging.getLogger("fimaudit.http").debug("%s", context.get("message"), exc_info=context.get("exception"))


async def _cancel_all() -> None:
    """End what an interrupt left behind, so that no task is destroyed while pending."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
