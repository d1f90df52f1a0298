"""Services that work in the background: the answer to a request says where its result will be."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from fimaudit.errors import OutputError
from fimaudit_adapters.http.protocols.answer_functions import compile_path
from fimaudit_adapters.http.protocols.base import Reply, load_json
from fimaudit_adapters.http.protocols.parsing import parse
from fimaudit_adapters.http.protocols.placeholders import IN_TEXT
from fimaudit_adapters.http.sending.faults import Fault, excerpt, retry_after
from fimaudit_adapters.http.sending.pacing import WaitingClock
from fimaudit_adapters.http.settings import Endpoint, Poll

__all__ = ["Poller"]

#: Where servers put the place of a result.
LOCATIONS = ("location", "operation-location", "azure-asyncoperation")
Look = Callable[[str, Any], Awaitable[Reply]]


class Poller:
    """Waits for the result of one request at a time; a look carries no rows, and one that fails is repeated.

    Args:
        endpoint: with ``poll``.
        get: asks for a URL, with a document to post or ``None``; its reply may be a redirect.
        clock: what is waited by.

    Raises:
        TargetError: a path is no JMESPath.
    """

    def __init__(self, endpoint: Endpoint, settings: Poll, get: Look, clock: WaitingClock) -> None:
        self._settings, self._get, self._clock = settings, get, clock
        self._origin = urlsplit(endpoint.url)[:2]
        self._how = endpoint.answer
        self._done = None if settings.done is None else compile_path(settings.done, "poll.done")
        self._failed = None if settings.failed is None else compile_path(settings.failed, "poll.failed")
        self._paths = {
            path: compile_path(path, "poll")
            for text in (settings.url, settings.result)
            if text is not None
            for path in (IN_TEXT.findall(text) if _is_template(text) else [text])
        } | {path: compile_path(path, "poll.request") for text in _texts(settings.request) for path in IN_TEXT.findall(text)}

    async def result(self, url: str, reply: Reply, secrets: tuple[str, ...]) -> Reply:
        """The reply that holds the result.

        Args:
            url: that was asked.
            reply: the answer to the request itself; taken as it is where it is done already.
            secrets: what no message may hold.

        Raises:
            Fault: the work failed, took too long, or nothing says where its result will be.
        """
        if self._done is not None and _true(self._done, self._document(reply)):
            return await self._where_it_lies(url, reply)
        place = (
            url
            if self._settings.request is not None and self._settings.url is None
            else self._place(url, reply, self._settings.url)
        )
        asked = None if self._settings.request is None else self._filled(self._settings.request, self._document(reply))
        until = self._clock.now() + self._settings.deadline
        while True:
            await self._clock.sleep(min(self._wait(reply), max(0.0, until - self._clock.now())))
            try:
                reply = await self._get(place, asked)
            except Fault as fault:
                if fault.kind not in ("busy", "transport", "server"):
                    raise
                if self._clock.now() >= until:
                    raise Fault("busy", "timeout", f"the result could not be looked for: {fault.detail}") from None
                reply = Reply(202, httpx.Headers([] if fault.wait is None else [("Retry-After", str(fault.wait))]), b"")
                continue
            if 300 <= reply.status < 400:
                return await self._get(self._place(place, reply, None), None)
            document = self._document(reply) if self._done is not None or self._failed is not None else None
            if self._failed is not None and _true(self._failed, document):
                raise Fault("server", "failed", f"the service says that the work failed: {excerpt(reply.content, secrets)}")
            if reply.status != 202 and (self._done is None or _true(self._done, document)):
                return await self._where_it_lies(place, reply)
            if self._clock.now() >= until:
                raise Fault("busy", "timeout", f"no result within {self._settings.deadline:g} s (poll.deadline)")

    async def _where_it_lies(self, url: str, reply: Reply) -> Reply:
        return (
            reply if self._settings.result is None else await self._get(self._place(url, reply, self._settings.result), None)
        )

    def _wait(self, reply: Reply) -> float:
        asked = retry_after(reply.headers)
        return self._settings.interval if asked is None else max(asked, 0.01)

    def _document(self, reply: Reply) -> Any:
        with contextlib.suppress(OutputError):
            return load_json(reply.content)  # the answer to the request is JSON also where the result is not
        try:
            return parse(reply.content, self._how, 1) if reply.content else None
        except OutputError as exc:
            raise Fault("answer", "unreadable", str(exc), unreadable=True) from exc

    def _filled(self, part: Any, document: Any) -> Any:
        """A text, or a document of texts, with the {path} parts of an answer."""
        if isinstance(part, dict):
            return {name: self._filled(value, document) for name, value in part.items()}
        if isinstance(part, list):
            return [self._filled(value, document) for value in part]
        if not isinstance(part, str):
            return part
        parts: Mapping[str, Any] = {path: self._paths[path](document) for path in IN_TEXT.findall(part)}
        missing = next((path for path, value in parts.items() if not isinstance(value, str | int)), None)
        if missing is not None:
            raise Fault("settings", "poll", f"expected {missing!r} of poll in the answer, got none")
        return IN_TEXT.sub(lambda match: str(parts[match[1]]), part)

    def _place(self, url: str, reply: Reply, path: str | None) -> str:
        """Where to look next: within the endpoint's own origin, since credentials go along."""
        if path is None:
            found: object = next((reply.headers[name] for name in LOCATIONS if name in reply.headers), None)
        elif _is_template(path):
            found = self._filled(path, self._document(reply))
        else:
            found = self._paths[path](self._document(reply))
        if not isinstance(found, str):
            where = "a Location header" if path is None else f"a URL at {path!r}"
            raise Fault("settings", "poll", f"expected {where} in the answer that says where the result will be, got none")
        place = urljoin(url, found)
        if urlsplit(place)[:2] != self._origin:
            host = excerpt((urlsplit(place).hostname or "").encode())
            raise Fault("settings", "poll", f"the result lies at another host ({host}), where credentials are not sent")
        return place


def _texts(part: Any) -> list[str]:
    if isinstance(part, dict | list):
        return [text for one in (part.values() if isinstance(part, dict) else part) for text in _texts(one)]
    return [part] if isinstance(part, str) else []


def _is_template(text: str) -> bool:
    """``https://host/{id}`` or ``/results/{id}``, and no JMESPath."""
    return text.startswith(("http://", "https://", "/"))


def _true(path: Callable[[object], Any], document: object) -> bool:
    try:
        return bool(path(document))
    except OutputError:
        return False
