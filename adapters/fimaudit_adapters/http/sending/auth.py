"""Credentials: read from the environment or a file at the last moment, given to httpx, and known by value only to redact."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path
from urllib.parse import quote, quote_plus, urlencode

import httpx
from pydantic import SecretStr

from fimaudit.errors import TargetError
from fimaudit.models.python_targets import is_python_target, named_object
from fimaudit_adapters.http.protocols.base import Body
from fimaudit_adapters.http.sending.tokens import AwsSigner, token_source, variable
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["Credentials"]


class Credentials:
    """Headers and parameters from variables and files on every request, files read anew (tokens rotate), tokens that are
    issued, signatures, then the plug-in's own flow. One 401 is taken for a token that has run out, where it can be renewed.
    """

    def __init__(self, endpoint: Endpoint, verify: ssl.SSLContext | bool = True) -> None:
        self._from_env = {name: SecretStr(variable(env)) for name, env in endpoint.header_env.items()}
        self._from_file = dict(endpoint.header_file)
        self._query = {name: SecretStr(variable(env)) for name, env in endpoint.url_query_env.items()}
        self._fields = {name: SecretStr(variable(env)) for name, env in endpoint.body_env.items()}
        self._issued = token_source(endpoint, verify)
        self._signer = None if endpoint.aws is None else AwsSigner(endpoint.aws)
        if endpoint.bearer_env is not None:
            self._from_env["Authorization"] = SecretStr(f"Bearer {variable(endpoint.bearer_env)}")
        login = [] if endpoint.basic is None else [endpoint.basic.user_env, endpoint.basic.password_env]
        user_and_password = ["" if env is None else variable(env) for env in login]
        if login:
            both = base64.b64encode(":".join(user_and_password).encode()).decode()
            self._from_env["Authorization"] = SecretStr(f"Basic {both}")
            user_and_password.append(both)
        self._bearer_file = endpoint.bearer_file
        self.plugin = _plugin(endpoint.auth) if endpoint.auth is not None else None
        plain = {value.get_secret_value() for value in (*self._query.values(), *self._fields.values())}
        plain |= {secret for secret in user_and_password if secret}
        written = (quote_plus, lambda secret: quote(secret, safe=""), lambda secret: json.dumps(secret)[1:-1])
        self._secrets = plain | {write(secret) for secret in plain for write in written}
        self._fill(httpx.Request("POST", "http://localhost/"))

    @property
    def at_hand(self) -> bool:
        """Whether nobody is asked for a credential."""
        return self.plugin is None and self._issued is None

    def secrets(self) -> tuple[str, ...]:
        """Every value that must not appear in a message."""
        issued = [*(self._issued.secrets if self._issued else ()), *(self._signer.secrets if self._signer else ())]
        return tuple(sorted({*self._secrets, *issued}, key=len, reverse=True))

    def within(self, body: Body) -> bytes:
        """The content of a body with the fields that hold credentials."""
        fields, content = {name: secret.get_secret_value() for name, secret in self._fields.items()}, body.content
        if not fields or not content:
            return content
        kind, _, boundary = body.headers.get("Content-Type", "").partition("; boundary=")
        if kind == "application/x-www-form-urlencoded":
            return content + b"&" + urlencode(fields).encode()
        if boundary:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="'
            return "".join(f'{head}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()).encode() + content
        if content[:1] != b"{":
            raise TargetError("body_env needs a request that is an object of named fields")
        return json.dumps(fields).encode()[:-1] + (b"}" if content[1:2] == b"}" else b"," + content[1:])

    async def complete(self, request: httpx.Request) -> None:
        """Put in all that a request needs; the plug-in's own flow comes after."""
        self._fill(request)
        if self._issued is not None:
            request.headers["Authorization"] = f"Bearer {await self._issued.token()}"
        if self._signer is not None:
            self._signer.sign(request)

    async def renewed(self, request: httpx.Request) -> bool:
        """Whether another credential than the one refused with 401 was to be had, which the request then carries."""
        if self._signer is not None:  # botocore renews what has run out before it signs
            return False
        before = dict(request.headers)
        if self._issued is not None:
            self._issued.forget(before.get("authorization", "").removeprefix("Bearer "))
        await self.complete(request)
        return dict(request.headers) != before

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
        for name, secret in self._query.items():
            request.url = request.url.copy_set_param(name, secret.get_secret_value())


def _content(path: str) -> str:
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise TargetError(f"the credential file {path} cannot be read: {type(exc).__name__}") from None
    if not value:
        raise TargetError(f"expected a credential in the file {path}, which is empty")
    return value


def _plugin(name: str) -> httpx.Auth:
    if not is_python_target(name):
        raise TargetError(f"expected auth as package.module:attribute, got {name!r}")
    try:
        made = named_object(name)
        if not isinstance(made, httpx.Auth):
            made = made()
    except Exception as exc:  # by its class alone: what it says may hold the secret
        raise TargetError(f"auth {name} cannot be loaded: {type(exc.__cause__ or exc).__name__}") from None
    if not isinstance(made, httpx.Auth):
        raise TargetError(f"expected {name} to be an httpx.Auth or a factory of one, got {type(made).__name__}")
    return made
