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

from fimaudit import facts
from fimaudit.classifier import Classifier, open_classifier
from fimaudit.counterexamples import gather_witnesses
from fimaudit.domain import InputDomain
from fimaudit.errors import DataError, ModelFailure, UsageError
from fimaudit.exact import DIRECTIONS_FOLDER, choose_mode
from fimaudit.journal import REPORT, Journal
from fimaudit.links import Link
from fimaudit.report import keep_shown, render
from fimaudit.results import Report, Sensitivity, StepReport
from fimaudit.running import Derivatives, Progress, Run, Task
from fimaudit.settings import ProfileChoice, Settings
from fimaudit.sources import Inputs, check_inputs, read_inputs
from fimaudit.summary import summarise
from fimaudit.tables import INPUTS_FILE, write_inputs

__all__ = ["Progress", "audit", "sensitivity"]

Mode = Literal["auto", "black-box", "white-box"]
#: Above this many inputs the report's list stays empty and readers take ``inputs.parquet``.
MOST_INLINE = 10_000


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
    x: ArrayLike | Inputs | str | Path,
    *,
    y: ArrayLike | None = None,
    group: ArrayLike | None = None,
    out: str | Path | None = None,
    link: Link = "auto",
    queries: int = 200,
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
    batch: int | None = None,
    tolerance: float = 1e-4,
    worst_direction: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Audit a classifier over many inputs from its probabilities.

    Args:
        model: a classifier, or anything that ``open_classifier`` takes (then closed at the end).
        x: (n, \\*shape) inputs, or a data file.
        y: (n,) labels; group: (n,) group names.
        out: run folder for ``report.json`` and ``inputs.parquet``; finished inputs are kept there as they come.
        link: what turns the model's output into probabilities.
        queries: rows an input, the base row included; pilot and checks add at most 10 %.
        mode: ``auto`` takes autograd where the model offers it, ``black-box`` never, ``white-box`` insists.
        confidence: of each two-sided interval; intervals cover the sampling of directions.
        seed: directions depend on it and the input's index alone.
        budget: most rows that may be sent in all.
        lower, upper, quantum, unit, scale, frozen: the input domain, or give ``domain``.
        free: integer columns of a table that may change (they are held otherwise), or ``all``.
        profile: radius and flips over longer displacements, out of the same queries: ``off``, ``cheap`` or ``full``.
        precision: stop an input when the half-width of its spectral norm is within this share of the value.
        threshold: stop an input when its spectral norm is decided to lie above or below this; the decision is a flag.
        witness: look for a displacement that really changes the decision, 12 of each input's queries.
        batch: rows a call.
        tolerance: white box, many classes: relative residual at which an input's iteration stops.
        worst_direction: white box: keep each input's most sensitive direction (unit l2) in the run folder.
        resume: go on with the run in ``out``; overwrite: replace it.
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
    settings = replace(
        _settings(queries, confidence, seed, budget, batch),
        profile=profile,
        witness=witness,
        precision=precision,
        threshold=threshold,
    )
    domain = domain or InputDomain(lower, upper, quantum, frozen, scale, unit)
    inputs = _inputs(x, y, group)
    if inputs.names is not None:
        domain = domain.for_table(inputs.names, inputs.whole, free)
    opened = not isinstance(model, Classifier)
    if batch is not None and isinstance(model, str) and "://" in model:
        options.setdefault("batch", batch)  # an endpoint fixes its requests when it is opened
    classifier = open_classifier(model, link, **options)
    journal: Journal | None = None
    run: Run | None = None
    try:
        inputs = check_inputs(inputs, classifier.info.input_shape)
        domain = domain.with_defaults(classifier.info.details.get("domain"))
        space = domain.resolve(inputs.x, classifier.info.dtype)
        admitted = space.admit(inputs.x)
        method, hindrance = choose_mode(mode, classifier, admitted, space)
        identity = facts.identity(classifier, inputs, space, settings, link, method)
        if out is not None:
            journal = Journal(Path(out), identity, resume=resume, overwrite=overwrite)
        directions = Path(out) / DIRECTIONS_FOLDER if out is not None and worst_direction else None
        exact = Derivatives(tolerance, directions) if method == "white-box" else None
        task = Task(inputs, admitted, space, settings, exact)
        run = Run(classifier, task, budget=budget, batch=batch, journal=journal, progress=progress)
        results, steps, preflight = run.go()
        if journal is not None:
            journal.begin()
        report = Report(
            model={**facts.model_facts(classifier, preflight), **run.facts()},
            data=facts.data_facts(inputs, len(results)),
            domain=facts.domain_facts(space),
            settings=facts.settings_facts(settings, link, method, budget),
            environment=facts.environment(started, time.perf_counter() - clock),
            step=StepReport(displacement=steps.displacement, profile=steps.profile) if steps else StepReport(),
            summary=summarise(results, confidence, run.usage.rows, run.usage.requests),
            groups=_groups(results, confidence),
            warnings=[
                *classifier.info.notes,
                *(preflight.warnings() if preflight else []),
                *run.warnings(),
                *([hindrance] if hindrance else []),
                *facts.doubts(inputs, space, domain, steps),
            ],
            inputs=results if len(results) <= MOST_INLINE else [],
            inputs_file=INPUTS_FILE if out is not None else None,
        )
        if out is not None:
            gather_witnesses(Path(out), results)
            write_inputs(Path(out) / INPUTS_FILE, results)
            _replace(Path(out) / REPORT, report.to_json())
            keep_shown(out, inputs.x, results)
            render(out)
    finally:
        if run is not None:
            run.close()
        if journal is not None:
            journal.close()
        if opened:
            classifier.close()
    if results and all(s.status == "failed" for s in results):
        raise ModelFailure(f"no input could be measured; the first failed with: {results[0].reason}")
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
        raise UsageError(f"expected a {name} above 0, got {value}")
    return value


def _inputs(x: Any, y: ArrayLike | None, group: ArrayLike | None) -> Inputs:
    if isinstance(x, Inputs):
        return x
    if isinstance(x, str | Path):
        return read_inputs(x)
    try:
        array = np.asarray(x)
    except ValueError as exc:
        raise DataError(f"expected x as one array (inputs, *shape), got inputs of different shapes: {exc}") from exc
    labels = None if y is None else np.asarray(y)
    return Inputs(array, labels, None if group is None else np.asarray(group))


def _groups(results: list[Sensitivity], confidence: float) -> dict[str, Any]:
    names = sorted({s.group for s in results if s.group is not None})
    members = {name: [s for s in results if s.group == name] for name in names}
    return {name: summarise(of, confidence, sum(s.queries for s in of), 0) for name, of in members.items()}


def _replace(path: Path, text: str) -> None:
    """Write beside and move over: a reader never sees half a report."""
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
