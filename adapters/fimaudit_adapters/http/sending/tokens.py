"""Credentials that are issued, renewed or computed: OAuth2, Google service accounts, AWS signatures; libraries load late."""

from __future__ import annotations

import asyncio
import importlib
import os
import ssl
import time
import warnings
from collections.abc import Callable
from typing import Any

import httpx

from fimaudit.errors import MissingExtraError, TargetError
from fimaudit_adapters.http.credential_settings import Aws, Google, OAuth
from fimaudit_adapters.http.sending.faults import Fault, excerpt
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["AwsSigner", "GoogleToken", "OAuthToken", "token_source", "variable"]

#: A token is renewed when so many seconds of it are left, or a tenth of its time where that is less.
LEEWAY = 60.0
ISSUER_SECONDS = 30.0


class OAuthToken:
    """A token endpoint's tokens, through authlib.

    Args:
        settings: as the endpoint file gives them.
        verify, trust_env: as for the endpoint itself.

    Raises:
        TargetError: a variable is not set.
        MissingExtraError: authlib is not installed.
    """

    def __init__(self, settings: OAuth, verify: ssl.SSLContext | bool, trust_env: bool) -> None:
        authlib = _library("authlib.integrations.httpx_client", "OAuth2 credentials", "authlib", "http-auth")
        client: Callable[..., Any] = authlib.AsyncOAuth2Client
        self._settings = settings
        self._id = None if settings.client_id_env is None else variable(settings.client_id_env)
        self._secret = None if settings.client_secret_env is None else variable(settings.client_secret_env)
        self._form = {**settings.parameters, **{name: variable(env) for name, env in settings.parameters_env.items()}}
        method = {"basic": "client_secret_basic", "post": "client_secret_post", "none": "none"}[settings.client_auth]
        self._make: Callable[[], Any] = lambda: client(
            self._id, self._secret, token_endpoint_auth_method=method if self._id else "none", verify=verify,
            trust_env=trust_env, timeout=ISSUER_SECONDS,
        )  # fmt: skip
        self._renewing = asyncio.Lock()
        self._token: str | None = None
        self._until = 0.0

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        held = [self._secret, self._token, *(self._form[name] for name in self._settings.parameters_env)]
        return [one for one in held if one]

    async def token(self) -> str:
        """One that is valid now.

        Raises:
            Fault: the issuer refuses, or is not there.
        """
        async with self._renewing:
            if self._token is None or time.time() >= self._until:
                await self._fetch()
            assert self._token is not None
            return self._token

    def forget(self, refused: str) -> None:
        """The endpoint refused this one: issue another, unless that was done for another request."""
        if self._token == refused:
            self._token = None

    async def _fetch(self) -> None:
        form = {**self._form, **({} if self._settings.scope is None else {"scope": self._settings.scope})}
        try:
            async with self._make() as client:
                found = await client.fetch_token(self._settings.token_url, grant_type=self._settings.grant_type, **form)
        except Exception as exc:  # authlib tells refusals by classes of its own, and the rest by httpx's or httpx2's
            kinds = {kind.__name__ for kind in type(exc).__mro__}
            if "TransportError" in kinds:
                raise Fault("transport", "token", f"the token endpoint does not answer ({type(exc).__name__})") from None
            if "HTTPStatusError" in kinds:
                raise Fault("busy", "token", f"the token endpoint is out ({_first(exc)})") from None
            reason = excerpt(str(exc).encode(), self.secrets)
            raise Fault("settings", "token", f"the token endpoint gave no token ({reason or type(exc).__name__})") from None
        token = found.get("access_token")
        if not isinstance(token, str) or not token:
            raise Fault("settings", "token", "the token endpoint answered without an access_token")
        self._token = token
        seconds = found.get("expires_in")
        lasts = float(seconds) if isinstance(seconds, int | float | str) and str(seconds).isdecimal() else 3600.0
        self._until = time.time() + lasts - min(LEEWAY, lasts / 10)


class GoogleToken:
    """A service account's tokens, through google-auth.

    Raises:
        TargetError: the variable is not set, or its file is no service account's.
        MissingExtraError: google-auth is not installed.
    """

    def __init__(self, settings: Google, verify: ssl.SSLContext | bool, trust_env: bool) -> None:
        needed = ("Google service accounts", "google-auth", "http-auth")
        service_account = _library("google.oauth2.service_account", *needed)
        self._errors = _library("google.auth.exceptions", *needed)
        self._answer = _library("google.auth.transport", *needed).Response
        path = variable(settings.service_account_env)
        try:
            self._held: Any = service_account.Credentials.from_service_account_file(path, scopes=list(settings.scopes))
        except (OSError, ValueError) as exc:
            raise TargetError(
                f"expected a service account's JSON file in {settings.service_account_env}, got one that cannot be used "
                f"({type(exc).__name__})"
            ) from None
        self._verify, self._trust_env = verify, trust_env
        self._renewing = asyncio.Lock()

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        return [self._held.token] if self._held.token else []

    async def token(self) -> str:
        """See ``OAuthToken``."""
        async with self._renewing:
            if not self._held.valid:
                await asyncio.to_thread(self._refresh)
            return str(self._held.token)

    def forget(self, refused: str) -> None:
        """See ``OAuthToken``."""
        if self._held.token == refused:
            self._held.token = None

    def _refresh(self) -> None:
        try:
            self._held.refresh(self._ask)
        except self._errors.TransportError:
            raise Fault("transport", "token", "Google's token endpoint does not answer") from None
        except self._errors.GoogleAuthError as exc:
            reason = excerpt(str(exc).encode(), self.secrets)
            raise Fault("settings", "token", f"Google gave no token for this service account ({reason})") from None

    def _ask(self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any) -> Any:
        """google-auth's idea of a transport, over httpx."""
        try:
            with httpx.Client(verify=self._verify, trust_env=self._trust_env, timeout=ISSUER_SECONDS) as client:
                found = client.request(method, url, content=body, headers=headers)
        except httpx.TransportError as exc:
            raise self._errors.TransportError(type(exc).__name__) from None

        return type(
            "Answer",
            (self._answer,),
            {"status": found.status_code, "headers": dict(found.headers), "data": found.content},
        )()


class AwsSigner:
    """Signature Version 4, by botocore, with the credentials that it finds and renews itself.

    Raises:
        TargetError: there are no credentials.
        MissingExtraError: botocore is not installed.
    """

    def __init__(self, settings: Aws) -> None:
        needed = ("AWS signatures", "botocore", "aws")
        auth, awsrequest, exceptions, session = (
            _library(f"botocore.{name}", *needed) for name in ("auth", "awsrequest", "exceptions", "session")
        )
        try:
            found = session.Session(profile=settings.profile).get_credentials()
        except exceptions.BotoCoreError as exc:
            raise TargetError(f"AWS credentials cannot be read: {excerpt(str(exc).encode())}") from None
        if found is None:
            raise TargetError("no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
        self._found, self._settings, self._auth, self._request = found, settings, auth, awsrequest

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        frozen = self._found.get_frozen_credentials()
        return [one for one in (frozen.secret_key, frozen.token) if one]

    def sign(self, request: httpx.Request) -> None:
        """Put the signature into the headers; it is of this body, this URL and this minute."""
        signed = {name: request.headers[name] for name in ("Content-Type", "Host") if name in request.headers}
        made = self._request.AWSRequest(
            method=request.method, url=str(request.url), data=request.content or None, headers=signed
        )
        frozen = self._found.get_frozen_credentials()
        self._auth.SigV4Auth(frozen, self._settings.service, self._settings.region).add_auth(made)
        for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
            if name in made.headers:
                request.headers[name] = made.headers[name]


def token_source(endpoint: Endpoint, verify: ssl.SSLContext | bool) -> OAuthToken | GoogleToken | None:
    """What the settings name; ``None`` where a token is not issued."""
    if endpoint.oauth is not None:
        return OAuthToken(endpoint.oauth, verify, endpoint.trust_env)
    if endpoint.google is not None:
        return GoogleToken(endpoint.google, verify, endpoint.trust_env)
    return None


def _first(exc: Exception) -> str:
    """Status and phrase of a refusal, without the URL."""
    return str(exc).partition(" for url")[0][:80]


def _library(module: str, needed_for: str, package: str, extra: str) -> Any:
    try:
        # authlib says on import, whatever the filters, that httpx2 is the future; what is used here is the same in both.
        with warnings.catch_warnings(record=True):
            return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(needed_for, package, extra) from None


def variable(name: str) -> str:
    """The credential in an environment variable.

    Raises:
        TargetError: it is not set.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise TargetError(f"expected a credential in the environment variable {name}, which is not set")
    return value
