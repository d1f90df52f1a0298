"""Many inputs: open, look, choose the step, measure each, keep each, summarise. ``audit`` and ``sensitivity``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import as_data, open_subject
from fimaudit.data.streams import Stream
from fimaudit.domain import InputDomain
from fimaudit.engines.selection import EngineName, choose_engine
from fimaudit.errors import ModelFailure, UsageError
from fimaudit.estimation.stopping import most_queries
from fimaudit.measurement.settings import ProfileChoice, Settings
from fimaudit.measurement.surrogates import Surrogates, choose_surrogates
from fimaudit.models.classifier import Classifier, open_classifier
from fimaudit.models.links import Link
from fimaudit.report import keep_shown, render
from fimaudit.report.shown import MOST_SHOWN
from fimaudit.results import Report, Sensitivity, StepReport
from fimaudit.runs import metadata as facts
from fimaudit.runs.deflation_setup import Directions as Directions
from fimaudit.runs.run import Derivatives, Progress, Run, Task
from fimaudit.runs.screening import read_focus, top_k_result
from fimaudit.statistics.columns import Columns
from fimaudit.statistics.summary import summarise
from fimaudit.storage.journal import REPORT, Journal
from fimaudit.storage.result_store import MOST_INLINE
from fimaudit.storage.tables import INPUTS_FILE
from fimaudit.whitebox.inputs import DIRECTIONS_FOLDER, choose_mode

__all__ = ["Progress", "audit", "sensitivity"]

Mode = Literal["auto", "black-box", "white-box"]
#: Most sensitive inputs that the page and the terminal show.
SHOWN = 100


def sensitivity(
    model: object,
    x: ArrayLike,
    *,
    link: Link = "auto",
    queries: int = 200,
    mode: Mode = "auto",
    confidence: float = 0.95,
    seed: int = 0,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    domain: InputDomain | None = None,
    **options: Any,
) -> Sensitivity:
    """Measure one input: the spectral norm of the Fisher information of the answer with respect to it.

    lambda = lambda_max(F), F = sum_k p_k grad(log p_k) grad(log p_k)^T, in 1 / (input unit)^2.

    Args:
        model: a classifier or anything that ``open_classifier`` takes.
        x: one input without the batch axis.
        link, queries, mode, confidence, seed, lower, upper, domain, **options: as for ``audit``.

    Raises:
        UsageError: wrong use or bad input, before the measurement.
        RunError: the model failed under way.

    Source: arXiv 2606.04767.
    """
    report = audit(
        model,
        np.asarray(x)[None],
        link=link,
        queries=queries,
        mode=mode,
        confidence=confidence,
        seed=seed,
        lower=lower,
        upper=upper,
        domain=domain,
        **options,
    )
    return report.inputs[0]


def audit(
    model: object,
    x: ArrayLike | Inputs | Stream | str | Path,
    *,
    y: ArrayLike | None = None,
    group: ArrayLike | None = None,
    out: str | Path | None = None,
    link: Link = "auto",
    queries: int | Literal["auto"] = 200,
    mode: Mode = "auto",
    confidence: float = 0.95,
    seed: int = 0,
    budget: int | None = None,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    quantum: ArrayLike | None = None,
    unit: str | None = None,
    scale: str | ArrayLike | None = None,
    frozen: Sequence[Any] | NDArray[Any] | None = None,
    free: Sequence[str] = (),
    domain: InputDomain | None = None,
    profile: ProfileChoice = "cheap",
    witness: bool = False,
    precision: float | None = None,
    threshold: float | None = None,
    focus: str | None = None,
    batch: int | None = None,
    tolerance: float = 1e-4,
    worst_direction: bool = False,
    surrogate: object | Sequence[object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    max_failures: int | None = None,
    engine: EngineName = "local",
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Audit a classifier over many inputs from its probabilities.

    Args:
        model: a classifier, or anything that ``open_classifier`` takes (then closed at the end).
        x: (n, \\*shape) inputs, or a data file, a folder, a glob or a URL (``fimaudit.data.streams.open_data``).
        y: (n,) labels; group: (n,) group names.
        out: run folder for ``report.json`` and ``inputs.parquet``; finished inputs are kept there as they come.
        link: what turns the model's output into probabilities.
        queries: rows an input, the base row, its check and its share of the pilot included while these take a tenth at most.
            Beyond that, from 100 queries and 20 inputs on, they add 6 each at most, or 2.5 % where that is more, and 4 where
            an answer is odd; to fewer they may add more (``fimaudit plan`` says how many at most).
            ``auto``: as many as ``precision`` or ``threshold`` takes.
        mode: ``auto`` takes autograd where the model offers it, ``black-box`` never, ``white-box`` insists.
        confidence: of each two-sided interval; intervals cover the sampling of directions.
        seed: directions depend on it and the input's index alone.
        budget: most rows that may be sent in all.
        lower, upper, quantum, unit, scale, frozen: the input domain, or give ``domain``.
        free: integer columns of a table that may change (they are held otherwise), or ``all``.
        profile: radius and flips over longer displacements, out of the same queries: ``off``, ``cheap`` or ``full``.
        precision: stop an input when the half-width of its spectral norm is within this share of the value.
        threshold: stop an input when its spectral norm is decided to lie above or below this; the decision is a flag.
        focus: ``top:k``: screen all inputs with few queries, and measure in full only those that may be among the k with
            the largest spectral norms; the report names them and says how sure it is (``report.data["focus"]``).
        witness: look for a displacement that really changes the decision, alone and among others: 17 of each
            input's queries, and up to 20 rows more where it lies on the boundary.
        batch: rows a call.
        tolerance: white box, many classes: relative residual at which an input's iteration stops.
        worst_direction: white box: keep each input's most sensitive direction (unit l2) in the run folder.
        surrogate: local models (files, modules) of which each input's leading directions are measured exactly, or
            ``learned``: directions that the first inputs have in common. Off where a trial shows that it does not pay; the
            estimates are unbiased whatever the surrogate.
        resume: go on with the run in ``out``; overwrite: replace it.
        max_failures: stop, so that the run can be resumed, when more inputs than this have failed.
        engine: ``local`` measures in this process, ``ray`` on the processes of a cluster; the numbers are the same.
        address: of the cluster, ``auto`` or ``host:port``; one is started here when left out.
        workers: processes with a model each; as many as fit when left out. gpus_per_worker: what each takes; one where
            there are any.
        progress: called as rows are answered.
        **options: passed to ``open_classifier``.

    Raises:
        UsageError: wrong use or bad input, before the measurement starts.
        ModelFailure: no input could be measured.

    Returns:
        the report, also when the budget ran out under way: then ``report.warnings`` and ``report.data`` say so.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    precision, threshold = _positive(precision, "precision"), _positive(threshold, "threshold")
    most = most_queries(precision, threshold, confidence, 1) if queries == "auto" else queries
    settings = replace(
        _settings(most, confidence, seed, budget, batch),
        profile=profile,
        witness=witness,
        precision=precision,
        threshold=threshold,
    )
    if max_failures is not None and max_failures < 0:
        raise UsageError(f"expected a number of failures to allow of 0 or more, got {max_failures}")
    top = read_focus(focus)
    opened = not isinstance(model, Classifier)
    if batch is not None and isinstance(model, str) and "://" in model:
        options.setdefault("batch", batch)  # an endpoint fixes its requests when it is opened
    classifier: Classifier | None = None
    local: Directions | None = None
    journal: Journal | None = None
    run: Run | None = None
    where = choose_engine(engine, address=address, workers=workers, gpus_per_worker=gpus_per_worker)
    try:
        data = as_data(x, y, group, where.counter)
        domain = domain or InputDomain(lower, upper, quantum, frozen, scale, unit)
        classifier = open_classifier(model, link, **options)
        subject = open_subject(data, classifier.info, domain, free)
        if queries == "auto":
            settings = replace(settings, queries=most_queries(precision, threshold, confidence, subject.space.features))
        method, hindrance = choose_mode(mode, classifier, subject.x, subject.space)
        if surrogate is not None:
            local = choose_surrogates(surrogate, subject.x[0], options)
        if top is not None and local == "learned":
            raise UsageError("--surrogate learned measures the first inputs before --focus screens any; give one of the two")
        if top is not None and method == "white-box":
            raise UsageError("--focus spares queries of a measurement from probabilities; give --mode black-box with it")
        remote = where.engine(model, link, options, batch, worst_direction=worst_direction and method == "white-box")
        if out is not None:
            identity = facts.identity(classifier, subject.data, subject.space, settings, link, method, focus)
            if local is not None:
                identity = {**identity, "surrogate": "learned" if local == "learned" else local.facts()}
            journal = Journal(Path(out), identity, resume=resume, overwrite=overwrite)
        directions = Path(out) / DIRECTIONS_FOLDER if out is not None and worst_direction else None
        exact = Derivatives(tolerance, directions) if method == "white-box" else None
        task = Task(subject.source, subject.x, subject.numbers, subject.space, settings, exact, top, local)
        run = Run(
            classifier,
            task,
            budget=budget,
            batch=batch,
            journal=journal,
            progress=progress,
            parts=isinstance(data, Stream) or len(subject) > MOST_INLINE,
            most_failures=max_failures,
            engine=remote,
        )
        steps, preflight = run.go()
        results = run.finish(SHOWN)
        named = {}
        if top is not None and run.focus is not None:
            named["focus"] = top_k_result(results.columns, run.focus, run.measured, top, confidence, seed).facts()
        report = Report(
            model={**facts.model_facts(classifier, preflight), **run.facts()},
            data={**facts.data_facts(subject.data, subject.reference, len(results.columns)), **named},
            domain=facts.domain_facts(subject.space),
            settings={**facts.settings_facts(settings, link, method, budget, focus), "surrogate": run.structure()},
            environment=facts.environment(started, time.perf_counter() - clock, where.facts()),
            step=StepReport(displacement=steps.displacement, profile=steps.profile) if steps else StepReport(),
            summary=summarise(results.columns, confidence, run.usage.rows, run.usage.requests),
            groups=_groups(results.columns, confidence),
            warnings=[
                *classifier.info.notes,
                *(preflight.warnings() if preflight else []),
                *run.warnings(),
                *([hindrance] if hindrance else []),
                *facts.domain_warnings(subject.reference, subject.space, subject.domain, steps),
            ],
            inputs=results.inputs,
            inputs_file=INPUTS_FILE if out is not None else None,
        )
        if out is not None:
            _replace(Path(out) / REPORT, report.to_json())
            keep_shown(out, subject.arrays(results.worst[:MOST_SHOWN]), results.worst)
            render(out)
    finally:
        if run is not None:
            run.close()
        if journal is not None:
            journal.close()
        if opened and classifier is not None:
            classifier.close()
        if isinstance(local, Surrogates):
            local.close()
        where.close()
    if results.first_reason is not None:
        raise ModelFailure(f"no input could be measured; the first failed with: {results.first_reason}")
    return report


def _settings(queries: int, confidence: float, seed: int, budget: int | None, batch: int | None) -> Settings:
    if queries < 2:
        raise UsageError(f"expected at least 2 queries an input (the base row and one displaced), got {queries}")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"expected a confidence from 0.5 to below 1, got {confidence}")
    if budget is not None and budget < 1:
        raise UsageError(f"expected a budget of at least one row, got {budget}")
    if batch is not None and batch < 1:
        raise UsageError(f"expected a batch of at least one row, got {batch}")
    return Settings(queries, confidence, seed)


def _positive(value: float | None, name: str) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"expected a finite {name} above 0, got {value:g}")
    return value


def _groups(columns: Columns, confidence: float) -> dict[str, Any]:
    members = {name: columns.where(columns.group == number) for number, name in enumerate(columns.groups)}
    return {name: summarise(of, confidence, int(of.queries.sum()), 0) for name, of in members.items()}


def _replace(path: Path, text: str) -> None:
    """Write beside and move over: a reader never sees half a report."""
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
