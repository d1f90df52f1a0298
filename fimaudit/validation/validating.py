"""Validate: measure each input as an audit does, attack it, and say how well the one predicted the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs, check_inputs
from fimaudit.data.dataset import about, as_data, open_subject
from fimaudit.domain import InputDomain
from fimaudit.errors import BudgetExhausted, FimauditError, ModelFailure, StorageFailure, UsageError
from fimaudit.models.classes import class_labels, read_classes
from fimaudit.models.classifier import Classifier, Differentiable, NetworkClassifier
from fimaudit.models.counted_passes import CountedModel
from fimaudit.models.leases import Ledger, Usage
from fimaudit.models.links import Link
from fimaudit.models.meter import Meter
from fimaudit.models.opening import is_endpoint, open_classifier
from fimaudit.results import Sensitivity
from fimaudit.runs.auditing import Progress, audit
from fimaudit.runs.run_ledger import endpoint_fingerprint
from fimaudit.space import Space
from fimaudit.storage.durable_files import write_whole, writing
from fimaudit.storage.folder_lock import FolderLock
from fimaudit.storage.journal import LEDGER
from fimaudit.storage.ledger import open_ledger
from fimaudit.validation.attack_journal import ATTACKS_JOURNAL, AttackJournal
from fimaudit.validation.results import AttackedInput, Validation
from fimaudit.validation.summary import attack_summaries, calibration_bins, correlate, flipped_within

__all__ = ["ATTACK_ROWS", "validate"]

VALIDATION = "validation.json"
PICTURE = "calibration.svg"
LIBRARY = "adversarial-robustness-toolbox"
#: Rows, forward and backward, that the attacks on one input may take.
ATTACK_ROWS = 10_000
#: Attacks are for samples: this many inputs would take days.
MOST_INPUTS = 10_000


def validate(
    model: object,
    x: ArrayLike | Inputs | str | Path,
    *,
    y: ArrayLike | None = None,
    out: str | Path | None = None,
    link: Link = "auto",
    queries: int = 200,
    mode: Literal["auto", "black-box", "white-box"] = "black-box",
    attacks: Sequence[str] | str = "auto",
    attack_rows: int = ATTACK_ROWS,
    eps: Sequence[float] = (),
    confidence: float = 0.95,
    seed: int = 0,
    budget: int | None = None,
    domain: InputDomain | None = None,
    free: Sequence[str] = (),
    classes: str | Sequence[Any] | None = None,
    batch: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Validation:
    """Attack the inputs of an audit, and correlate its numbers with the smallest perturbation found.

    The smallest perturbation of an input is the least l2 length, in the unit of the domain, of a displacement after which
    the model decides otherwise: the smallest over the attacks, asked again alone and among others before it is believed.
    Attacks move in the units that the model is fed, within the domain's bounds, quantum and frozen features, and nowhere
    else.

    Args:
        model: a classifier, or anything that ``open_classifier`` takes (then closed at the end).
        x: (n, \\*shape) inputs, or a data file; y: (n,) labels.
        out: run folder: that of the audit, with ``validation.json``, ``calibration.svg`` and ``attacks.jsonl``.
        link, queries, mode, confidence, seed, free, classes, batch: as for ``audit``.
        attacks: ``auto`` (PGD, DeepFool and Carlini-Wagner where the model offers derivatives, else HopSkipJump, and
            Square for images), or names among ``fimaudit.validation.attacks.ATTACKS``.
        attack_rows: rows, forward and backward, that the attacks on one input may take, shared equally.
        eps: lengths for which to say how well the margin radius predicts which inputs were flipped within them.
        budget: most rows in all, those of the measurement included.
        domain: bounds, quantum, frozen features, scale, unit.
        resume: go on with the run in ``out``; overwrite: replace it.
        progress: called with rows, rows expected, inputs done and inputs, first of the measurement, then of the attacks.
        **options: passed to ``open_classifier``.

    Raises:
        MissingExtraError: adversarial-robustness-toolbox is not installed.
        UsageError: wrong use or bad input, before the first row is asked.
        ModelFailure: no input could be measured.

    Returns:
        the validation, also when the budget ran out under way: then ``attacked`` says how many inputs it covers.
    """
    started, lengths = time.perf_counter(), _checked(eps, attack_rows)
    folder = None if out is None else Path(out)
    with ExitStack() as stack:
        classifier, inputs, names = _opened(model, x, y, link, batch, attacks, options, stack)
        labels = class_labels(classifier.info, read_classes(classes))
        dataset = open_subject(inputs, classifier.info, domain or InputDomain(), free, labels)
        if not np.isfinite(dataset.x).all():
            raise UsageError("expected inputs without gaps to attack, got missing values; leave these inputs out")
        report = audit(
            classifier, inputs, out=folder, link=link, queries=queries, mode=mode, confidence=confidence, seed=seed,
            budget=budget, domain=domain, free=free, classes=classes, batch=batch, resume=resume, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
        task = _Task(dataset.x, dataset.space, names, attack_rows, seed, report.inputs)
        journal, ledger, measured = _journal_and_ledger(classifier, report, inputs, task, mode, folder, resume, stack)
        stopped = _attack_all(task, Meter(classifier, budget=budget, batch=batch, ledger=ledger), journal, progress)
    results = [journal.done[i] for i in sorted(journal.done)]
    validation = _assembled(report, results, task, lengths, confidence, measured, stopped, time.perf_counter() - started)
    if folder is not None:
        _write(folder, validation)
    return validation


@dataclass(frozen=True)
class _Task:
    """What is attacked: (n, *shape) rows, by which attacks, and what the audit measured of each."""

    x: NDArray[Any]
    space: Space
    names: list[str]
    most: int
    seed: int
    measured: list[Sensitivity]


def _opened(
    model: object,
    x: ArrayLike | Inputs | str | Path,
    y: ArrayLike | None,
    link: Link,
    batch: int | None,
    attacks: Sequence[str] | str,
    options: dict[str, Any],
    stack: ExitStack,
) -> tuple[Classifier, Inputs, list[str]]:
    """The model, the inputs as it takes them, and the attacks that apply to both."""
    from fimaudit.validation.smallest_perturbation import choose_attacks

    inputs = as_data(x, y, None)
    if not isinstance(inputs, Inputs):
        raise UsageError(f"expected inputs that fit in memory to attack, got {inputs.source}; give a sample of them")
    if batch is not None and is_endpoint(model):
        options.setdefault("batch", batch)
    classifier = open_classifier(model, link, **{**options, **about(inputs, model)})
    if not isinstance(model, Classifier):
        stack.callback(classifier.close)
    if classifier.info.labels_only:
        raise UsageError(
            "validate correlates numbers that need probabilities, and this model is read as labels only; the witness of "
            "each input in its audit is a real counterexample"
        )
    if len(inputs) > MOST_INPUTS:
        raise UsageError(f"expected at most {MOST_INPUTS} inputs to attack, got {len(inputs)}; give a sample of them")
    shape = check_inputs(replace(inputs, y=None), classifier.info.input_shape).x.shape[1:]
    return classifier, inputs, choose_attacks(attacks, isinstance(classifier, Differentiable), shape)


def _journal_and_ledger(
    classifier: Classifier,
    report: Report,
    inputs: Inputs,
    task: _Task,
    mode: str,
    folder: Path | None,
    resume: bool,
    stack: ExitStack,
) -> tuple[AttackJournal, Ledger, int]:
    """Where finished inputs are kept, where calls are counted, and the rows that the measurement took."""
    if folder is not None:
        stack.callback(FolderLock(folder).release)
        if not resume:
            with writing(folder):
                for name in (ATTACKS_JOURNAL, VALIDATION, PICTURE):
                    (folder / name).unlink(missing_ok=True)
    measured = report.summary.queries
    identity = {
        "attacks": task.names, "attack_rows": task.most, "seed": task.seed, "data": inputs.fingerprint(), "mode": mode,
    }  # fmt: skip
    journal = AttackJournal(folder, identity, Usage(measured, report.summary.requests), resume=resume)
    stack.callback(journal.close)
    if folder is None or not isinstance(classifier, NetworkClassifier):
        return journal, cast(Ledger, journal), measured
    ledger = stack.enter_context(closing(open_ledger(folder / LEDGER, endpoint_fingerprint(classifier), resume=True)))
    earlier = sum(s.forward_rows for s in journal.done.values())  # an endpoint's ledger counts earlier attacks too
    return journal, ledger, measured - earlier


def _assembled(
    report: Report,
    results: list[AttackedInput],
    task: _Task,
    lengths: Sequence[float],
    confidence: float,
    measured: int,
    stopped: str | None,
    seconds: float,
) -> Validation:
    """What was found, as one record."""
    return Validation(
        model=report.model,
        data=report.data,
        unit=report.domain["unit"],
        settings={**report.settings, "attacks": task.names, "attack_rows": task.most, "eps": list(lengths)},
        environment=_environment(report.environment, seconds),
        correlations=correlate(results, confidence, task.seed),
        flipped=flipped_within(results, lengths, confidence, task.seed),
        calibration=calibration_bins(results),
        attacks=attack_summaries(results, task.names),
        measured_rows=measured,
        forward_rows=sum(s.forward_rows for s in results),
        backward_rows=sum(s.backward_rows for s in results),
        attacked=sum(s.status != "failed" for s in results),
        censored=sum(s.status == "censored" for s in results),
        failed=sum(s.status == "failed" for s in results),
        warnings=[*report.warnings, *_warnings(results, len(task.x), stopped)],
        inputs=results,
    )


def _attack_all(task: _Task, meter: Meter, journal: AttackJournal, progress: Progress | None) -> str | None:
    """Attack the inputs that are not done yet; why it stopped early, or ``None``."""
    if len(task.measured) < len(task.x):  # attacks begin at other inputs' decisions: at all of them
        return f"{len(task.measured)} of them were measured; go on with --resume"
    passes = CountedModel(meter)
    known = [s for s in task.measured if s.predicted_class is not None]
    others = (task.x[[s.index for s in known]], np.array([s.predicted_class for s in known], dtype=np.int64))
    radii = [s.margin_radius.value for s in known if s.margin_radius.value]
    usual = float(np.median(radii)) if radii else 1.0
    before = meter.usage.rows

    def progressed() -> None:
        if progress is not None:
            progress(meter.usage.rows - before, task.most * len(task.measured), len(journal.done), len(task.measured))

    for s in task.measured:
        progressed()
        if s.index in journal.done:
            continue
        if s.status == "failed":
            journal.keep(AttackedInput(index=s.index, status="failed", label=s.label, reason=s.reason))
            continue
        try:
            journal.keep(_attack(task, s, passes, others, s.margin_radius.value or usual))
        except StorageFailure:
            raise
        except BudgetExhausted as exc:
            return str(exc)
        except ModelFailure as exc:
            if isinstance(meter.model, NetworkClassifier):
                return f"{exc}; go on with --resume"
            journal.keep(AttackedInput(index=s.index, status="failed", label=s.label, reason=str(exc)))
        except FimauditError as exc:
            journal.keep(AttackedInput(index=s.index, status="failed", label=s.label, reason=str(exc)))
    progressed()
    return None


def _attack(
    task: _Task, s: Sensitivity, passes: CountedModel, others: tuple[NDArray[Any], Any], unit: float
) -> AttackedInput:
    from fimaudit.validation.smallest_perturbation import smallest_perturbation

    found = smallest_perturbation(
        passes,
        task.x[s.index],
        task.space,
        unit,
        task.names,
        seed=1_000_003 * task.seed + s.index,
        others=others,
        most=task.most,
    )
    return AttackedInput(
        index=s.index,
        status="censored" if found.distance is None else "found",
        predicted_class=found.decision,
        label=s.label,
        margin_radius=s.margin_radius.value,
        smallest_radius=s.smallest_radius,
        peak_spectral_norm=s.peak_spectral_norm.value,
        spectral_norm=s.spectral_norm.value,
        flags=s.flags,
        smallest_perturbation=found.distance,
        attack=found.attack,
        changed_to=found.changed_to,
        attacks=found.distances,
        forward_rows=found.forward,
        backward_rows=found.backward,
        unfinished=found.unfinished,
        reason=found.reason,
    )


def _environment(measured: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The measurement's, with the attack library's version, ended now."""
    packages = {**measured["packages"], LIBRARY: version(LIBRARY)}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {**measured, "packages": packages, "finished": finished, "seconds": round(seconds, 3)}


def _checked(eps: Sequence[float], attack_rows: int) -> tuple[float, ...]:
    for one in eps:
        if not 0 < one < float("inf"):
            raise UsageError(f"expected each eps to be a length above 0, got {one:g}")
    if attack_rows < 100:
        raise UsageError(f"expected at least 100 rows for the attacks on one input, got {attack_rows}")
    return tuple(sorted({float(one) for one in eps}))


def _warnings(results: Sequence[AttackedInput], inputs: int, stopped: str | None) -> list[str]:
    out = []
    censored = sum(s.status == "censored" and s.reason is None for s in results)
    if censored:
        out.append(
            f"no attack changed the decision of {censored} of {len(results)} inputs: they are censored, stand in no "
            "correlation, and their perturbation is unknown, not 0"
        )
    dropped = [s for s in results if s.status == "censored" and s.reason is not None]
    if dropped:
        out.append(
            f"attacks changed the decision of {len(dropped)} of {len(results)} inputs, but not both alone and among other "
            f"rows: they are censored too; input {dropped[0].index}: {dropped[0].reason}"
        )
    short = sum(bool(s.unfinished) for s in results)
    if short:
        out.append(
            f"attacks on {short} of {len(results)} inputs ran out of rows, so that a smaller perturbation may exist; "
            "raise --attack-rows"
        )
    if stopped is not None:
        out.append(f"{len(results)} of {inputs} inputs were attacked: {stopped}")
    return out


def _write(folder: Path, validation: Validation) -> None:
    """``validation.json`` and the calibration plot."""
    from fimaudit.validation.calibration_plot import plot_calibration

    plot_calibration(validation, folder / PICTURE)
    write_whole(folder / VALIDATION, validation.to_json().encode())
