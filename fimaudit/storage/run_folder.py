"""A finished run as it lies in its folder: the report, and every input even where the report's own list is empty."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from pydantic import ValidationError

from fimaudit.audit_report import Report
from fimaudit.errors import RunFolderError
from fimaudit.foreign_errors import translated
from fimaudit.results import Sensitivity
from fimaudit.statistics.columns import Columns
from fimaudit.statistics.spread import evenly_spread
from fimaudit.storage.jsonl import newer
from fimaudit.storage.report_sections import check_sections
from fimaudit.storage.tables import INPUTS_FILE, read_inputs_table, rows_at

__all__ = ["PAGE", "REPORT", "VERDICT", "RunFolder", "first_error", "is_run", "read_for_page", "read_run", "run_of"]

REPORT = "report.json"
PAGE = "report.html"
VERDICT = "verdict.json"
#: A page of a large run draws so many inputs, spread evenly, and lists so many of the most sensitive.
PAGE_SAMPLE, PAGE_WORST = 2_000, 500
#: The last ``schema_version`` of a report that this fimaudit reads, with all before it.
KNOWN = 1

#: Of a report that lies in no folder: nothing is found in there.
NOWHERE = Path(os.devnull)


@dataclass(frozen=True)
class RunFolder:
    """A run folder that was read.

    Attributes:
        folder: where it lies.
        report: ``report.json``.
        inputs: every measured input, from the report or from its table; a sample in ``read_for_page``.
        worst: the most sensitive inputs of all, where ``inputs`` is a sample.
    """

    folder: Path
    report: Report
    inputs: tuple[Sensitivity, ...]
    worst: tuple[Sensitivity, ...] = ()

    @property
    def unmeasured(self) -> int:
        """Inputs of the data that the run did not reach."""
        return max(0, int(self.report.data.get("inputs", len(self.inputs))) - len(self.inputs))

    @property
    def ranked(self) -> tuple[Sensitivity, ...]:
        """Where to look for the most sensitive inputs."""
        return self.worst or self.inputs


def is_run(target: object) -> TypeGuard[str | Path]:
    """Whether a target names a folder that holds a finished run."""
    return isinstance(target, str | Path) and (Path(target) / REPORT).exists()


def read_run(folder: str | Path) -> RunFolder:
    """Read a run folder.

    Raises:
        RunFolderError: no folder, no report in it, or a report or table that cannot be read.
    """
    path, report = _report(folder)
    if report.inputs or not report.inputs_file:
        return RunFolder(path, report, tuple(report.inputs))
    return RunFolder(path, report, tuple(read_table(path / INPUTS_FILE)))


def run_of(report: Report, *, whole: bool = True) -> RunFolder:
    """A report with its inputs, those of a large run from its folder.

    Args:
        report: the report.
        whole: all of them, else as many as a page shows (``read_for_page``).

    Raises:
        RunFolderError: a table of inputs that is gone or cannot be read.
    """
    if report.folder is not None and report.inputs_file and not report.inputs and report.data.get("measured"):
        found = (read_run if whole else read_for_page)(report.folder)
        return RunFolder(report.folder, report, found.inputs, found.worst)
    return RunFolder(report.folder or NOWHERE, report, tuple(report.inputs))


def read_for_page(folder: str | Path, *, sample: int = PAGE_SAMPLE, worst: int = PAGE_WORST) -> RunFolder:
    """Read as much of a run as a page can show: all inputs of a small one; of a large one a sample and the worst.

    Args:
        folder: the run folder.
        sample: how many inputs at most, spread evenly over the data.
        worst: how many of the most sensitive, where that is a sample.

    Raises:
        RunFolderError: as ``read_run``.
    """
    path, report = _report(folder)
    table = path / INPUTS_FILE
    if report.inputs or not report.inputs_file or not table.exists():
        return read_run(folder)
    with translated(RunFolderError, f"{table} cannot be read as a table of inputs"):
        columns = Columns.read(table)
        if len(columns) <= sample:
            return read_run(folder)
        spread = rows_at(table, columns.index[evenly_spread(len(columns), sample)].tolist())
        ranked = rows_at(table, columns.index[columns.most_sensitive(worst)].tolist())
    return RunFolder(path, report, tuple(spread), tuple(ranked))


def _report(folder: str | Path) -> tuple[Path, Report]:
    path = Path(folder)
    if not path.exists():
        raise RunFolderError(f"no such run folder: {path}; give the --out folder of a finished fimaudit audit")
    if not path.is_dir():
        raise RunFolderError(f"expected a run folder, got a file: {path}")
    if not (path / REPORT).exists():
        raise RunFolderError(f"{path} holds no {REPORT}; give the --out folder of a finished fimaudit audit")
    try:
        report = Report.read(path)
        check_sections(report)
    except ValidationError as exc:
        version = _schema_version(path / REPORT)
        if version is not None and version > KNOWN:
            raise newer(path / REPORT, version, KNOWN) from exc
        raise RunFolderError(f"{path / REPORT} is no report of this version of fimaudit: {first_error(exc)}") from exc
    except OSError as exc:
        raise RunFolderError(f"cannot read {path / REPORT}: {exc.strerror or exc}") from exc
    return path, report


def _schema_version(path: Path) -> int | None:
    """What a report that could not be read says of itself."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return int(json.loads(path.read_bytes())["schema_version"])
    return None


def read_table(path: Path) -> list[Sensitivity]:
    """The inputs of a Parquet file, or one sentence that says why not."""
    if not path.exists():
        raise RunFolderError(f"{path.parent} holds no {path.name}, which its report refers to")
    with translated(RunFolderError, f"{path} cannot be read as a table of inputs"):
        return read_inputs_table(path)


def first_error(error: ValidationError) -> str:
    """Where and what the first finding is, in one line."""
    found = error.errors()[0]
    place, said = ".".join(str(part) for part in found["loc"])[:200], str(found["msg"])[:500]
    return f"{place}: {said}" if place else said
