"""What lies between client and server: delays, resets, refusals, half bodies, kills, all drawn from one seed."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.simulation.server import NO_SECRET, Server
from tests.simulation.virtual_time import VirtualLoop

__all__ = ["EPOCH", "Killed", "Network", "Weather"]

#: Wall-clock time at the start of every simulation.
EPOCH = 1_700_000_000.0
CHUNK = 65_536
#: What can happen to one request; each once more in the list is once more as likely.
FAULTS = (
    "slow", "slow", "hang", "refused", "reset before", "reset after", "half", "half", "garbage", "nan", "rows", "twice",
    "500", "502", "503", "504", "408", "429", "html", "endless", "bomb", "leak", "poison",
)  # fmt: skip
#: Answers that are read and refused: a client gives a request up after six of them, whoever is at fault.
OF_ANSWERS = ("half", "garbage", "nan", "rows", "html", "endless", "bomb", "leak", "500")
MOST_SPOILED_ANSWERS = 1


class Killed(BaseException):
    """The client's process is gone."""


@dataclass
class Weather:
    """What goes wrong and when, drawn once.

    Attributes:
        share: of the requests that are spoiled.
        kinds: in which ways.
        outages: begin and end of the times in which nobody is answered, and how.
        throttled: begin and end of the times in which everybody is answered 429, and how they are asked to wait.
        lifetime: seconds that a token lasts.
        kills: numbers of the requests at which the client is killed, and whether the server had answered by then.
        restarts: numbers of the requests before which the server starts anew and forgets tokens and work.
        jump: moment at which the client's wall clock jumps, and by how much.
        swap: number of the request from which another model answers.
        calm: from then on nothing goes wrong.
    """

    share: float
    kinds: tuple[str, ...]
    outages: tuple[tuple[float, float, str], ...]
    throttled: tuple[tuple[float, float, str], ...]
    lifetime: float
    kills: dict[int, bool]
    swap: int | None = None
    restarts: frozenset[int] = frozenset()
    jump: tuple[float, float] = (0.0, 0.0)
    calm: int = 400

    @classmethod
    def drawn(cls, rng: random.Random) -> Weather:
        """One of very many."""
        many = rng.choice((0.0, 0.02, 0.1, 0.3, 0.6))
        kinds = tuple(rng.sample(FAULTS, rng.randrange(1, len(FAULTS))))

        def times(most: int, longest: float, ways: tuple[str, ...]) -> tuple[tuple[float, float, str], ...]:
            begins = sorted(rng.expovariate(1 / 60) for _ in range(rng.randrange(most + 1)))
            return tuple((begin, begin + rng.uniform(0.1, longest), rng.choice(ways)) for begin in begins)

        return cls(
            share=many,
            kinds=kinds,
            outages=times(2, rng.choice((5.0, 600.0)), ("refused", "503", "hang", "reset before", "502")),
            throttled=times(2, rng.choice((5.0, 200.0)), ("", "seconds", "date", "ms", "0", "nonsense")),
            lifetime=rng.choice((1.0, 30.0, 3600.0)),
            kills={rng.randrange(60): rng.random() < 0.5 for _ in range(rng.choice((0, 0, 1, 2, 5)))},
            swap=rng.randrange(5, 40) if rng.random() < 0.08 else None,
            restarts=frozenset(rng.randrange(60) for _ in range(rng.choice((0, 0, 1, 3)))),
            jump=(rng.uniform(0.0, 100.0), rng.choice((0.0, 0.0, 7200.0, -7200.0, 1e8))),
        )


@dataclass
class Network(httpx.AsyncBaseTransport):
    """httpx's transport to one server, on virtual time.

    Attributes:
        server: at the other end.
        weather: what goes wrong.
        on_kill: called at the moment of a kill, before anything else can be written.
        posts: requests with rows that the client has sent.
        sent_at: virtual time of each of them since the process began.
        events: what happened, one line each.
        read: most bytes of one body that the client took.
        given: right answers that the client was handed since the process began.
    """

    server: Server
    weather: Weather
    rng: random.Random
    on_kill: Callable[[], None]
    posts: int = 0
    sent_at: list[float] = field(default_factory=list)
    on_send: Callable[[int], Any] = lambda rows: None
    on_end: Callable[[Any, int], None] = lambda ticket, status: None
    events: list[str] = field(default_factory=list)
    spoiled: Counter[bytes] = field(default_factory=Counter)
    read: int = 0
    given: int = 0
    dead: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx calls it."""
        if self.dead:
            raise Killed
        body = await request.aread()
        rows = self.server.rows_of(request, body)
        if not rows:
            return await self._plain(request, body)
        self.posts += 1
        number, now = self.posts, VirtualLoop.clock.now
        self.sent_at.append(now)
        ticket = self.on_send(rows)
        if number in self.weather.restarts:
            self.server.restart()
        dies = self.weather.kills.get(number)
        if dies is False:
            self._kill(number)
        what = self._what(number, body, now)
        self.events.append(f"{now:.3f} POST {number} {hashlib.sha1(body).hexdigest()[:6]} {rows} rows: {what or 'ok'}")
        response = await self._answer(request, body, what, ticket)
        if dies:
            self._kill(number)
        return response

    async def aclose(self) -> None:
        """Nothing is held open."""

    def wall(self) -> float:
        """The client's own clock."""
        at, by = self.weather.jump
        return EPOCH + VirtualLoop.clock.now + (by if VirtualLoop.clock.now >= at else 0.0)

    def _kill(self, number: int) -> None:
        self.events.append(f"{VirtualLoop.clock.now:.3f} killed at {number}")
        self.dead = True
        self.on_kill()
        raise Killed

    async def _plain(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """Tokens, metadata and polls: slow or refused now and then."""
        await asyncio.sleep(self.rng.uniform(0.001, 0.05))
        now, stormy = VirtualLoop.clock.now, self.posts < self.weather.calm and self.rng.random() < self.weather.share / 3
        outage = self._during(self.weather.outages, now)
        what = outage if outage is not None else self.rng.choice(("502", "reset before", "503", "slow")) if stormy else None
        self.events.append(f"{now:.3f} {request.method} {request.url.path}: {what or 'ok'}")
        if what == "slow":
            await asyncio.sleep(20.0)
        elif what in ("502", "503"):
            return httpx.Response(int(what), json={"error": "busy"})
        elif what is not None:
            raise httpx.ConnectError("refused")
        return self._said(*self.server.asked(request, body, now))

    def _what(self, number: int, body: bytes, now: float) -> str | None:
        if number >= self.weather.calm:
            return None
        outage = self._during(self.weather.outages, now)
        if outage is not None:
            return outage
        waits = self._during(self.weather.throttled, now)
        if waits is not None:
            return f"429 {waits}"
        if self.rng.random() >= self.weather.share:
            return None
        kind = self.rng.choice(self.weather.kinds)
        if kind in OF_ANSWERS:
            if self.spoiled[body] >= MOST_SPOILED_ANSWERS:
                return None
            self.spoiled[body] += 1
        return kind

    @staticmethod
    def _during(times: tuple[tuple[float, float, str], ...], now: float) -> str | None:
        return next((how for begin, end, how in times if begin <= now < end), None)

    async def _answer(self, request: httpx.Request, body: bytes, what: str | None, ticket: Any) -> httpx.Response:
        connect = request.extensions["timeout"]["connect"] or 30.0
        await asyncio.sleep(self.rng.expovariate(20.0) if what != "slow" else self.rng.uniform(5.0, 60.0))
        if what == "hang":
            await asyncio.sleep(10 * connect)
        if what == "refused":
            self.on_end(ticket, 0)
            raise httpx.ConnectError("refused")
        if what == "reset before":
            raise httpx.ReadError("reset")
        if what is not None and what.startswith("429"):
            self.on_end(ticket, 429)
            return self._throttled(what[4:])
        if what in ("502", "503", "504", "408"):
            self.on_end(ticket, int(what))
            return httpx.Response(int(what), json={"error": f"busy, says {self._secret()}"})
        for _ in range(2 if what == "twice" else 1):
            status, headers, content = self.server.asked(request, body, VirtualLoop.clock.now)
        refused = what == "leak" and status == 200 and self.rng.random() < 0.1
        self.on_end(ticket, 401 if refused else status)
        if what == "reset after":
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        self.given += status == 200 and what not in OF_ANSWERS
        if status != 200 or what is None:
            return self._said(status, headers, content)
        if what == "leak":
            secret = self._secret()
            return httpx.Response(401 if refused else 500, text=f"Bearer {secret} is no {secret} in /srv/{secret}")
        return self._spoiled(what, headers, content)

    def _throttled(self, how: str) -> httpx.Response:
        wait = self.rng.choice((1, 7, 70))
        headers = {
            "seconds": {"Retry-After": str(wait)},
            "date": {"Retry-After": email.utils.formatdate(self.wall() + wait, usegmt=True)},
            "ms": {"retry-after-ms": str(wait * 1000)},
            "0": {"Retry-After": "0"},
            "nonsense": {"Retry-After": "-1e999"},
        }.get(how, {})
        return httpx.Response(429, headers=headers, json={"error": "too many requests"})

    def _secret(self) -> str:
        """The last that the client holds."""
        return (self.server.secrets or [NO_SECRET])[-1]

    def _spoiled(self, what: str, headers: dict[str, str], content: bytes) -> httpx.Response:
        secret = self._secret()
        if what == "half":
            cut = self.rng.randrange(len(content))
            if self.rng.random() < 0.5:
                return self._said(200, headers, content[:cut])
            return httpx.Response(200, headers=headers, stream=self._stream([content[:cut]], broken=True))
        if what == "endless":
            return httpx.Response(200, headers=headers, stream=self._stream([b"[" * CHUNK] * 100_000))
        if what == "bomb":
            return httpx.Response(200, headers={**headers, "Content-Encoding": "gzip"}, stream=self._stream([_bomb()]))
        if what == "poison":
            odd = {"Retry-After": "9" * 400, "Content-Type": f"text/{secret}", "Set-Cookie": f"a={secret}"}
            return self._said(200, {**headers, **odd}, content)
        text = {
            "garbage": b"\xff\xfe{[" + secret.encode(), "html": f"<html>{secret}</html>".encode(), "500": b"",
            "nan": self.server.damaged(content, "nan"), "rows": self.server.damaged(content, "rows"),
        }  # fmt: skip
        if what == "500":
            return httpx.Response(500, text=f"Traceback (most recent call last): {secret}")
        return self._said(200, headers, text.get(what, content))

    def _said(self, status: int, headers: dict[str, str], content: bytes) -> httpx.Response:
        return httpx.Response(status, headers=headers, stream=self._stream([content]))

    def _stream(self, chunks: list[bytes], *, broken: bool = False) -> httpx.AsyncByteStream:
        return _Stream(self, chunks, broken)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, network: Network, chunks: list[bytes], broken: bool) -> None:
        self._network, self._chunks, self._broken = network, chunks, broken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        taken = 0
        for chunk in self._chunks:
            await asyncio.sleep(self._network.rng.uniform(0.0, 0.002))
            if self._network.dead:
                raise Killed
            taken += len(chunk)
            self._network.read = max(self._network.read, taken)
            yield chunk
        if self._broken:
            raise httpx.ReadError("reset")


def _bomb() -> bytes:
    import zlib

    global _PACKED
    if not _PACKED:
        packer = zlib.compressobj(9, wbits=31)
        _PACKED = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    return _PACKED


_PACKED = b""
