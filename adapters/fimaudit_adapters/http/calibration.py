"""What is learned from the first answers, then fixed for the run: encoding, batch size, labels, rounding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, LinkError, OutputError, TargetError
from fimaudit.models.classifier import Lease
from fimaudit.number_format import output_resolution
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.protocols.base import Answer, Scores, WireFormat
from fimaudit_adapters.http.protocols.encoding import BareBody
from fimaudit_adapters.http.protocols.json_document import JsonDocument
from fimaudit_adapters.http.protocols.label_scores import LabelScores
from fimaudit_adapters.http.protocols.mlflow import MLflow
from fimaudit_adapters.http.protocols.open_inference import OpenInference
from fimaudit_adapters.http.protocols.readings import AdjustedAnswers
from fimaudit_adapters.http.protocols.tensorflow_serving import TensorFlowServing
from fimaudit_adapters.http.sending.batch import RESUME
from fimaudit_adapters.http.sending.faults import Fault
from fimaudit_adapters.http.sending.sender import GivenUp, Sender
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["Calibrator", "Learned", "wire_for"]

#: Note of the labels in the first answer: kept before that answer is, which can then be recalled and read at any time.
SEEN = "http labels seen"

#: Rows a request to begin with, as long as they fit so many bytes.
FIRST_BATCH = 100
FIRST_BATCH_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Learned:
    """Facts about the endpoint, plain values for the ledger and the report.

    Attributes:
        binary: whether binary tensors are used.
        batch: rows a request; ``tested`` of them are known to pass.
        labels: the columns' names, where answers carry labels.
        top_k: most labels an answer shows, where it hides some; the last column is then the rest.
        resolution: quantum of the answers, 0 where they are not rounded.
    """

    binary: bool
    batch: int
    tested: int
    labels: tuple[str, ...] | None
    top_k: int | None
    resolution: float


class Calibrator:
    """Asks one row, then lets the first full batch find the size that the endpoint takes."""

    def __init__(self, endpoint: Endpoint, url: str, sender: Sender, reader: AnswerReader) -> None:
        self._endpoint, self._url, self._sender, self._reader = endpoint, url, sender, reader
        self._resolution = 0.0

    async def first_row(self, rows: NDArray[Any], lease: Lease) -> tuple[WireFormat, Learned]:
        """Negotiate the encoding on one row; where that row cannot be answered, on one from the middle or the end.

        Raises:
            UsageError: the endpoint is asked wrongly, or answers with no distribution.
            ModelFailure: the endpoint fails.
        """
        failure: FimauditError | None = None
        for place in sorted({0, len(rows) // 2, len(rows) - 1}):
            try:
                wire = await self._negotiated(rows[place : place + 1], lease)
                break
            except GivenUp as exc:
                failure = failure or _translated(exc)
                if not _may_be_a_row(exc.fault):
                    raise failure from exc
        else:
            assert failure is not None
            raise failure
        row_bytes = len(wire.encode(rows[:1]).content)
        batch = self._endpoint.batch or max(1, min(FIRST_BATCH, FIRST_BATCH_BYTES // max(1, row_bytes)))
        return wire, self._found(wire, min(batch, wire.most_rows or batch), 1)

    async def batch_size(self, wire: WireFormat, rows: NDArray[Any], most: int, learned: Learned, lease: Lease) -> Learned:
        """Send the first full batch; halve it while the endpoint refuses its size. The answer is kept for the run.

        Args:
            wire, learned: as far as they are known.
            rows: of which the first ``most`` may stand in one request.
            most: see ``rows``.
            lease: counts and recalls.
        """
        size = min(learned.batch, most)
        batch = learned.batch
        while True:
            try:
                await self._once(wire, rows[:size], lease)
                break
            except GivenUp as exc:
                fault = exc.fault
                if fault.kind != "size" and not _may_be_a_row(fault):
                    raise _translated(exc) from exc
                # It may be a row that cannot be answered rather than the size: others of the same number will tell.
                if _may_be_a_row(fault) and await self._passes(wire, rows[size : 2 * size], size, lease):
                    break
                if size <= max(1, learned.tested):
                    raise _translated(exc) from exc
                size = max(1, min(fault.cap, size - 1) if fault.cap is not None else size // 2)
                batch = size
        return self._found(wire, batch, max(size, learned.tested))

    async def _negotiated(self, row: NDArray[Any], lease: Lease) -> WireFormat:
        wire = wire_for(self._endpoint, self._url, binary=self._endpoint.binary is not False)
        try:
            await self._once(wire, row, lease)
        except GivenUp as exc:
            tried_binary = isinstance(wire, OpenInference) and wire.binary and self._endpoint.binary is None
            if not tried_binary or exc.fault.kind not in ("rejected", "server", "answer", "settings") or _final(exc.fault):
                raise
            wire = wire_for(self._endpoint, self._url, binary=False)
            await self._once(wire, row, lease)
        return wire

    async def _passes(self, wire: WireFormat, rows: NDArray[Any], size: int, lease: Lease) -> bool:
        if len(rows) < size:
            return False
        try:
            await self._once(wire, rows, lease)
        except GivenUp:
            return False
        return True

    async def _once(self, wire: WireFormat, rows: NDArray[Any], lease: Lease) -> None:
        seen = lease.note(SEEN)
        if seen is not None and self._reader.labels is None:
            self._reader.restore(seen["labels"], seen["top_k"])

        def learn(answer: Answer, count: int) -> NDArray[np.float64]:
            probabilities = self._learn(answer, count)
            if self._reader.labels is not None:
                lease.remember(SEEN, {"labels": list(self._reader.labels), "top_k": self._reader.top_k})
            return probabilities

        answers = await self._sender.once(wire, rows, lease, learn)
        self._resolution = self._resolution or output_resolution(answers)

    def _found(self, wire: WireFormat, batch: int, tested: int) -> Learned:
        binary = isinstance(wire, OpenInference) and wire.binary
        return Learned(binary, batch, tested, self._reader.labels, self._reader.top_k, self._resolution)

    def _learn(self, answer: Answer, rows: int) -> NDArray[np.float64]:
        self._reader.learn(answer)
        probabilities = self._reader.probabilities(answer, rows)
        if self._endpoint.kind == "labels":
            return probabilities
        if isinstance(answer, Scores):
            self._resolution = output_resolution(np.array([v for row in answer.rows for v in row.values()]))
        elif self._endpoint.kind in (None, "probs") and answer.values.dtype.kind == "f":
            self._resolution = output_resolution(answer.values)
        return probabilities


def wire_for(endpoint: Endpoint, url: str, *, binary: bool) -> WireFormat:
    """The wire format of the endpoint's protocol."""
    if endpoint.protocol == "open_inference":
        wire: WireFormat = OpenInference(endpoint, url, binary=binary)
    elif endpoint.protocol == "tensorflow_serving":
        wire = TensorFlowServing(endpoint, url)
    elif endpoint.protocol == "mlflow":
        wire = MLflow(endpoint, url)
    elif endpoint.protocol == "label_scores":
        wire = LabelScores(endpoint, url)
    else:
        wire = JsonDocument(endpoint, url)
    if endpoint.protocol != "json" and endpoint.adjusts_answers and not isinstance(wire, OpenInference):
        wire = AdjustedAnswers(wire, endpoint)
    bare = endpoint.image in ("png", "raw") and endpoint.protocol != "json"
    return BareBody(wire, endpoint) if bare else wire


def as_note(learned: Learned) -> dict[str, Any]:
    """For the ledger."""
    return asdict(learned)


def from_note(note: dict[str, Any]) -> Learned:
    """From the ledger."""
    labels = note.get("labels")
    return Learned(**{**note, "labels": tuple(labels) if labels is not None else None})


def _may_be_a_row(fault: Fault) -> bool:
    """Whether a row that nobody can answer may be the reason."""
    return fault.kind in ("rejected", "server") or fault.status in ("503", "unreadable")


def _final(fault: Fault) -> bool:
    return fault.status in ("401", "403", "404", "407", "tls", "url") or fault.status.startswith("3")


def _translated(exc: GivenUp) -> FimauditError:
    """What went wrong before the measurement: wrong use where the user can put it right, else the endpoint's failure."""
    fault, cause = exc.fault, exc.fault.__cause__
    if fault.unreadable:
        return exc
    if isinstance(cause, LinkError | OutputError):
        return type(cause)(f"{cause} ({str(exc).partition(' was given up')[0]})")
    said = str(exc).removesuffix(f"; {RESUME}")
    if fault.kind == "settings" or not fault.connected:
        return TargetError(said)
    return OutputError(said) if fault.kind in ("rejected", "size") else exc
