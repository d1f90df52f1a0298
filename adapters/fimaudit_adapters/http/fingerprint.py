"""What ties a ledger to its endpoint: the settings that shape the question or the reading of its answer."""

from __future__ import annotations

import hashlib
import json

from fimaudit_adapters.http.settings import Endpoint

__all__ = ["fingerprint"]

#: Settings that change neither the question nor the answer: they stay out of the fingerprint, so that a run can be
#: resumed with another rate, deadline or credential.
_TRANSPORT = {
    "header_env", "header_file", "bearer_env", "bearer_file", "auth", "basic", "body_env", "oauth", "aws", "google",
    "url_query_env", "client_cert", "client_key", "ca_file", "trust_env", "rate", "concurrency", "timeout", "deadline",
    "attempts", "patience", "max_response", "batch",
}  # fmt: skip
#: Settings that came after fingerprints were first kept: they enter only where they are set, so that old runs resume.
_LATER = {
    "method", "body", "constants", "numbers", "answer", "label", "score", "names", "columnar", "total", "scale",
    "audit_label", "other_labels", "hidden_below", "poll", "url_query", "failed", "separator",
}  # fmt: skip


def fingerprint(endpoint: Endpoint, link: str) -> str:
    """SHA-256 of everything that shapes the question or the reading of its answer; no secret goes in."""
    unset = {
        name
        for name in _LATER
        if getattr(endpoint, name) == Endpoint.model_fields[name].get_default(call_default_factory=True)
    }
    dumped = endpoint.model_dump(mode="json")
    shaping = {name: value for name, value in dumped.items() if name not in _TRANSPORT and name not in unset}
    shaping |= (
        {"cells": cells} if (cells := [[c.name, list(map(str, c.values))] for c, _ in endpoint.table if c.coded]) else {}
    )
    text = json.dumps({"link": link, **shaping}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
