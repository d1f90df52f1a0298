"""One row sent once, with all that was said and read on the way: where a mistake in an endpoint file shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError
from fimaudit.models.classifier import Options
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.calibration import wire_for
from fimaudit_adapters.http.credential_settings import header_looks_secret
from fimaudit_adapters.http.discovery import Discovered, discover
from fimaudit_adapters.http.endpoint_file import read_endpoint
from fimaudit_adapters.http.protocols.base import Body, Scores, WireFormat
from fimaudit_adapters.http.protocols.json_document import JsonDocument
from fimaudit_adapters.http.sending.event_loop import Loop
from fimaudit_adapters.http.sending.faults import MASK, Fault, masked
from fimaudit_adapters.http.sending.sender import Sender
from fimaudit_adapters.http.sending.transport import Transport
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["RowTrial", "try_endpoint"]

#: Characters of a body that are shown.
SHOWN = 600


@dataclass
class RowTrial:
    """What was sent, what came, and how it was read; secrets are masked.

    Attributes:
        request: method and URL.
        headers: of the request.
        sent: its body, the beginning.
        came: the answer's body, the beginning.
        steps: what each path of the endpoint file gave.
        answer: the answer as labels with scores or as numbers.
        probabilities: of the row, by class.
        error: why there are none.
        failure: the same as an error.
    """

    request: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: str = ""
    came: str = ""
    steps: Mapping[str, Any] = field(default_factory=dict)
    answer: Any = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    failure: FimauditError | None = None


def try_endpoint(target: str, options: Options, row: NDArray[Any]) -> RowTrial:
    """Send (1, \\*shape) once; a refusal or an answer that cannot be read is part of the result.

    Raises:
        TargetError: the settings contradict themselves, or nothing answers there.
    """
    endpoint = read_endpoint(target, options)
    loop = Loop()
    try:
        return loop.run(_tried(endpoint, options, row))
    finally:
        loop.close()


async def _tried(endpoint: Endpoint, options: Options, row: NDArray[Any]) -> RowTrial:
    transport = Transport(endpoint)
    try:
        found = await discover(endpoint, transport)
        endpoint = found.endpoint.with_table(options.table)
        wire = wire_for(endpoint, found.url, binary=endpoint.binary is True)
        body = wire.encode(np.ascontiguousarray(row, dtype=endpoint.dtype))
        trial = RowTrial()
        await _show_request(trial, transport, found, body)
        try:
            reply = await Sender(endpoint, "", transport).replied(found.url, body, endpoint.timeout)
        except Fault as fault:
            trial.error = fault.detail
            return trial
        trial.came = _shown(reply.content, transport.secrets)
        _read(trial, wire, endpoint, options, reply)
        return trial
    finally:
        await transport.close()


async def _show_request(trial: RowTrial, transport: Transport, found: Discovered, body: Body) -> None:
    request: httpx.Request = await transport.prepared(found.url, body)
    secrets = transport.secrets
    trial.request = f"{request.method} {masked(str(request.url), secrets)}"
    trial.headers = {
        name: MASK if header_looks_secret(name) else masked(value, secrets) for name, value in request.headers.items()
    }
    trial.sent = _shown(body.content, secrets)


def _read(trial: RowTrial, wire: WireFormat, endpoint: Endpoint, options: Options, reply: Any) -> None:
    reader = AnswerReader.of(endpoint, options.link)
    try:
        if isinstance(wire, JsonDocument):
            trial.steps = wire.shape.steps(reply.content, 1)
        answer = wire.decode(reply, 1)
        trial.answer = dict(answer.rows[0]) if isinstance(answer, Scores) else np.asarray(answer.values).tolist()
        values = reader.probabilities(answer, 1)[0]
        names = reader.columns or tuple(map(str, range(len(values))))
        trial.probabilities = {name: float(p) for name, p in zip(names, values, strict=True) if name}
    except FimauditError as exc:
        trial.error, trial.failure = str(exc), exc


def _shown(content: bytes, secrets: tuple[str, ...]) -> str:
    """The beginning of a body: text as it is, anything else by its size."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return f"({len(content):,} bytes that are no text)"
    text = "".join(c if c.isprintable() or c == "\n" else "�" for c in masked(text, secrets))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(content):,} bytes)"


def as_facts(trial: RowTrial) -> dict[str, Any]:
    """For JSON."""
    return {name: value for name, value in dataclasses.asdict(trial).items() if name != "failure"}
