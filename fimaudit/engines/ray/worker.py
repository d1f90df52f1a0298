"""A worker: one process with one open model, which measures pieces of a run and hands each back as a packed part."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.util import metrics

from fimaudit.engines.ray.coordinator import SharedLedger
from fimaudit.engines.work import Work, measure_inputs
from fimaudit.errors import BudgetExhausted, FimauditError, ModelFailure, UsageError
from fimaudit.errors.option_names import flags_in_messages
from fimaudit.models.classifier import NetworkClassifier
from fimaudit.models.leases import Usage
from fimaudit.models.meter import Meter
from fimaudit.models.shipping import ShippedModel
from fimaudit.results import MeasuredInput, Sensitivity
from fimaudit.storage.parts import pack

__all__ = ["Pass", "Worker", "share_turns"]

log = logging.getLogger("fimaudit.worker")


@dataclass(frozen=True)
class Pass:
    """One pass as it lies in the object store.

    Attributes:
        work: what is measured and how.
        indices: all inputs of the pass.
        cuts: piece k is ``indices[cuts[k] : cuts[k + 1]]``.
        batch: rows a call, or ``None``.
        workers: how many share an endpoint's requests in flight.
        shared: whether each call is counted, and its answers kept, beside the driver.
        flags: whether messages name flags, which a process of its own does not know.
    """

    work: Work
    indices: NDArray[np.int64]
    cuts: NDArray[np.int64]
    batch: int | None
    workers: int
    shared: bool
    flags: bool


class Worker:
    """What Ray Data runs: constructed once an actor, called with a batch of one row, the number of a piece.

    Args:
        held: handles of the ``ShippedModel`` and of the ``Pass``.
        coordinator: the actor that the workers share.
    """

    def __init__(self, held: list[Any], coordinator: Any) -> None:
        self._coordinator = coordinator
        self._model: ShippedModel = ray.get(held[0])
        self._pass: Pass = ray.get(held[1])
        self._meter: Meter | None = None
        self._shared = False
        self._where = socket.gethostname()
        context = ray.get_runtime_context()
        coordinator.register.remote(context.get_actor_id(), context.current_actor, context.get_node_id())
        tags = {"node": self._where}
        self._rows = metrics.Counter("fimaudit_rows", "Rows that the model answered", ("node",)).set_default_tags(tags)
        self._inputs = metrics.Counter("fimaudit_inputs", "Inputs measured", ("node",)).set_default_tags(tags)
        self._speed = metrics.Gauge("fimaudit_rows_per_second", "Over the last piece", ("node",)).set_default_tags(tags)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        """Measure one piece; what stops the run is part of the answer, so that the inputs before it are not lost."""
        with flags_in_messages(self._pass.flags):
            return self._measured(batch)

    def _measured(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        piece = int(batch["piece"][0])
        before = int(ray.get(self._coordinator.begin.remote("piece", piece)))
        asked = self._usage()
        outcomes: list[MeasuredInput] = []
        stop: tuple[str, str] | None = None
        started = time.perf_counter()
        if before >= 0:
            try:
                for outcome in self._outcomes(piece, careful=before > 0):
                    outcomes.append(outcome)
                    if outcome.result.status == "failed":
                        log.warning("input %d failed: %s", outcome.result.index, outcome.result.reason)
            except BudgetExhausted as exc:
                stop = ("budget", str(exc))
            except UsageError as exc:
                stop = ("usage", str(exc))
            except Exception as exc:
                log.exception("piece %d", piece)
                message = str(exc) if isinstance(exc, FimauditError) else f"{type(exc).__name__}: {exc}"
                stop = ("failure", f"a worker on {self._where} failed: {message}; go on with --resume")
        seconds = time.perf_counter() - started
        part = pack(outcomes)
        if outcomes:
            self._rows.inc(max(part.rows, 1))
            self._inputs.inc(len(outcomes))
            self._speed.set(part.rows / max(seconds, 1e-9))
        if not self._shared:
            now = self._usage()
            ray.get(self._coordinator.count.remote(now.rows - asked.rows, now.requests - asked.requests))
        ray.get(self._coordinator.finish.remote("piece", piece))
        kind, message = stop or ("", "")
        cells = {
            "piece": piece, "data": part.data, "index": part.index.tobytes(), "states": part.states.tobytes(),
            "rows": part.rows, "requests": part.requests, "seconds": seconds, "stop": kind, "message": message,
            "where": self._where,
        }  # fmt: skip
        return pa.table({name: [value] for name, value in cells.items()})

    def _outcomes(self, piece: int, *, careful: bool) -> Iterator[MeasuredInput]:
        meter, given = self._opened(), self._pass
        indices = given.indices[given.cuts[piece] : given.cuts[piece + 1]].tolist()
        if not careful:
            yield from measure_inputs(indices, given.work, meter)
            return
        # A process that held this piece died, perhaps of one of its inputs: find out which, and leave only that one out.
        size, work = given.work.block(meter.model), replace(given.work, decoys={})  # perhaps it died of a decoy
        for block, members in groupby(indices, key=lambda index: index // size):
            if ray.get(self._coordinator.begin.remote("block", block)) == 0:
                yield from measure_inputs(members, work, meter)
                ray.get(self._coordinator.finish.remote("block", block))
                continue
            for index in members:
                if ray.get(self._coordinator.begin.remote("input", index)) == 0:
                    yield from measure_inputs([index], work, meter)
                    ray.get(self._coordinator.finish.remote("input", index))
                else:
                    why = "each process that measured this input died on it; look for a crash or too little memory there"
                    yield MeasuredInput(Sensitivity(index=index, status="failed", method="none", reason=why), 0, 0)

    def _usage(self) -> Usage:
        """What was asked so far, before a piece by all processes together where they count together."""
        if self._meter is None:
            return Usage()
        if self._shared:
            self._meter.usage = self._book().usage()
        return replace(self._meter.usage)

    def _book(self) -> SharedLedger:
        return SharedLedger(self._coordinator, ray.get, keeps=self._pass.shared)

    def _opened(self) -> Meter:
        if self._meter is None:
            try:
                classifier = self._model.open(ray.get)
            except UsageError as exc:
                raise UsageError(f"a worker on {self._where} cannot open the model: {exc}") from exc
            network = isinstance(classifier, NetworkClassifier)
            if network:
                share_turns(classifier, self._coordinator, self._pass.workers + 1)
            self._shared = self._pass.shared
            book = self._book()
            self._meter = Meter(classifier, batch=self._pass.batch, ledger=book if self._shared else None, notes=book)
        return self._meter


def share_turns(classifier: Any, coordinator: Any, workers: int) -> None:
    """Let an endpoint's sends take turns with those of the other workers, and share the requests in flight."""
    if not hasattr(classifier, "share"):
        raise ModelFailure(f"the {classifier.info.adapter} adapter cannot share a rate between workers; use --engine local")
    classifier.share(
        lambda: ray.get(coordinator.turn.remote()), lambda seconds: ray.get(coordinator.pause.remote(seconds)), workers
    )
