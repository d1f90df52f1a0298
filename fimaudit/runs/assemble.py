"""What an audit found, as a report, and the report in its run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fimaudit.audit_report import Report, StepReport
from fimaudit.data.dataset import AuditDataset
from fimaudit.engines.selection import Place
from fimaudit.errors import RunFolderError, StorageFailure
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.settings import Settings
from fimaudit.models.classifier import Classifier
from fimaudit.results import Interval
from fimaudit.runs import metadata as facts
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.preflight import Preflight
from fimaudit.runs.run import Run
from fimaudit.runs.screening import read_focus, top_k_result
from fimaudit.runs.yardsticks import find_yardsticks
from fimaudit.statistics.columns import Columns
from fimaudit.statistics.subgroups import share_interval
from fimaudit.statistics.summary import summarise
from fimaudit.storage.durable_files import write_whole
from fimaudit.storage.journal import REPORT
from fimaudit.storage.result_store import Finished
from fimaudit.storage.tables import INPUTS_FILE

__all__ = ["Clock", "Prepared", "assemble", "write"]


@dataclass(frozen=True)
class Clock:
    """When an audit began."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    counter: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        """Since then."""
        return time.perf_counter() - self.counter


@dataclass(frozen=True)
class Prepared:
    """An audit of which everything is open and checked.

    Attributes:
        options, settings: as asked for, and as they hold for inputs of this size.
        folder: where the run is kept; ``None`` keeps nothing.
        place: where inputs are measured.
        classifier, dataset: the model and the inputs.
        hindrance: why derivatives that the model offers are not taken.
        run: what measures.
        integrity: whether integrity checks were asked for.
    """

    options: AuditOptions
    settings: Settings
    folder: Path | None
    place: Place
    classifier: Classifier
    dataset: AuditDataset
    hindrance: str | None
    run: Run
    integrity: bool


def assemble(prepared: Prepared, found: tuple[Steps | None, Preflight | None], results: Finished, clock: Clock) -> Report:
    """The report of a run that has ended, also when its budget ran out under way.

    Args:
        prepared: the audit.
        found: what was found before the inputs were measured.
        results: of the inputs.
        clock: when the audit began.
    """
    steps, preflight = found
    options, dataset, run = prepared.options, prepared.dataset, prepared.run
    columns, confidence = results.columns, options.confidence
    warnings = [*prepared.classifier.info.sentences, *dataset.notes]
    warnings += preflight.warnings() if preflight else []
    warnings += run.warnings()
    warnings += [prepared.hindrance] if prepared.hindrance else []
    warnings += facts.domain_warnings(dataset.reference, dataset.stated, dataset.domain, steps)
    warnings += run.jump_warnings(steps)
    chosen = facts.settings_facts(prepared.settings, options, run.method)
    return Report(
        model={**facts.model_facts(prepared.classifier, preflight, dataset.labels), **run.facts()},
        data={
            **facts.data_facts(dataset.data, dataset.reference, len(columns)),
            **run.unfinished(),
            **_named(prepared, columns),
        },
        domain=facts.domain_facts(dataset.stated),
        settings={**chosen, "surrogate": run.structure(), "integrity": prepared.integrity, "order": run.order},
        environment=facts.environment(clock.started, clock.seconds(), prepared.place.facts(), prepared.folder),
        step=StepReport(displacement=steps.displacement, profile=steps.profile) if steps else StepReport(),
        summary=summarise(columns, confidence, run.usage.rows, run.usage.requests),
        groups=_groups(columns, confidence),
        accuracy=_accuracy(columns, confidence),
        yardsticks=find_yardsticks(options, dataset, results.inputs),
        warnings=warnings,
        integrity=run.integrity.checks,
        inputs=results.inputs,
        inputs_file=INPUTS_FILE if prepared.folder is not None else None,
    )


def write(folder: Path, report: Report, dataset: AuditDataset, results: Finished) -> None:
    """Keep the report in the run folder, with what its page shows, and the page."""
    from fimaudit.report.page import render  # takes the template library, which only a run that is kept needs
    from fimaudit.report.shown import MOST_SHOWN, keep_shown

    write_whole(folder / REPORT, report.to_json().encode())
    report.keep_folder(folder)
    keep_shown(folder, dataset.arrays(results.worst[:MOST_SHOWN]), results.worst)
    try:
        render(folder)
    except RunFolderError as exc:  # the measurement is done, and nothing is wrong with the command
        raise StorageFailure(str(exc)) from exc


def _named(prepared: Prepared, columns: Columns) -> dict[str, Any]:
    """The most sensitive inputs, where a focus asked for them."""
    options, run = prepared.options, prepared.run
    top = read_focus(options.focus)
    if top is None or run.focus is None:
        return {}
    return {"focus": top_k_result(columns, run.focus, run.measured, top, options.confidence, options.seed).facts()}


def _accuracy(columns: Columns, confidence: float) -> Interval | None:
    """Share of right answers among the labelled inputs, with limits for the population they are a sample of."""
    known = int((columns.right >= 0).sum())
    return share_interval(int((columns.right == 1).sum()), known, confidence) if known else None


def _groups(columns: Columns, confidence: float) -> dict[str, Any]:
    members = {name: columns.where(columns.group == number) for number, name in enumerate(columns.groups)}
    return {name: summarise(of, confidence, int(of.queries.sum()), 0) for name, of in members.items()}
