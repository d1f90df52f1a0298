"""Models on the same inputs: run folders are read, models that are not audited yet are audited. ``compare``, ``rank``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fimaudit.comparison.ranking import Ranking, rank_runs
from fimaudit.comparison.two_runs import Comparison, check_same, compare_runs
from fimaudit.errors import UsageError
from fimaudit.results import Metric
from fimaudit.runs.auditing import audit
from fimaudit.runs.keywords import AuditKeywords
from fimaudit.runs.options import refuse_unknown
from fimaudit.storage.run_folder import REPORT, RunFolder, is_run, read_run

__all__ = ["compare", "open_runs", "rank"]


def compare(
    first: object,
    second: object,
    *,
    data: object = None,
    out: str | Path | None = None,
    first_options: Mapping[str, Any] | None = None,
    second_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Comparison:
    """Compare two models on the same inputs, the second against the first.

    Args:
        first, second: run folders, or two models (anything ``audit`` takes) with ``data``.
        data: inputs for models that are still to be audited; run folders need none.
        out: folder in which such audits keep their runs, ``first`` and ``second``.
        first_options, second_options: passed to the audit of one of them, where the two differ (``link``, ``weights``).
        **options: passed to both audits.

    Raises:
        UsageError: a folder that holds no run, runs over different inputs or in different units, models without data.
    """
    each = [{**options, **(own or {})} for own in (first_options, second_options)]
    return compare_runs(*open_runs([first, second], data, out, each))


def rank(
    *targets: object, data: object = None, out: str | Path | None = None, metric: Metric = "margin_radius", **options: Any
) -> Ranking:
    """Rank models by the median of a quantity over the same inputs, the least sensitive first.

    Args:
        *targets: run folders or models, as for ``compare``, two or more.
        data: inputs for models that are still to be audited; out: folder in which such audits keep their runs.
        metric: ``margin_radius``, ``peak_spectral_norm`` or ``spectral_norm``.
        **options: passed to each audit.

    Raises:
        UsageError: as for ``compare``.
    """
    if len(targets) < 2:
        raise UsageError(f"expected two run folders or models, or more, got {len(targets)}")
    return rank_runs(open_runs(targets, data, out, [options] * len(targets)), metric)


def open_runs(
    targets: Sequence[object], data: object, out: str | Path | None, options: Sequence[Mapping[str, Any]]
) -> list[RunFolder]:
    """Read run folders and audit what is none yet; all must rest on the same inputs in the same unit.

    Args:
        targets: run folders or models, two or more.
        data: inputs for the models.
        out: folder in which audits keep their runs: ``first`` and ``second``, or ``model1``, ``model2`` ...
        options: of each target's audit; those of a run folder have no use.

    Raises:
        UsageError: an unknown option, a folder without a report or models without data, all found before a model is asked;
            runs over other inputs or in other units.
    """
    for target, own in zip(targets, options, strict=True):
        refuse_unknown(own, AuditKeywords.__annotations__)
        if is_run(target):
            continue
        if isinstance(target, str | Path) and Path(target).is_dir():
            raise UsageError(f"{target} is a folder without {REPORT}; give the --out folder of a finished fimaudit audit")
        if data is None:
            raise UsageError(f"{target} is no run folder; to compare models not audited yet, give inputs with --data")
    runs = []
    for place, (target, own) in enumerate(zip(targets, options, strict=True)):
        if is_run(target):
            runs.append(read_run(target))
        else:
            name = ("first", "second")[place] if len(targets) == 2 else f"model{place + 1}"
            folder = None if out is None else Path(out) / name
            report = audit(target, data, out=folder, **own)  # type: ignore[arg-type]
            runs.append(read_run(folder) if folder is not None else RunFolder(Path(name), report, tuple(report.inputs)))
        check_same(runs[0], runs[-1])
    return runs
