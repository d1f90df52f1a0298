"""One run over many inputs: preflight, pilot, each input, with what an earlier process finished left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.classifier import Classifier, NetworkClassifier
from fimaudit.counterexamples import keep_witness
from fimaudit.domain import Space
from fimaudit.engines.local import Outcome, block_size, converse, run_inputs
from fimaudit.errors import BudgetExhausted, FimauditError, ModelFailure, TargetError, UsageError
from fimaudit.exact import exact_inputs
from fimaudit.journal import LEDGER, Journal, Tally
from fimaudit.ledger import RequestLedger, open_ledger
from fimaudit.measurement import measure
from fimaudit.meter import Meter, Usage
from fimaudit.pilot import Steps, choose_steps
from fimaudit.preflight import Preflight, look
from fimaudit.results import Sensitivity
from fimaudit.sentinels import Sentinels
from fimaudit.serverside import detect_preprocessing
from fimaudit.settings import Settings
from fimaudit.sources import Inputs

__all__ = ["Derivatives", "Progress", "Run", "Task"]

#: Called with (rows done, rows expected, inputs done, inputs).
Progress = Callable[[int, int, int, int], None]

#: Axes of at least this many pixels make an input an image, for which a server's own preprocessing is looked for.
IMAGE_PIXELS = 4


@dataclass(frozen=True)
class Derivatives:
    """How derivatives are used: residual at which an iteration stops, and where worst directions go."""

    tolerance: float = 1e-4
    directions: Path | None = None


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        inputs: as given, with labels and groups.
        x: (n, \\*shape) the inputs as admitted by the domain.
        space: the domain.
        settings: each input's measurement.
        exact: measure by derivatives; ``None`` from probabilities alone.
    """

    inputs: Inputs
    x: NDArray[Any]
    space: Space
    settings: Settings
    exact: Derivatives | None = None


class Run:
    """Measures a task's inputs through one meter; finished inputs go to the journal at once.

    Args:
        classifier: the model.
        task: what to measure.
        budget: most rows in all, ``None`` for no limit.
        batch: rows a call.
        journal: keeps finished inputs, and beside it an endpoint's ledger; ``None`` keeps nothing.
        progress: called as rows are answered.
    """

    def __init__(
        self,
        classifier: Classifier,
        task: Task,
        *,
        budget: int | None,
        batch: int | None,
        journal: Journal | None,
        progress: Progress | None,
    ) -> None:
        self._task, self._journal, self._progress = task, journal, progress
        self._done = dict(journal.done) if journal is not None else {}
        self._start = dict(journal.steps) if journal is not None and journal.steps else None
        network = isinstance(classifier, NetworkClassifier)
        self._ledger = _opened(classifier, journal) if network and journal is not None else None
        tally = Tally(journal) if not network and journal is not None else None
        self._meter = Meter(classifier, budget=budget, batch=batch, ledger=self._ledger or tally, on_rows=self._tell)
        self._sentinels = Sentinels(task.x.astype(task.space.dtype), self._meter) if network else None
        self._notes: list[str] = []
        self.exhausted: str | None = None

    @property
    def usage(self) -> Usage:
        """Rows and calls of the whole run, earlier processes included."""
        return self._meter.usage

    def go(self) -> tuple[list[Sensitivity], Steps | None, Preflight | None]:
        """Measure what is missing and return everything in the order of the inputs."""
        steps: Steps | None = None
        preflight: Preflight | None = None
        try:
            preflight, steps = self._begin()
            missing = self._missing()
            for outcome in self._outcomes(missing, steps):
                self._keep(outcome)
                if self._sentinels is not None and self._sentinels.due():
                    self._sentinels.check(sorted(self._done))
            if self._sentinels is not None and missing:
                self._sentinels.check(sorted(self._done))
        except BudgetExhausted as exc:
            self.exhausted = str(exc)
        except ModelFailure as exc:
            if not self._done:
                aside = self._journal.replaced if self._journal is not None else None
                raise exc if aside is None else ModelFailure(f"{exc}; the run to be replaced lies in {aside}") from exc
            self.exhausted = f"{exc}; go on with --resume"
        except UsageError:
            self.close()
            if self._journal is not None:
                self._journal.discard()
            raise
        return self._finished(), steps, preflight

    def warnings(self) -> list[str]:
        """What the user must know of the run as a whole."""
        out = list(self._notes)
        if self._sentinels is not None:
            out += [drift.sentence() for drift in self._sentinels.drifts]
        if self.exhausted is not None:
            out.append(f"{len(self._done)} of {len(self._task.x)} inputs were measured: {self.exhausted}")
        return out

    def facts(self) -> dict[str, Any]:
        """For the report: what the sentinels saw."""
        return {} if self._sentinels is None else {"sentinels": self._sentinels.facts()}

    def close(self) -> None:
        """Close the ledger; may be called twice."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _begin(self) -> tuple[Preflight, Steps | None]:
        if self._start is not None:
            if self._sentinels is not None:
                self._sentinels.begin()
            before = self._start["steps"]
            self._notes = list(self._start.get("notes", []))
            return Preflight(**self._start["preflight"]), None if before is None else Steps(**before)
        task = self._task
        preflight = look(self._meter, task.x, task.space.dtype)
        steps: Steps | None = None
        try:
            if self._sentinels is not None:
                self._notes += self._server_side(preflight)
                self._sentinels.begin()
            if task.exact is None:
                quality = preflight.quality(self._meter.model.info.details.get("top_k"))
                steps = converse(choose_steps(task.x, task.space, task.settings, quality), self._meter)
        except ModelFailure as exc:
            if self._sentinels is not None:
                raise
            raise TargetError(f"the model cannot be asked: {exc}") from exc
        if self._journal is not None:
            chosen = None if steps is None else asdict(steps)
            self._journal.keep_steps({"notes": self._notes, "preflight": asdict(preflight), "steps": chosen})
        return preflight, steps

    def _server_side(self, preflight: Preflight) -> list[str]:
        """Whether an endpoint changes images before the model sees them: the metric's space would be another one."""
        x = self._task.x
        if x.ndim < 3 or sum(n >= IMAGE_PIXELS for n in x.shape[1:]) < 2:
            return []
        space = self._task.space
        bounds = float(space.upper.max()) - float(space.lower.min())
        span = bounds if np.isfinite(bounds) else float(x.max()) - float(x.min())
        found = detect_preprocessing(self._meter, x, self._task.space.dtype, span, preflight.repeat_difference)
        return found.warnings()

    def _outcomes(self, missing: list[int], steps: Steps | None) -> Iterator[Outcome]:
        task = self._task
        if task.exact is not None or steps is None:
            exact = task.exact or Derivatives()
            return exact_inputs(
                missing,
                task.x,
                self._meter,
                tolerance=exact.tolerance,
                seed=task.settings.seed,
                worst_directions=exact.directions,
            )
        return run_inputs(
            missing,
            lambda i: measure(task.x[i], i, task.space, steps, task.settings),
            self._failed,
            self._meter,
            self._block,
        )

    @property
    def _block(self) -> int:
        row = self._task.x[0].size * np.dtype(self._task.space.dtype).itemsize
        return block_size(self._meter.model, row * self._task.settings.queries, self._meter.budget)

    def _missing(self) -> list[int]:
        """Inputs to measure, in whole blocks: half a block would be other calls than before."""
        open_blocks = {i // self._block for i in range(len(self._task.x)) if i not in self._done}
        return [i for i in range(len(self._task.x)) if i // self._block in open_blocks]

    def _keep(self, outcome: Outcome) -> None:
        y, group, index = self._task.inputs.y, self._task.inputs.group, outcome.result.index
        result = outcome.result.model_copy(
            update={
                "label": None if y is None else int(y[index]),
                "group": None if group is None else str(group[index]),
            }
        )
        self._done[index] = (result, outcome.rows, outcome.requests)
        if self._journal is not None:
            keep_witness(self._journal.folder, result)
            self._journal.keep(result, outcome.rows, outcome.requests)
        self._tell(0)

    def _finished(self) -> list[Sensitivity]:
        """All results in order; those measured since the last good sentinel carry a flag."""
        drifted = {i for drift in self._sentinels.drifts for i in drift.inputs} if self._sentinels is not None else set()
        results = [self._done[i][0] for i in sorted(self._done)]
        return [s.model_copy(update={"flags": [*s.flags, "drift"]}) if s.index in drifted else s for s in results]

    def _failed(self, index: int, error: FimauditError) -> Sensitivity:
        return Sensitivity(index=index, status="failed", method="none", reason=str(error))

    def _tell(self, _rows: int) -> None:
        if self._progress is not None:
            expected = len(self._task.x) * self._task.settings.queries
            self._progress(self._meter.usage.rows, expected, len(self._done), len(self._task.x))


def _opened(classifier: Classifier, journal: Journal) -> RequestLedger:
    """The ledger beside the journal; where it cannot be had, the run folder is as it was."""
    fingerprint = str(classifier.info.details.get("fingerprint", classifier.info.name))
    try:
        journal.begin()
        return open_ledger(journal.folder / LEDGER, fingerprint, resume=journal.goes_on)
    except UsageError:
        journal.discard()
        raise
