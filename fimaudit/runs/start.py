"""Before a run measures: what a few answers show, whether derivatives are the answers', and how far inputs are displaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fimaudit.engines.work import Derivatives
from fimaudit.errors import ModelFailure, TargetError
from fimaudit.measurement.label_radius import KnownLabels
from fimaudit.measurement.pilot import Steps, choose_steps
from fimaudit.models.meter import THE_RUN, Meter
from fimaudit.results import Sensitivity
from fimaudit.runs.drift import Sentinels
from fimaudit.runs.label_setup import LabelPreflight, kept_labels, look_at_labels, restored_labels
from fimaudit.runs.preflight import Preflight, look, not_deterministic
from fimaudit.runs.server_preprocessing import detect_preprocessing
from fimaudit.runs.task import Task
from fimaudit.statistics.spread import evenly_spread
from fimaudit.storage.journal import Journal
from fimaudit.whitebox.inputs import BY_DERIVATIVES, exact_inputs, without_advice

__all__ = ["RunStart"]

#: Inputs at which derivatives are compared with answers before a run takes them.
TRIED = 3


class RunStart:
    """Finds out what a run needs to know before it measures, or takes it from an earlier process of the run.

    Args:
        task: what is measured.
        meter: the door to the model; asks row by row from here on where other rows change an answer.
        sentinels: of an endpoint; ``None`` else.
        journal: of the run folder, which keeps what was found; ``None`` keeps nothing.

    Attributes:
        exact: how derivatives are used; ``None`` where they were not wanted or are not those of the answers.
        row_by_row: each row is asked alone.
        labels: of the inputs that were asked, where answers are labels alone.
        notes: sentences for the user.
    """

    def __init__(self, task: Task, meter: Meter, sentinels: Sentinels | None, journal: Journal | None) -> None:
        self._task, self._meter, self._sentinels, self._journal = task, meter, sentinels, journal
        self.exact = task.exact
        self.row_by_row = False
        self.labels: KnownLabels | None = None
        self.notes: list[str] = []

    def begin(self) -> tuple[Preflight, Steps | None]:
        """What a few answers show, and how far inputs are displaced: ``None`` by derivatives and from labels.

        Raises:
            BudgetExhausted: before all was found out.
            TargetError: the model cannot be asked, or not be measured as was insisted on.
        """
        if self._journal is not None and self._journal.steps:
            return self._restored(dict(self._journal.steps))
        task = self._task
        if task.labels:
            return self._begin_labels(), None
        preflight = look(self._meter, task.x, task.space.dtype, space=task.space)
        task.classes.agree(preflight.classes, task.y, self._meter.model.info.class_names)
        self._apart(preflight)
        if self.exact is not None:
            self._try_derivatives(self.exact, preflight)
        steps: Steps | None = None
        with self._asking():
            if self._sentinels is not None:
                self.notes += self._server_side(preflight)
                self._sentinels.begin(preflight.first)
            if self.exact is None:
                steps = self.pilot(preflight)
        chosen = None if steps is None else asdict(steps)
        self._keep({"notes": self.notes, "preflight": preflight.facts(), "steps": chosen})
        return preflight, steps

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A model of this machine that fails before anything was measured cannot be measured; an endpoint may answer yet."""
        try:
            yield
        except ModelFailure as exc:
            if self._sentinels is not None:
                raise
            raise TargetError(f"the model cannot be asked: {exc}") from exc

    def _keep(self, found: dict[str, Any]) -> None:
        """For a process that goes on with the run."""
        if self._journal is not None:
            self._journal.keep_steps(found)
            self._meter.finish([THE_RUN])

    def _restored(self, start: dict[str, Any]) -> tuple[Preflight, Steps | None]:
        """As an earlier process of the run found it."""
        self._meter.restore()
        if self._sentinels is not None:
            self._sentinels.begin()
        if self._task.labels:
            self.labels = restored_labels(start["labels"], self._task.x)
            return LabelPreflight(**start["preflight"]), None
        before = start["steps"]
        self.notes = list(start.get("notes", []))
        preflight = Preflight(**start["preflight"])
        self._apart(preflight)
        if before is not None:
            self.exact = None
        return preflight, None if before is None else Steps(**before)

    def pilot(self, preflight: Preflight) -> Steps:
        """The displacement that the inputs have in common."""
        task = self._task
        quality = preflight.quality(self._meter.model.info.details.get("top_k"))
        steps = choose_steps(self._meter, task.x, task.space, task.settings, quality)
        if steps.quality.random and not preflight.random:
            self.notes.append(not_deterministic("a row around an input is answered differently when it is asked again"))
        # Pilot rows are shared out over all inputs, not over those that stood for them.
        share = -(-steps.share * len(task.x) // len(task.source))
        return replace(steps, share=share, decided=tuple((int(task.numbers[i]), k) for i, k in steps.decided))

    def _apart(self, preflight: Preflight) -> None:
        """Each row alone, here and in other processes, where others change its answer."""
        if preflight.row_by_row:
            self.row_by_row, self._meter.batch = True, 1

    def _try_derivatives(self, exact: Derivatives, preflight: Preflight) -> None:
        """Give derivatives up for the whole run where they are a draw's, or not the answers' at most of a few inputs.

        Raises:
            TargetError: they were insisted on, and are those of a draw.
        """
        task, why = self._task, None
        if preflight.random:
            why = "it is not deterministic, so that a derivative is that of one draw among many"
            if task.insist:
                raise TargetError(f"--mode white-box cannot be had: {why}; use --mode black-box")
        elif not task.insist:
            tried = [self._tried(place, exact) for place in evenly_spread(len(task.x), TRIED).tolist()]
            reasons = [one.reason for one in tried if one.method == BY_DERIVATIVES]
            if 2 * len(reasons) > len(tried):
                why = without_advice(str(reasons[0]))
        if why is not None:
            self.exact = None
            self.notes.append(f"measured black-box although the model is differentiable: {why}")

    def _tried(self, place: int, exact: Derivatives) -> Sensitivity:
        task, index = self._task, int(self._task.numbers[place])
        found = exact_inputs(
            [index], task.x[place : place + 1], self._meter, task.space,
            wanted={index}, tolerance=exact.tolerance, seed=task.settings.seed, worst_directions=None,
        )  # fmt: skip
        return next(found).result

    def _begin_labels(self) -> Preflight:
        """The labels of the inputs, which stand in for the pilot."""
        with self._asking():
            preflight, self.labels, places = look_at_labels(self._meter, self._task.x, self._task.space.dtype)
            if self._sentinels is not None:
                self._sentinels.begin()
        self._keep({"labels": kept_labels(self.labels, places), "preflight": asdict(preflight), "steps": None})
        return preflight

    def _server_side(self, preflight: Preflight) -> list[str]:
        """Whether an endpoint changes images before the model sees them: the metric's space would be another one."""
        x, space = self._task.x, self._task.space
        bounds = float(space.upper.max()) - float(space.lower.min())
        span = bounds if np.isfinite(bounds) else float(x.max()) - float(x.min())
        return detect_preprocessing(self._meter, x, space.dtype, span, preflight.repeat_difference).warnings()
