"""One run over many inputs: preflight, pilot, each input, with what an earlier process finished left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.dataset import LabelledStream
from fimaudit.engines.driver import affordable_inputs
from fimaudit.engines.work import LocalEngine, RemoteEngine, Work
from fimaudit.errors import BudgetExhausted, ModelFailure, UsageError
from fimaudit.measurement.integrity_cost import MOST_INTEGRITY_ROWS
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.rare_jumps import beside_cut_radii, beside_jumps, too_many_jump
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.leases import Ledger, Usage
from fimaudit.models.meter import DECOYS, THE_RUN, Meter
from fimaudit.results import Sensitivity
from fimaudit.runs.deflation_setup import DeflationSetup, portable, set_up_deflation
from fimaudit.runs.drift import Sentinels
from fimaudit.runs.input_passes import InputPasses, Progress
from fimaudit.runs.integrity.checks import check_integrity
from fimaudit.runs.integrity.decoys import ChosenDecoys, choose_decoys
from fimaudit.runs.integrity.drawing import candidates
from fimaudit.runs.integrity.findings import IntegrityFindings
from fimaudit.runs.integrity.rows import AuditedInputs
from fimaudit.runs.label_setup import LABEL_STEPS
from fimaudit.runs.preflight import Preflight
from fimaudit.runs.run_ledger import open_run_ledger, share_counts
from fimaudit.runs.screening import likely_top, screening
from fimaudit.runs.start import RunStart
from fimaudit.runs.task import Task
from fimaudit.storage.journal import Journal
from fimaudit.storage.result_store import Finished, MemoryStore, ParquetStore, ResultStore
from fimaudit.whitebox.inputs import without_advice

__all__ = ["Run"]


class Run:
    """Measures a task's inputs through one meter; finished inputs are kept at once.

    Args:
        classifier: the model.
        task: what to measure.
        budget: most rows in all, ``None`` for no limit.
        batch: rows a call.
        journal: of the run folder, where an endpoint's ledger lies too; ``None`` keeps nothing.
        progress: called as rows are answered.
        most_failures: stop when more inputs than this have failed; ``None`` goes on.
        engine: where inputs are measured, this process when left out; preflight, pilot and sentinels are always here.
        count_refused: rows that an endpoint turned away count against the budget too.
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
        most_failures: int | None = None,
        engine: RemoteEngine | None = None,
        count_refused: bool = False,
    ) -> None:
        self._task, self._journal, self._budget = task, journal, budget
        self._network = isinstance(classifier, NetworkClassifier)
        self._ledger = None if journal is None else open_run_ledger(classifier, journal)
        counts: Ledger | None = self._ledger
        if engine is not None:
            counts = share_counts(engine, classifier, budget, journal, self._ledger)
            if task.exact is None:  # derivatives are this process's own
                classifier = engine.answering()
        own = None if engine is not None else budget
        self._meter = Meter(
            classifier,
            budget=own,
            batch=batch,
            count_refused=count_refused,
            ledger=counts,
            on_rows=lambda _: self._passes.report_progress(),
        )
        if task.interleaved:
            self._meter.interleave(task.settings.seed)
        self._remote = engine
        self._sentinels: Sentinels | None = None
        if self._network:
            self._sentinels = Sentinels(task.x.astype(task.space.dtype), self._meter, numbers=task.numbers)
        self._start = RunStart(task, self._meter, self._sentinels, journal)
        self._store = _open_store(task, journal, self._meter)
        if journal is not None and journal.resuming:
            if journal.focus is not None:
                self._store.reopen(np.array(journal.focus, dtype=np.int64))
            self._meter.finish(np.flatnonzero(self._store.done).tolist())
        self._passes = InputPasses(
            engine or LocalEngine(self._meter), task, self._meter, self._store, self._sentinels, journal,
            shared=None if engine is None else counts, progress=progress, most_failures=most_failures,
        )  # fmt: skip
        if task.exact is not None and not task.insist:
            self._passes.without_derivatives = {}
        self._deflation = DeflationSetup(None, {})
        self._decoys = ChosenDecoys()
        self.integrity = IntegrityFindings()
        self.focus: NDArray[np.int64] | None = None
        self.exhausted: str | None = None

    @property
    def method(self) -> str:
        """``white-box`` or ``black-box``: what the inputs are measured by, but for those whose derivatives are in doubt."""
        return "black-box" if self._start.exact is None else "white-box"

    @property
    def order(self) -> str:
        """In which order calls went out (``AuditOptions.order``)."""
        return "interleaved" if self._task.interleaved else "inputs"

    @property
    def usage(self) -> Usage:
        """Rows and calls of the whole run, earlier processes included."""
        return self._meter.usage

    def go(self) -> tuple[Steps | None, Preflight | None]:
        """Measure what is missing; the results are handed over by ``finish``."""
        steps: Steps | None = None
        preflight: Preflight | None = None
        task = self._task
        try:
            preflight, steps = self._start.begin()
            self._passes.check_same_model()
            if self._start.exact is None:
                self._passes.without_derivatives = None
            placed = LABEL_STEPS if task.labels else steps
            if task.integrity and steps is not None:
                self._decoys = choose_decoys(self._audited(steps), len(task.source), task.settings.seed)
                if task.focus is None:
                    self._decoys = self._walking(steps, np.arange(len(task.source)))
            beside = self._decoys.by_input if self._reaches_integrity() else {}
            work = Work(
                task.source, task.space, task.settings, placed, self._start.exact, self._budget,
                row_by_row=self._start.row_by_row, labels=self._start.labels,
                interleaved=task.interleaved, decoys=beside, network_block=task.sizes.network_block,
            )  # fmt: skip
            work = self._set_up_deflation(work)
            if task.focus is None:
                self._passes.measure(np.flatnonzero(~self._store.done), work)
                if self._passes.without_derivatives:
                    steps = self._measure_from_probabilities(work, preflight)
            else:
                if self._journal is None or self._journal.focus is None:
                    screen = replace(work, settings=screening(task.settings), structure=None)
                    self._passes.measure(np.flatnonzero(~self._store.done), screen)
                self._measure_focus(task.focus, work, steps)
            if task.integrity and self._start.exact is None and steps is not None:
                self._check_integrity(steps)
        except BudgetExhausted as exc:
            if self._journal is not None:  # it may be spent before the first line was kept
                self._journal.begin()
                self._meter.finish([])
            self.exhausted = str(exc)
        except ModelFailure as exc:
            if not self._store.count and not self._passes.unanswered:
                aside = self._journal.replaced if self._journal is not None else None
                raise exc if aside is None else ModelFailure(f"{exc}; the run to be replaced lies in {aside}") from exc
            logging.getLogger("fimaudit").warning("%s", exc)  # with what the server said, which no report holds
            said = exc.kept
            self.exhausted = said if "resume" in said else f"{said}; go on with --resume"
        except UsageError:
            self.close()
            if self._journal is not None:
                self._journal.discard()
            raise
        finally:
            self._store.flush()
        if self._passes.unanswered and not self._store.count:
            reason = next(iter(self._passes.unanswered.values()))
            raise ModelFailure(f"the server answered none of the inputs: {reason}; go on with --resume")
        return steps, preflight

    def finish(self, most: int) -> Finished:
        """All results, in the order of the inputs; those measured since the last good sentinel carry a flag.

        What one input's rows do not show, others' may: that the answers jump now and then.

        Args:
            most: of the most sensitive inputs wanted.
        """
        drifts = self._sentinels.drifts if self._sentinels is not None else []
        revised: dict[int, Sensitivity] = dict(self.integrity.revised)
        few = self._store.count <= self._task.sizes.most_inline  # the pilot of a larger run asks enough by itself
        making = self._meter.model.info.not_smooth
        if few and (revised or making or too_many_jump(*self._store.jumps())):
            known = {**self._store.results(range(len(self._task.source))), **revised}
            revised |= beside_jumps(known.values())
            if making:
                revised |= beside_cut_radii({**known, **revised}.values(), making)
        return self._store.finish({i for drift in drifts for i in drift.inputs}, most, revised)

    @property
    def measured(self) -> NDArray[np.int64]:
        """Of the inputs in focus, those that were measured in full."""
        return np.empty(0, dtype=np.int64) if self.focus is None else self.focus[self._store.done[self.focus]]

    def warnings(self) -> list[str]:
        """What the user must know of the run as a whole."""
        out = [*self._start.notes, *self._deflation.warnings(), *self.integrity.warnings()]
        if self._sentinels is not None:
            said = dict.fromkeys(drift.sentence() for drift in self._sentinels.drifts)
            out += [sentence for sentence in said if sentence != self.exhausted]
        out += self._passes.warnings()
        if self.usage.refused:
            out.append(f"{self.usage.refused:,} rows were refused unprocessed and are counted apart from the budget")
        if self.exhausted is not None:
            out.append(f"{self._store.count} of {len(self._task.source)} inputs were measured: {self.exhausted}")
        return out

    def jump_warnings(self, steps: Steps | None) -> list[str]:
        """What many inputs show of the run where its pilot, which asks a few, did not."""
        measured, jumping = self._store.jumps()
        if steps is None or steps.kind == "finite_scale" or not too_many_jump(measured, jumping):
            return []
        return [
            f"at {jumping} of the {measured} inputs with a value the answers jump, so a local value does not exist there; "
            "each says at which displacement its numbers are"
        ]

    def facts(self) -> dict[str, Any]:
        """For the report: what the sentinels saw, and how many rows the endpoint refused."""
        if self._sentinels is None:
            return {}
        return {"sentinels": self._sentinels.facts(), "refused_rows": self.usage.refused}

    def unfinished(self) -> dict[str, Any]:
        """For the report: inputs that the server did not answer."""
        if not self._network:
            return {}
        return {"unanswered": sorted(self._passes.unanswered)}

    def structure(self) -> dict[str, Any] | None:
        """For the report: which directions were measured exactly in each input, and what they catch."""
        return self._deflation.facts or None

    def close(self) -> None:
        """Close the ledger, and end what workers share; may be called twice."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._remote is not None:
            self._remote.close()

    def _measure_from_probabilities(self, work: Work, preflight: Preflight) -> Steps:
        """From probabilities, the inputs at which derivatives say nothing of the answers."""
        reasons, self._passes.without_derivatives = self._passes.without_derivatives or {}, None
        steps = self._start.pilot(preflight)
        count, reason = len(reasons), without_advice(next(iter(reasons.values())))
        self._start.notes.append(f"{count} of the inputs measured from probabilities: {reason}")
        self._passes.measure(np.array(sorted(reasons), dtype=np.int64), replace(work, steps=steps, exact=None))
        return steps

    def _set_up_deflation(self, work: Work) -> Work:
        """Find out which directions are measured exactly; inputs that were measured on the way are kept."""
        task = self._task
        if task.surrogates is None:
            return work
        setup = set_up_deflation(task.surrogates, work, task.x, task.numbers, self._meter, self._journal)
        self._meter.finish([THE_RUN])
        self._deflation = portable(setup) if self._remote else setup
        for outcome in setup.outcomes:
            self._passes.keep(outcome)
        return replace(work, structure=self._deflation.structure)

    def _measure_focus(self, count: int, work: Work, steps: Steps | None) -> None:
        """After the screening: measure in full what may be among the most sensitive, the likeliest first if rows are few."""
        ranked = None if self._journal is None else self._journal.focus
        if ranked is None:
            settings = work.settings
            ranked = likely_top(self._store.columns(), count, settings.confidence, settings.seed).tolist()
            if self._journal is not None:
                self._journal.keep_focus(ranked)
        self.focus = np.sort(np.array(ranked, dtype=np.int64))
        if self._task.integrity and steps is not None:
            self._decoys = self._walking(steps, self.focus)
            work = replace(work, decoys=self._decoys.by_input if work.decoys else {})
        self._store.reopen(self.focus)
        missing = np.array([i for i in ranked if not self._store.done[i]], dtype=np.int64)
        affordable = len(missing)
        if self._budget is not None:
            affordable = affordable_inputs(self._budget - self._meter.usage.rows, work.settings)
        for some in (missing[:affordable], missing[affordable:]):
            if len(some):
                self._passes.measure(np.sort(some), work)

    def _reaches_integrity(self) -> bool:
        """Whether the budget is surely enough for all inputs and the checks; else decoys would cost results."""
        if self._budget is None:
            return True
        left = self._budget - self._meter.usage.rows - MOST_INTEGRITY_ROWS
        return affordable_inputs(left, self._task.settings) >= int((~self._store.done).sum())

    def _audited(self, steps: Steps, results: Mapping[int, Sensitivity] | None = None) -> AuditedInputs:
        """What the checks know, before anything was measured or with these results."""
        task = self._task
        return AuditedInputs(task.x, task.numbers, task.space, steps.quality, steps.displacement, results or {})

    def _walking(self, steps: Steps, measured: NDArray[np.int64]) -> ChosenDecoys:
        """The decoys, with walks there and back from some of the inputs that are measured."""
        return self._decoys.walking(self._audited(steps), measured, self._task.settings.seed)

    def _check_integrity(self, steps: Steps) -> None:
        """The checks of the answers themselves, once all inputs are measured; what an earlier process found stands."""
        if self._journal is not None and self._journal.integrity is not None:
            self.integrity = IntegrityFindings.read(self._journal.integrity)
            self._meter.finish([THE_RUN, DECOYS])
            return
        task = self._task
        left = None if self._budget is None else self._budget - self._meter.usage.rows
        need = 0 if left is None else MOST_INTEGRITY_ROWS - self._decoys.rows_asked(self._meter)
        if left is not None and left < need:
            self._start.notes.append(
                f"integrity was not checked: that may take {need} rows, and the budget of {self._budget} "
                f"leaves {max(0, left)}; go on with --resume and a larger --budget"
            )
            return
        inputs = self._audited(steps, self._store.results(candidates(task.numbers, task.settings.seed)))
        try:
            self.integrity = check_integrity(self._meter, inputs, self._decoys, task.settings.seed)
        finally:
            self._passes.count_workers()
        if self._journal is not None:
            self._journal.keep_integrity(self.integrity.to_json())
            self._meter.finish([THE_RUN, DECOYS])


def _open_store(task: Task, journal: Journal | None, meter: Meter) -> ResultStore:
    """Where results go: of a large run into parts on disk, else memory and the journal; with what is there already."""
    inputs, sizes = len(task.source), task.sizes
    if journal is not None and (isinstance(task.source, LabelledStream) or inputs > sizes.most_inline):
        return ParquetStore(inputs, journal, meter.finish, most_inline=sizes.most_inline, part_inputs=sizes.part_inputs)
    return MemoryStore(inputs, journal, meter.finish, most_inline=sizes.most_inline)
