"""What an endpoint file says of credentials: they are named there, never held, and refused where logs would show them."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from fimaudit.errors import TargetError

__all__ = ["Aws", "Basic", "Google", "OAuth", "checked_url", "header_looks_secret", "parameter_looks_secret"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Basic(_Part):
    """A user name and a password with every request; services that have keys alone take the key as the name."""

    user_env: str = Field(description="environment variable that holds the user name, or the key")
    password_env: str | None = Field(None, description="environment variable that holds the password; none when left out")


class OAuth(_Part):
    """A bearer token from an OAuth2 token endpoint, renewed before it expires and on 401."""

    token_url: str = Field(description="where tokens are issued")
    client_id_env: str | None = Field(None, description="environment variable that holds the client's id")
    client_secret_env: str | None = Field(None, description="environment variable that holds the client's secret")
    grant_type: str = Field("client_credentials", description="another grant of the same shape: an issuer's own name for it")
    scope: str | None = Field(None, description="scopes between spaces")
    parameters: dict[str, str] = Field(default_factory=dict, description="further fields of the form: audience, resource")
    parameters_env: dict[str, str] = Field(default_factory=dict, description="field: environment variable that holds it")
    client_auth: Literal["basic", "post", "none"] = Field(
        "basic", description="client id and secret in the header, in the form, or not at all"
    )


class Aws(_Part):
    """AWS Signature Version 4, with the credentials that botocore finds (environment, profile, role)."""

    service: str = Field(description="sagemaker, rekognition, execute-api, ...")
    region: str = Field(description="eu-central-1, ...")
    profile: str | None = Field(None, description="profile of the shared configuration")


class Google(_Part):
    """A token for a Google service account, renewed before it expires and on 401."""

    service_account_env: str = Field(
        "GOOGLE_APPLICATION_CREDENTIALS", description="environment variable that names the service account's JSON file"
    )
    scopes: tuple[str, ...] = ("https://www.googleapis.com/auth/cloud-platform",)


def header_looks_secret(header: str) -> bool:
    """Whether a header of that name holds a credential."""
    return bool(re.search(r"(?i)auth|cookie|key$|token|secret|passw|credential|session|signature", header))


def parameter_looks_secret(name: str) -> bool:
    """Whether a parameter of a URL of that name holds a credential."""
    return bool(re.search(r"(?i)(key|token|secret|passw|pwd|^sig$|signature|credential|^auth|^code$|session)", name))


def checked_url(url: str) -> str:
    """The URL, when it is absolute, http or https, and free of credentials; the message never repeats it."""
    blank = re.search(r"<[A-Za-z][\w -]*>", url)
    if blank is not None:
        raise TargetError(f"the url still holds {blank[0]}: put your own in its place")
    try:
        parts = urlsplit(url)
        named = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
    if not named or "{" in parts.netloc or parts.scheme.lower() not in ("http", "https"):
        raise TargetError("expected an absolute http:// or https:// URL with a host; gRPC and WebSockets are not spoken")
    if parts.username is not None or parts.password is not None:
        raise TargetError("the URL holds a user name or password; pass them with header_env, bearer_env or an auth plug-in")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if parameter_looks_secret(name):
            raise TargetError(
                f"the URL's parameter {name!r} looks like a credential; URLs end up in logs: use url_query_env"
            )
    return url
