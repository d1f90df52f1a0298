"""Passes of a run over its inputs: what is finished is kept at once, and what a server did not answer is asked once more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from fimaudit.engines.work import Engine, Work
from fimaudit.errors import ModelFailure
from fimaudit.models.leases import Ledger
from fimaudit.models.meter import Meter
from fimaudit.results import UNANSWERED, MeasuredInput
from fimaudit.runs.drift import Sentinels
from fimaudit.runs.task import Task
from fimaudit.storage.journal import Journal
from fimaudit.storage.parts import Part, unpack
from fimaudit.storage.result_store import ResultStore
from fimaudit.whitebox.inputs import BY_DERIVATIVES

__all__ = ["InputPasses", "Progress"]

#: Called with (rows done, rows expected, inputs done, inputs).
Progress = Callable[[int, int, int, int], None]


class InputPasses:
    """Sends inputs through an engine and keeps what comes back.

    Args:
        engine: where inputs are measured.
        task: what is measured.
        meter: counts what this process asks.
        store: takes finished inputs.
        sentinels: of an endpoint, asked again between inputs; ``None`` else.
        journal: of the run folder, or ``None``.
        shared: counts what workers in other processes ask; ``None`` without them.
        progress: called as rows are answered.
        most_failures: stop when more inputs than this have failed; ``None`` goes on.

    Attributes:
        unanswered: inputs that the server did not answer, with its reason.
        without_derivatives: inputs at which derivatives say nothing of the answers, with the reason, where these are
            measured from probabilities later; ``None`` where a reason is their result.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        meter: Meter,
        store: ResultStore,
        sentinels: Sentinels | None,
        journal: Journal | None,
        *,
        shared: Ledger | None,
        progress: Progress | None,
        most_failures: int | None,
    ) -> None:
        self._engine, self._task, self._meter, self._store = engine, task, meter, store
        self._sentinels, self._journal, self._shared = sentinels, journal, shared
        self._progress, self._most_failures = progress, most_failures
        self._expected: int | None = None
        self.unanswered: dict[int, str] = {}
        self.without_derivatives: dict[int, str] | None = None

    def measure(self, missing: NDArray[np.int64], work: Work) -> None:
        """One pass over some inputs, and once more over those that the server did not answer.

        Raises:
            BudgetExhausted, ModelFailure: no more can be measured; what was finished is kept.
        """
        self._pass(missing, work)
        again = np.array(sorted(set(self.unanswered) & set(missing.tolist())), dtype=np.int64)
        if len(again):
            logging.getLogger("fimaudit").info("asking %d inputs again that the server did not answer", len(again))
            for index in again.tolist():
                del self.unanswered[index]
            self._pass(again, work)

    def keep(self, item: MeasuredInput | Part) -> None:
        """Keep what is finished; what the server did not answer is not, nor what derivatives say nothing of."""
        for found in self._answered(item):
            if self.without_derivatives is None:
                self._store.add(found)
                continue
            for outcome in unpack(found) if isinstance(found, Part) else (found,):
                if outcome.result.method == BY_DERIVATIVES:
                    self.without_derivatives[outcome.result.index] = str(outcome.result.reason)
                else:
                    self._store.add(outcome)
        self.count_workers()
        self.report_progress()

    def count_workers(self) -> None:
        """Take over what the workers of another engine have asked."""
        if self._shared is not None:
            self._meter.usage = self._shared.usage()
            if self._journal is not None:
                self._journal.count_all(self._meter.usage)

    def report_progress(self) -> None:
        """Tell whoever waits how far the run is."""
        if self._progress is not None:
            inputs, done, rows = len(self._task.source), self._store.count, self._meter.usage.rows
            expected = self._expected or inputs * self._task.settings.queries
            if self._task.settings.adaptive and done:  # what they took so far says more than the most they may take
                expected = min(expected, inputs * -(-rows // done))
            self._progress(rows, expected, done, inputs)

    def warnings(self) -> list[str]:
        """Which inputs are missing because the server did not answer them."""
        if not self.unanswered:
            return []
        named = ", ".join(map(str, sorted(self.unanswered)[:20])) + (", ..." if len(self.unanswered) > 20 else "")
        first = next(iter(self.unanswered.values()))
        return [
            f"{len(self.unanswered)} inputs are missing because the server did not answer them: {named} ({first}); "
            "--resume asks them again"
        ]

    def check_same_model(self) -> None:
        """Before a resumed run sends a row to be measured: whether the model still answers that it began with.

        Raises:
            ModelFailure: another one does.
        """
        resuming = self._journal is not None and self._journal.resuming
        if self._sentinels is None or not resuming or self._store.done.all():
            return
        drift = self._sentinels.check(self._done())
        if drift is not None and drift.kind != "intermittent":
            raise ModelFailure(drift.sentence())

    def _pass(self, missing: NDArray[np.int64], work: Work) -> None:
        self._check_failures()
        self._expected = self._meter.usage.rows + len(missing) * work.settings.queries
        try:
            with closing(self._engine.run(missing, work)) as items:
                for item in items:
                    self.keep(item)
                    self._check_failures()
                    if self._sentinels is not None and self._sentinels.due():
                        self._check_sentinels(self._sentinels)
        finally:
            self.count_workers()  # what ends a run is rows that came to no result
        if self._sentinels is not None and (len(missing) or self._sentinels.has_unchecked(self._done())):
            self._check_sentinels(self._sentinels)

    def _answered(self, item: MeasuredInput | Part) -> Sequence[MeasuredInput | Part]:
        if isinstance(item, Part) and not item.failed:
            return [item]
        outcomes = list(unpack(item)) if isinstance(item, Part) else [item]
        missing = {o.result.index: o.result.reason or "" for o in outcomes if UNANSWERED in o.result.flags}
        if not missing:
            return [item]
        self.unanswered |= missing
        return [outcome for outcome in outcomes if outcome.result.index not in missing]

    def _check_failures(self) -> None:
        most, failed = self._most_failures, self._store.failed + len(self.unanswered)
        if most is not None and failed > most:
            raise ModelFailure(
                f"{failed} inputs failed, more than the {most} that --max-failures allows; "
                "see their reasons, then go on with --resume and a larger --max-failures"
            )

    def _check_sentinels(self, sentinels: Sentinels) -> None:
        self._store.flush()
        sentinels.check(self._done())

    def _done(self) -> list[int]:
        done: list[int] = np.flatnonzero(self._store.done).tolist()
        return done
