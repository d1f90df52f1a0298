"""The report of an audit: plain data (pydantic), mirrored one to one by ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PrivateAttr

from fimaudit.errors import UsageError
from fimaudit.results import (
    QUANTITY_NAMES,
    Interval,
    PlainData,
    Presented,
    Sensitivity,
    Sentence,
    Summary,
    flat_row,
    frame_of,
    function_above,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["IntegrityCheck", "PlotKind", "Report", "StepReport", "Yardstick", "json_schema"]

PlotKind = Literal["profile", "distribution", "contrast", "worst", "scale", "groups", "calibration"]


class StepReport(PlainData):
    """How the displacement was chosen: typical l2 length, and the pilot's energy on each rung."""

    displacement: float | None = None
    profile: list[dict[str, float]] = []


class IntegrityCheck(PlainData):
    """One check of whether the answers are those of one function whose slopes reach its decisions (``docs/integrity.md``).

    Attributes:
        name: ``history``, ``last_digit``, ``boundary``, ``slope``, ``radius`` or ``ceiling``.
        outcome: ``contradicted`` where the answers show that the numbers are not what they claim to be.
        notices: what it can and cannot notice, in words.
        finding: what was found, in words.
        metrics: the quantities that a contradiction takes away.
        numbers: what was found, in numbers.
        rows: that it took.
    """

    name: Literal["history", "last_digit", "boundary", "slope", "radius", "ceiling"]
    outcome: Literal["ok", "contradicted", "not_applicable"]
    notices: str
    finding: Sentence
    metrics: list[str] = list(QUANTITY_NAMES)
    numbers: dict[str, float | int | None] = {}
    rows: int = 0


class Yardstick(PlainData):
    """Something known, beside which a headline of the report can be read.

    Attributes:
        name: ``baseline`` (another run), ``noise`` (one standard deviation of it), ``linear_model`` (trained on the same
            data), ``another_class`` (the nearest input of another class in the data), ``most_common_class``.
        words: what it is, to stand in a sentence.
        distance: l2 length in the unit of the input domain, to compare with the margin radius; a median over inputs.
        spectral_norm: median, in 1 / unit^2.
        accuracy: share of right answers.
        inputs: how many it rests on.
    """

    name: Literal["baseline", "noise", "linear_model", "another_class", "most_common_class"]
    words: str
    distance: float | None = None
    spectral_norm: float | None = None
    accuracy: float | None = None
    inputs: int | None = None


class Report(Presented):
    """A whole audit; ``report.json`` is this, field by field.

    ``print(report)`` and a notebook show the answer first. ``accuracy`` is the share of right answers of labelled inputs,
    ``yardsticks`` are what the headlines can be compared with.
    """

    schema_version: Literal[1] = 1
    model: dict[str, Any]
    data: dict[str, Any]
    domain: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    step: StepReport
    summary: Summary
    groups: dict[str, Summary] = {}
    accuracy: Interval | None = None
    yardsticks: list[Yardstick] = []
    warnings: list[Sentence] = []
    integrity: list[IntegrityCheck] = []
    inputs: list[Sensitivity] = []
    inputs_file: str | None = None
    _folder: Path | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """By what ``report.json`` holds: where it lies makes no difference."""
        return isinstance(other, Report) and self.__dict__ == other.__dict__

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Enough to tell it from another; ``print`` shows more."""
        place = None if self._folder is None else str(self._folder)
        return [("model", self.model.get("name")), ("inputs", self.data.get("measured")), ("folder", place)]

    @property
    def folder(self) -> Path | None:
        """The run folder, where the report was written to one or read from one."""
        return self._folder

    def keep_folder(self, folder: str | Path) -> None:
        """Remember the run folder."""
        self._folder = Path(folder)

    @property
    def contradicted(self) -> list[IntegrityCheck]:
        """The integrity checks that the answers contradict."""
        return [check for check in self.integrity if check.outcome == "contradicted"]

    def worst(self, k: int = 8) -> list[Sensitivity]:
        """The most sensitive inputs, the smallest margin radius first; where none is known, the largest spectral norm."""
        return list(function_above("report.presenting", "worst")(self, k))

    def plot(self, kind: PlotKind = "distribution") -> Figure:
        """A matplotlib figure of the run, which a notebook shows.

        Args:
            kind: ``distribution``, ``worst``, ``groups``, ``calibration``, ``contrast``, ``profile`` or ``scale``.

        Raises:
            UsageError: an unknown kind, or a report that does not hold what the figure needs.
        """
        figure: Figure = function_above("report.presenting", "plot")(self, kind)
        return figure

    def html(self, path: str | Path | None = None) -> str:
        """The page, with the most sensitive inputs themselves where the run folder keeps them; also written to ``path``."""
        return str(function_above("report.presenting", "html")(self, path))

    def gate(self, policy: str | Path, *, baseline: str | Path | None = None) -> Any:
        """Decide a policy file over the report.

        Args:
            policy: YAML file.
            baseline: run folder for ``ratio`` rules, in place of the policy's own.

        Raises:
            UsageError: a policy that is refused, a group or baseline that is not there.
        """
        return function_above("report.presenting", "gate")(self, policy, baseline)

    def bundle(
        self, out: str | Path, *, key: str | Path | None = None, signer: str | None = None, template: str | None = None
    ) -> Path:
        """Pack the run folder into an archive that ``fimaudit verify`` can check.

        Args:
            out: the archive, ``.zip``.
            key: Ed25519 private key in PEM, to sign with.
            signer: who signs.
            template: the standard whose table, filled from this run, becomes a section of the page: ``24029-3``.

        Raises:
            UsageError: a report without a run folder, or a key without a signer.
        """
        if self._folder is None:
            raise UsageError("evidence needs a run folder, and this report lies in none; give audit(..., out=FOLDER)")
        return Path(
            function_above("evidence.bundle", "write_bundle")(self._folder, out, key=key, signer=signer, template=template)
        )

    def to_frame(self) -> pd.DataFrame:
        """The inputs as a pandas table, an interval in three columns: ``name``, ``name_lower``, ``name_upper``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of([flat_row(s) for s in function_above("report.presenting", "inputs")(self)], "Report.to_frame")

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """The report of a run folder (or of a path to ``report.json``)."""
        path = Path(folder)
        file = path / "report.json" if path.is_dir() else path
        report = cls.model_validate_json(file.read_bytes())
        report.keep_folder(file.parent)
        return report


def json_schema() -> Mapping[str, Any]:
    """JSON Schema of ``report.json``."""
    return Report.model_json_schema(by_alias=True)
