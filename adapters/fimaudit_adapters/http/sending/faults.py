"""How one send can fail, what may be tried again and when, and how to speak of it without telling secrets."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Literal

__all__ = ["Fault", "Kind", "after_status", "excerpt", "masked", "most_sends", "retry_after"]

#: ``busy``: 429, 503, timeouts: slow down and try again. ``transport``: connection broken, 408, 502, 504: try again.
#: ``server``: 500, once more. ``answer``: 200 with something unreadable: try again. ``size``: 413 or a batch cap.
#: ``rejected``: 400, 422: these rows, never again. ``settings``: 401, 404, a redirect: nothing will help but the user.
#: ``quota``: paid for is used up: nothing will help but the vendor.
Kind = Literal["busy", "transport", "server", "answer", "size", "rejected", "settings", "quota", "deadline"]

MOST_ANSWER_FAULTS = 6
#: Characters of a message that are looked at, of which a line is shown.
MOST_READ = 2048
MASK = "[secret]"
LONGEST_WAIT = 300.0
_CAP = re.compile(r"(?i)batch[ -]?size\D{0,40}?(?:<=|at most|max\w*|exceed\w*|limit\w*)\D{0,20}(\d{1,9})")
#: What vendors say when they throttle, under statuses that mean something else, and when what was paid for is used up.
_THROTTLED = re.compile(r"(?i)throttl|rate.?limit|too.?many.?requests|provisionedthroughput|slow.?down|rate.?exceeded")
_QUOTA = re.compile(
    r"(?i)insufficient.?(quota|funds|credit|balance)|quota.{0,40}(exceed|exhaust|used up|reached)|exceed.{0,40}quota|"
    r"out of (call volume )?(credit|quota)|credit.{0,20}(exhaust|used up|depleted)|billing|payment required"
)
_SETTINGS_HINT = {
    401: "the endpoint wants credentials: give them with header_env, bearer_env or auth",
    403: "these credentials may not ask this model",
    404: "no such path: check the URL and the model's name",
    405: "this path takes no POST: check the URL",
    407: "a proxy wants credentials: set trust_env to false or configure the proxy",
    415: "the endpoint takes another content type: check the protocol",
    501: "the endpoint does not offer this: check the protocol",
}


class Fault(Exception):
    """One send that did not end in an answer.

    Attributes:
        kind: what it means for trying again.
        status: short and free of content, for the ledger: ``503``, ``timeout``, ``reset``.
        detail: what came, truncated and redacted; never for the ledger or the report.
        wait: seconds that the server asked for.
        cap: most rows that the server takes, where it says so.
        connected: whether anything answered at all.
        unreadable: the endpoint misbehaves, rather than being asked wrongly.
        came: the start of an answer that is no answer, truncated and redacted; never for the ledger or the report either.
    """

    def __init__(
        self,
        kind: Kind,
        status: str,
        detail: str,
        *,
        wait: float | None = None,
        cap: int | None = None,
        connected: bool = True,
        unreadable: bool = False,
        came: str = "",
    ) -> None:
        super().__init__(detail)
        self.came = came
        self.kind, self.status, self.detail, self.wait, self.cap = kind, status, detail, wait, cap
        self.connected, self.unreadable = connected, unreadable


def most_sends(kind: Kind, attempts: int) -> int:
    """How often one request may be sent when it fails in this way."""
    return {
        "busy": attempts,
        "transport": attempts,
        "server": min(2, attempts),
        "answer": min(MOST_ANSWER_FAULTS, attempts),
    }.get(kind, 1)


def after_status(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> Fault:
    """The fault that a status other than 200 stands for."""
    what = excerpt(body, secrets)
    detail = f"HTTP {status}" + (f": {what}" if what else "")
    name = str(status)
    if 300 <= status < 400:
        return Fault("settings", name, f"HTTP {status}: the endpoint redirects, which is not followed; give the final URL")
    text = body[:4096].decode("utf-8", "replace")
    if status == 402 or (status in (401, 403, 429) and _QUOTA.search(text) and not _per_minute(text)):
        return Fault("quota", name, f"{detail} (the quota is used up, which no other key or wait of minutes will change)")
    if status in (400, 403) and _THROTTLED.search(text):
        return Fault("busy", "429", detail, wait=retry_after(headers))
    if status == 413:
        return Fault("size", name, detail)
    if status in (400, 422):
        cap = _CAP.search(text)
        return Fault("size" if cap else "rejected", name, detail, cap=int(cap[1]) if cap else None)
    if status in (429, 503):
        return Fault("busy", name, detail, wait=retry_after(headers))
    if status in (408, 502, 504):
        return Fault("busy" if status == 504 else "transport", name, detail, wait=retry_after(headers))
    if status in _SETTINGS_HINT:
        return Fault("settings", name, f"{detail} ({_SETTINGS_HINT[status]})")
    if status >= 500:
        return Fault("server", name, detail)
    return Fault("settings", name, detail)


def _per_minute(text: str) -> bool:
    """Whether a quota is one that comes back by itself within minutes."""
    return bool(re.search(r"(?i)per.?(minute|second)|/(min|s|sec)\b|requests? per", text))


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (whole or decimal seconds, or an HTTP date).

    >>> retry_after({"retry-after": "1.5"}), retry_after({"retry-after-ms": "250"}), retry_after({"retry-after": "soon"})
    (1.5, 0.25, None)
    """
    found = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0), ("ratelimit-reset", 1.0)):
        try:
            seconds = float(found[name]) * unit
        except (KeyError, ValueError):
            continue
        return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(found["retry-after"])
        return min(max(date.timestamp() - (time.time() if now is None else now), 0.0), LONGEST_WAIT)
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None


def excerpt(body: bytes, secrets: Iterable[str] = (), most: int = 160) -> str:
    """A line of an error body for a person: its message only, without secrets, paths, traces or echoed rows.

    >>> excerpt(b'{"error": "bad row [0.25, 0.5, 0.125] in /srv/model.py"}')
    'bad row [numbers] in [path]'
    """
    text = body[:65536].decode("utf-8", "replace")
    text = _message(text)
    text = masked(text, secrets)[:MOST_READ]  # the patterns below take a time that grows with the square of the length
    text = re.sub(r"(?i)(bearer|basic)\s+[\w.~+/=-]+", r"\1 [secret]", text)
    text = re.sub(
        r"(?i)\b((?:api|access)[-_ ]?(?:key|token)|password|secret)(\"?\s*[:=]\s*\"?)[^\s\",;]+", r"\1\2[secret]", text
    )
    text = re.sub(
        r"\b(?:sk|pk|key|tok|token|gh[a-z]|xox[a-z])[-_][\w-]{6,}|\beyJ[\w.-]{10,}|\b[A-Za-z0-9]{32,}\b", "[secret]", text
    )
    text = text.split("Traceback (most recent call last)")[0]
    text = re.sub(
        r"(?<!\d)\[?-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s*,\s*\[?-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?\]?){2,}\]?",
        "[numbers]",
        text,
    )
    text = re.sub(r"(?<![\w<:/])(?:[A-Za-z]:\\|/)[\w.@-]+(?:[/\\][\w.@-]+)+", "[path]", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def masked(text: str, secrets: Iterable[str]) -> str:
    """Without the secrets in it; one of a few characters would be found in any text.

    >>> masked("no such key: hunter2", ["hunter2"])
    'no such key: [secret]'
    """
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, MASK)
    return text


def _message(text: str) -> str:
    """The part that says something: a JSON body's message, an HTML page's title, else the text."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        title = re.search(r"(?is)<title>(.{0,300}?)</title>", text)
        return title[1] if title else re.sub(r"(?s)<[^>]{0,200}>", " ", text)
    for _ in range(3):
        if not isinstance(found, dict):
            break
        found = next((found[k] for k in ("error", "message", "detail", "error_code", "reason") if found.get(k)), "")
    return found if isinstance(found, str) else json.dumps(found)[:2000]
