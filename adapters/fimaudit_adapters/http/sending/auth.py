"""Credentials: read from the environment or a file at the last moment, given to httpx, and known by value only to redact."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx
from pydantic import SecretStr

from fimaudit.errors import TargetError
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["Credentials"]


class Credentials:
    """Headers from variables and files on every request, files read anew (tokens rotate), then the plug-in's own flow."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._from_env = {name: SecretStr(_variable(variable)) for name, variable in endpoint.header_env.items()}
        self._from_file = dict(endpoint.header_file)
        if endpoint.bearer_env is not None:
            self._from_env["Authorization"] = SecretStr(f"Bearer {_variable(endpoint.bearer_env)}")
        self._bearer_file = endpoint.bearer_file
        self._plugin = _plugin(endpoint.auth) if endpoint.auth is not None else None
        self._secrets: set[str] = set()
        self._fill(httpx.Request("POST", "http://localhost/"))

    def secrets(self) -> tuple[str, ...]:
        """Every value that must not appear in a message."""
        return tuple(sorted(self._secrets, key=len, reverse=True))

    @property
    def reads_answers(self) -> bool:
        """Whether the plug-in wants to read bodies: those of its own requests, and of refusals."""
        return self._plugin is not None and self._plugin.requires_response_body

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """As httpx asks for it; a plug-in that sends the rows a second time (a challenge) has them counted again."""
        self._fill(request)
        if self._plugin is None:
            yield request
            return
        flow = self._plugin.async_auth_flow(request)
        count_again: Callable[[], None] | None = request.extensions.get("count_again")
        try:
            following, rows_sent = await flow.__anext__(), False
            while True:
                carries_rows = following.method == request.method and following.url == request.url
                if carries_rows and rows_sent and count_again is not None:
                    count_again()
                rows_sent = rows_sent or carries_rows
                response = yield following
                following = await flow.asend(response)
        except StopAsyncIteration:
            return

    def _fill(self, request: httpx.Request) -> None:
        headers = {name: value.get_secret_value() for name, value in self._from_env.items()}
        headers.update({name: _content(path) for name, path in self._from_file.items()})
        if self._bearer_file is not None:
            headers["Authorization"] = f"Bearer {_content(self._bearer_file)}"
        for name, value in headers.items():
            if not value.isprintable() or not value.isascii():
                raise TargetError(f"the value for header {name} holds characters that no header may hold")
            self._secrets.update({value, value.removeprefix("Bearer ")})
            request.headers[name] = value


def _variable(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise TargetError(f"expected a credential in the environment variable {name}, which is not set")
    return value


def _content(path: str) -> str:
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise TargetError(f"the credential file {path} cannot be read: {type(exc).__name__}") from None
    if not value:
        raise TargetError(f"expected a credential in the file {path}, which is empty")
    return value


def _plugin(name: str) -> httpx.Auth:
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise TargetError(f"expected auth as package.module:attribute, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module_name), attribute)
        if not isinstance(made, httpx.Auth):
            made = made()
    except Exception as exc:
        raise TargetError(f"auth {name} cannot be loaded: {type(exc).__name__}") from None
    if not isinstance(made, httpx.Auth):
        raise TargetError(f"expected {name} to be an httpx.Auth or a factory of one, got {type(made).__name__}")
    return made
