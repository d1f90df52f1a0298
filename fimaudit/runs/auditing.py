"""Many inputs: prepare (open, look, check), run, assemble, write. ``audit`` and ``sensitivity``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike

from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import about, as_data, hold_by_input, open_subject
from fimaudit.data.streams import Stream
from fimaudit.domain import InputDomain
from fimaudit.engines.selection import EngineName, RayEngine, choose_engine
from fimaudit.engines.work import Derivatives
from fimaudit.errors import ModelFailure, UsageError
from fimaudit.measurement.integrity_cost import looks_at_integrity
from fimaudit.measurement.surrogates import Surrogates, choose_surrogates
from fimaudit.models.classes import class_labels
from fimaudit.models.classifier import Classifier
from fimaudit.models.links import Link
from fimaudit.models.opening import open_classifier
from fimaudit.results import Sensitivity
from fimaudit.runs import metadata as facts
from fimaudit.runs.assemble import Clock, Prepared, assemble, write
from fimaudit.runs.deflation_setup import Directions
from fimaudit.runs.input_passes import Progress
from fimaudit.runs.keywords import AuditArgs, AuditKeywords
from fimaudit.runs.label_setup import refuse_for_labels, refuse_without_labels
from fimaudit.runs.options import AuditOptions, Existing, default_order, read_options
from fimaudit.runs.run import Run
from fimaudit.runs.screening import read_focus
from fimaudit.runs.task import RunSizes, Task
from fimaudit.runs.yardsticks import check_yardsticks
from fimaudit.storage.journal import Journal
from fimaudit.whitebox.inputs import DIRECTIONS_FOLDER, choose_mode

__all__ = ["Progress", "audit", "audit_with_options", "sensitivity"]

#: Of a run, where none are given.
SIZES = RunSizes()
#: x, y and group.
LabelledInputs = tuple[ArrayLike | Inputs | Stream | str | Path, ArrayLike | str | None, ArrayLike | str | None]

#: Most sensitive inputs that the page and the terminal show.
SHOWN = 100


def sensitivity(model: object, x: ArrayLike, **options: Unpack[AuditKeywords]) -> Sensitivity:
    """Measure one input: the spectral norm of the Fisher information of the answer with respect to it.

    lambda = lambda_max(F), F = sum_k p_k grad(log p_k) grad(log p_k)^T, in 1 / (input unit)^2.

    Args:
        model: a classifier or anything that ``open_classifier`` takes.
        x: one input without the batch axis.
        **options: as for ``audit``.

    Raises:
        UsageError: wrong use or bad input, before the measurement.
        RunError: the model failed under way.

    Source: arXiv 2606.04767.
    """
    return audit(model, np.asarray(x)[None], **options).inputs[0]


def audit(
    model: object,
    x: ArrayLike | Inputs | Stream | str | Path,
    *,
    y: ArrayLike | str | None = None,
    group: ArrayLike | str | None = None,
    link: Link = "auto",
    domain: InputDomain | None = None,
    out: str | Path | None = None,
    existing: Existing = "refuse",
    budget: int | None = None,
    engine: EngineName | RayEngine | None = None,
    progress: Progress | None = None,
    **options: Unpack[AuditArgs],
) -> Report:
    """Audit a classifier over many inputs from its probabilities.

    Args:
        model: a classifier, or anything that ``open_classifier`` takes (then closed at the end).
        x: (n, \\*shape) inputs, a table (pandas, polars, Arrow), a data set or a list
            (``fimaudit.data.objects.found_arrays``), or a data file, a folder, a glob or a URL
            (``fimaudit.data.streams.open_data``).
        link: what turns the model's output into probabilities.
        domain: bounds, quantum, frozen features, scale and unit of the inputs; or give ``lower``, ``upper``, ``quantum``,
            ``frozen``, ``scale``, ``unit``.
        out: run folder for ``report.json`` and ``inputs.parquet``; finished inputs are kept there as they come.
        existing: what to do with a run that lies in ``out``: ``refuse``, ``resume`` (go on with it) or ``overwrite``.
        budget: most rows that may be sent in all.
        engine: ``local`` measures in this process, ``ray`` or a ``RayEngine`` on the processes of a cluster; the numbers are
            the same.
        progress: called with rows done, rows expected, inputs done and inputs, as rows are answered.
        **options: ``queries``, ``mode``, ``confidence``, ``seed`` and all else that ``AuditOptions`` explains; how the model
            is opened (``open_classifier``), an endpoint's settings among it.

    Raises:
        UsageError: wrong use or bad input, before the measurement starts; an unknown option before anything is opened.
        ModelFailure: no input could be measured.

    Returns:
        The report, also when the budget ran out under way; ``report.warnings`` and ``report.data`` say so then.
    """
    chosen = read_options(options, link=link, domain=domain, existing=existing, budget=budget, engine=engine)
    return audit_with_options(model, (x, y, group), chosen, None if out is None else Path(out), progress)


def audit_with_options(
    model: object,
    inputs: LabelledInputs,
    options: AuditOptions,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    sizes: RunSizes = SIZES,
) -> Report:
    """``audit`` with its options checked.

    Args:
        model: as for ``audit``.
        inputs: x, y and group, as for ``audit``.
        options: checked.
        folder: the run folder; ``None`` keeps nothing.
        progress: as for ``audit``.
        sizes: how many inputs are held at once.

    Raises:
        UsageError, ModelFailure: as ``audit``.
    """
    clock = Clock()
    with ExitStack() as stack:
        prepared = _prepare(model, inputs, options, folder, progress, stack, sizes)
        found = prepared.run.go()
        results = prepared.run.finish(SHOWN)
        report = assemble(prepared, found, results, clock)
        if folder is not None:
            write(folder, report, prepared.dataset, results)
    if results.first_reason is not None:
        anew = "" if folder is None else "; --overwrite starts anew, without the answers that the run keeps"
        raise ModelFailure(f"no input could be measured; the first failed with: {results.first_reason}{anew}")
    return report


def _prepare(
    model: object,
    inputs: LabelledInputs,
    options: AuditOptions,
    folder: Path | None,
    progress: Progress | None,
    stack: ExitStack,
    sizes: RunSizes,
) -> Prepared:
    """Open the engine, the data and the model, and check that they fit; ``stack`` closes what was opened, last first."""
    place = choose_engine(options.engine, options.ray())
    stack.callback(place.close)
    data = as_data(*inputs, place.surveyor, options.reading())
    data, constants = hold_by_input(data, options.hold or {})
    how = {**options.model_options(model), **({"hold": constants} if options.hold else {}), **about(data, model)}
    classifier = open_classifier(model, options.link, **how)
    if not isinstance(model, Classifier):
        stack.callback(classifier.close)
    matched = class_labels(classifier.info, options.class_names())
    dataset = open_subject(data, classifier.info, options.input_domain(), options.free, matched)
    check_yardsticks(options, dataset)
    labels = classifier.info.labels_only
    refuse_for_labels(options, classifier) if labels else refuse_without_labels(options)
    settings = options.settings(dataset.space.features, labels=labels)
    mode = "black-box" if labels else options.mode
    method, hindrance = choose_mode(mode, classifier, dataset.x, dataset.space)
    white_box = method == "white-box"
    surrogates: Directions | None = None
    if options.surrogate is not None:
        surrogates = choose_surrogates(options.surrogate, dataset.x[0], how)
        if isinstance(surrogates, Surrogates):
            stack.callback(surrogates.close)
    top = read_focus(options.focus)
    _refuse_what_does_not_go_together(options, surrogates, white_box=white_box)
    integrity = looks_at_integrity(options.integrity, len(dataset), settings.queries)
    engine = place.engine(model, options.link, how, options.batch, worst_direction=options.worst_direction and white_box)
    journal: Journal | None = None
    if folder is not None:
        identity = facts.identity(classifier, dataset.data, dataset.stated, settings, options, method, surrogates)
        journal = Journal(folder, identity, resume=options.resuming(), overwrite=options.overwriting())
        stack.callback(journal.close)
    directions = folder / DIRECTIONS_FOLDER if folder is not None and options.worst_direction else None
    exact = Derivatives(options.tolerance, directions) if white_box else None
    first = dataset.complete
    task = Task(
        dataset.source,
        dataset.x[first],
        dataset.numbers[first],
        dataset.space,
        settings,
        exact,
        top,
        surrogates,
        insist=options.mode == "white-box",
        labels=labels,
        classes=dataset.labels,
        y=dataset.reference.y,
        integrity=integrity and not labels,
        interleaved=(options.order or default_order(classifier)) == "interleaved",
        sizes=sizes,
    )
    run = Run(
        classifier,
        task,
        budget=options.budget,
        batch=options.batch,
        journal=journal,
        progress=progress,
        most_failures=options.max_failures,
        engine=engine,
        count_refused=options.count_refused,
    )
    stack.callback(run.close)
    return Prepared(options, settings, folder, place, classifier, dataset, hindrance, run, integrity and not white_box)


def _refuse_what_does_not_go_together(options: AuditOptions, surrogates: Directions | None, *, white_box: bool) -> None:
    if options.focus is not None and surrogates == "learned":
        raise UsageError("--surrogate learned measures the first inputs before --focus screens any; give one of the two")
    if options.focus is not None and white_box:
        raise UsageError("--focus spares queries of a measurement from probabilities; give --mode black-box with it")
    if options.integrity and white_box:
        raise UsageError("--integrity checks a measurement from probabilities; give --mode black-box with it")
