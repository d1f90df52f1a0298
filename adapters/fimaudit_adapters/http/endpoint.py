"""An endpoint as a classifier: synchronous to the core, asynchronous inside."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import ModelFailure, UsageError
from fimaudit.models.classifier import Lease, ModelInfo, Options
from fimaudit.models.leases import CountingLease
from fimaudit.models.links import Link
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.calibration import Calibrator, Learned, as_note, from_note, wire_for
from fimaudit_adapters.http.discovery import Discovered, discover
from fimaudit_adapters.http.endpoint_file import read_endpoint
from fimaudit_adapters.http.fingerprint import fingerprint
from fimaudit_adapters.http.protocols.base import WireFormat
from fimaudit_adapters.http.protocols.encoding import BareBody
from fimaudit_adapters.http.sending.event_loop import Loop
from fimaudit_adapters.http.sending.sender import Sender
from fimaudit_adapters.http.sending.transport import Transport
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["EndpointClassifier", "open_endpoint"]

NOTE = "http preflight"
LABELS = "http labels"
#: Protocols whose rows may hold text, truth values and gaps.
SENDS_CELLS = ("json", "mlflow")


def open_endpoint(target: str, options: Options) -> EndpointClassifier:
    """Open a URL or an endpoint file; asks for metadata, sends no row."""
    endpoint = read_endpoint(target, options)
    loop = Loop()
    try:
        transport, found = loop.run(_connect(endpoint))
    except BaseException:
        loop.close()
        raise
    found = dataclasses.replace(found, endpoint=found.endpoint.with_table(options.table))
    return EndpointClassifier(found, transport, loop, options.link)


async def _connect(endpoint: Endpoint) -> tuple[Transport, Discovered]:
    transport = Transport(endpoint)
    try:
        return transport, await discover(endpoint, transport)
    except BaseException:
        await transport.close()
        raise


class EndpointClassifier:
    """A deployed model behind HTTP. The first question carries the preflight; ``info`` holds more after it."""

    def __init__(self, found: Discovered, transport: Transport, loop: Loop, link: Link) -> None:
        self.endpoint = found.endpoint
        link = "labels" if found.endpoint.kind == "labels" else link
        self._labels_only = link == "labels"
        self.fingerprint = fingerprint(found.endpoint.model_copy(update={"url": found.url}), link)
        self._found, self._transport, self._loop = found, transport, loop
        self._sender = Sender(found.endpoint, self.fingerprint, transport)
        self._reader = AnswerReader.of(found.endpoint, link)
        self._preflight = Calibrator(found.endpoint, found.url, self._sender, self._reader)
        self._learned: Learned | None = None
        self._wire: WireFormat | None = None
        self._classes = found.classes
        self._asking = threading.Lock()
        self._open = True

    @property
    def info(self) -> ModelInfo:
        """What is known so far; batch, labels and rounding after the first question."""
        endpoint, learned = self.endpoint, self._learned
        details: dict[str, Any] = {
            "protocol": endpoint.protocol, "url": self._found.url, "model": endpoint.model_name, "output": endpoint.output,
            "fingerprint": self.fingerprint, "kind": endpoint.kind, "audit_label": endpoint.audit_label,
        }  # fmt: skip
        if endpoint.image is not None:
            quantum = 1.0 if endpoint.pixel_max == 255 else 1.0 / 255.0
            details["domain"] = {"lower": 0.0, "upper": float(endpoint.pixel_max), "quantum": quantum}
        if learned is not None:
            details.update(dataclasses.asdict(learned))
            columns = self._reader.columns
            details["labels"] = None if columns is None else list(columns)
        if self._labels_only:
            details.update(self._reader.label_texts.facts())
        return ModelInfo(
            name=endpoint.model_name or self._found.url,
            adapter="http",
            input_shape=self._found.input_shape,
            dtype=endpoint.dtype or "float64",
            classes=self._classes,
            device=self._found.url.split("/")[2],
            preferred_batch=learned.batch if learned is not None else endpoint.batch,
            details=details,
            notes=self._notes(),
            labels_only=self._labels_only,
            class_names=self._class_names() if endpoint.audit_label is None else self._names_of_finding(),
            feature_names=endpoint.columns and tuple(endpoint.columns),
            takes_columns=bool(endpoint.table) and endpoint.protocol in SENDS_CELLS,
        )

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs without a budget or a ledger; every row is sent anew."""
        return self.ask(batch, CountingLease())

    def ask(
        self, batch: NDArray[Any], lease: Lease, sizes: Sequence[int] = (), again: Sequence[int] = ()
    ) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs under ``lease``; the first call runs the preflight.

        Args:
            batch: the inputs.
            lease: counts and recalls.
            sizes: rows of each part of the batch; no request holds rows of two parts.
            again: a number for each part, which tells questions that are repeated on purpose apart.

        Raises:
            UsageError: in the preflight: the endpoint is asked wrongly or answers with no distribution.
            BudgetExhausted: the lease allows no more rows.
            RowsFailed: some rows could not be answered; the others' answers are in it.
            ModelFailure: the endpoint failed throughout.
        """
        rows = np.ascontiguousarray(batch, dtype=self.endpoint.dtype)
        with self._asking:
            if not self._open:
                raise ModelFailure("the endpoint was closed; open it again")
            answers = self._loop.run(self._ask(rows, lease, sizes or [len(rows)], again))
            if not self._labels_only:
                self._classes = answers.shape[1]
            return answers

    def share(self, turn: Callable[[], float], pause: Callable[[float], None], of: int) -> None:
        """Ask the endpoint together with other processes, within one rate and one number of requests in flight.

        Args:
            turn: takes the next place in the common rate and says how many seconds from now it is.
            pause: tells the others that the server asked for a pause.
            of: how many processes there are.
        """
        self._sender.pace.share(turn, pause, of)

    def interleave(self, seed: int) -> None:
        """Send the requests of a batch's parts in random turns, not one part after the other."""
        self._sender.turns = seed

    def restore(self, lease: Lease) -> None:
        """Take over what an earlier process of the run learned of the endpoint, also where nothing is left to ask."""
        if self._learned is None and (note := lease.note(NOTE)) is not None:
            self._learned = from_note(note)
            self._reader.restore(lease.note(LABELS) or self._learned.labels, self._learned.top_k)
            self._wire = wire_for(self.endpoint, self._found.url, binary=self._learned.binary)

    def close(self) -> None:
        """Close the connections and end the thread; may be called twice."""
        with self._asking:
            if self._open:
                self._open = False
                self._loop.run(self._transport.close())
                self._loop.close()

    def _names_of_finding(self) -> tuple[str, ...] | None:
        """What the audited finding and its complement are called; a place alone is no name."""
        return None if str(self.endpoint.audit_label).isdecimal() else self._reader.columns

    async def _ask(
        self, rows: NDArray[Any], lease: Lease, sizes: Sequence[int], again: Sequence[int]
    ) -> NDArray[np.float64]:
        measuring = self._learned is not None
        # Before any answer that uses a new label's column is committed, the column is.
        self._reader.on_growth = lambda labels: lease.remember(LABELS, list(labels))
        try:
            wire, learned = await self._prepared(_largest_first(rows, sizes), max(sizes), lease)
            measuring = True
            return await self._sender.send(wire, self._reader, rows, learned.batch, lease, sizes, again)
        except UsageError as exc:
            if not measuring:
                raise
            raise ModelFailure(f"{exc}; found after the measurement had started") from exc

    async def _prepared(self, rows: NDArray[Any], most: int, lease: Lease) -> tuple[WireFormat, Learned]:
        """Wire format and, up to ``most`` rows, batch size: from the ledger of the run that is resumed, or learned now."""
        self.restore(lease)
        learned, wire = self._learned, self._wire
        if learned is None or wire is None:
            wire, learned = await self._preflight.first_row(rows, lease)
        if learned.tested < min(learned.batch, most):
            learned = await self._preflight.batch_size(wire, rows, most, learned, lease)
        if learned != self._learned:
            lease.remember(NOTE, as_note(learned))
        self._learned, self._wire = learned, wire
        return wire, learned

    def _class_names(self) -> tuple[str, ...] | None:
        """The labels of the columns, said by the user or learned; of top-k answers those that were seen."""
        if self._learned is not None and (columns := self._reader.columns) is not None:
            return columns if "" not in columns else self._reader.labels
        return self.endpoint.class_names

    def _notes(self) -> tuple[str, ...]:
        notes, learned = list(self._found.notes), self._learned
        if self._found.url.lower().startswith("http://") and self._found.url.split("/")[2].rsplit(":", 1)[0] not in _LOCAL:
            notes.append("the endpoint is asked over plain HTTP: inputs, answers and credentials travel in the clear")
        if self._sender.outages.seconds:
            count, seconds = len(self._sender.outages.seconds), sum(self._sender.outages.seconds)
            notes.append(f"the endpoint was out {count} times, for {seconds:,.0f} s in all, which were waited out")
        if learned is None:
            return tuple(notes)
        if learned.resolution > 0:
            notes.append(f"the endpoint rounds its answers to {learned.resolution:g}")
        if learned.top_k is not None:
            notes.append(f"the endpoint shows the top {learned.top_k} labels only: every spectral norm is a lower bound")
        if self._reader.hidden:
            notes.append(
                f"{self._reader.hidden} scores carried labels beyond the columns kept for them; they count as the rest"
            )
        if self._wire is not None and self._wire.most_rows == 1:
            notes.append("rows are sent one a request" + (", as bare images" if isinstance(self._wire, BareBody) else ""))
        return tuple(notes)


_LOCAL = ("127.0.0.1", "localhost", "[::1]")


def _largest_first(rows: NDArray[Any], sizes: Sequence[int]) -> NDArray[Any]:
    """The same rows, the largest part before the others: what it teaches of the size of requests holds for all."""
    return np.roll(rows, -sum(sizes[: int(np.argmax(sizes))]), axis=0) if len(sizes) > 1 else rows
