"""What a measurement returns: plain data (pydantic), mirrored one to one by ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter

from fimaudit.errors import MissingExtraError, UsageError
from fimaudit.option_names import in_callers_words

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PlotKind = Literal["profile", "distribution", "contrast", "worst", "scale", "groups", "calibration"]

__all__ = [
    "SCREENED",
    "UNANSWERED",
    "Certificate",
    "Contrast",
    "FeatureShare",
    "IntegrityCheck",
    "Interval",
    "Kind",
    "MeasuredInput",
    "PlotKind",
    "Presented",
    "Quantiles",
    "Report",
    "ScaleRung",
    "Sensitivity",
    "Sentence",
    "Status",
    "StepReport",
    "Summary",
    "Witness",
    "Yardstick",
    "flat_row",
    "frame_of",
    "json_schema",
]

#: Flag of an input that was screened only, where the most sensitive ones were measured in full.
SCREENED = "screened"
#: Flag of an input that failed because the server did not answer: it is asked again, and is in no report.
UNANSWERED = "unanswered"
QUANTITY_NAMES = ("spectral_norm", "peak_spectral_norm", "margin_radius")
Status = Literal["ok", "below_detection", "no_rival_visible", "abstained", "failed"]
Kind = Literal["local", "finite_scale", "lower_bound"]
#: What a result says in words: of options it speaks as whoever reads it would type them.
Sentence = Annotated[str, AfterValidator(in_callers_words)]


def _above(module: str, name: str) -> Any:
    """A function that stands above the plain data; it is found by name when it is asked for, as data import nothing."""
    return getattr(import_module(f"fimaudit.{module}"), name)


class Presented:
    """What ``print`` and a notebook show on one screen, the answer first: by the function named in ``_shown_by``."""

    _shown_by: ClassVar[tuple[str, str]] = ("report.screens", "screen_of")

    def _screen(self) -> Any:
        return _above(*self._shown_by)(self)

    def __str__(self) -> str:
        return str(self._screen().text())

    def _repr_html_(self) -> str:
        return str(self._screen().html())


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Interval(_Data):
    """A value with its confidence limits; what was not measured is ``None``, limits that are known stay."""

    value: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __str__(self) -> str:
        number = "-" if self.value is None else f"{self.value:.4g}"
        low = "0" if self.lower is None else f"{self.lower:.4g}"
        high = "inf" if self.upper is None else f"{self.upper:.4g}"
        return f"{number} [{low}, {high}]"


class Contrast(_Data):
    """The two classes that trade most probability along the most sensitive direction, the more probable of them first."""

    from_: int = Field(alias="from")
    to: int


class FeatureShare(_Data):
    """A feature of a table, by position, and its share of the squared gradient towards the nearest other answer."""

    feature: int
    share: float


class ScaleRung(_Data):
    """The margin radius at one displacement, and how many random displacements of that length changed the decision.

    ``radius`` is ``None`` where it could not be measured; ``flips_upper`` is the Clopper-Pearson limit of the share.
    """

    displacement: float
    radius: float | None = None
    flips: int
    flips_upper: float
    directions: int


class Witness(_Data):
    """A displacement that really changed the decision: its l2 length in units of the scale, and the class beyond it.

    The input itself is kept in the run folder (``witness.npz``), not in the report.
    """

    distance: float
    predicted_class: int
    _x: NDArray[Any] | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """By what a report holds: whether this process kept the input itself makes no difference."""
        return isinstance(other, Witness) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((self.distance, self.predicted_class))

    @property
    def x(self) -> NDArray[Any] | None:
        """The displaced input, where this process found it."""
        return self._x

    def keep(self, x: NDArray[Any]) -> None:
        """Attach the displaced input."""
        self._x = x.copy()


class Certificate(_Data):
    """Of the smoothed classifier at an input: its class holds within ``radius`` (l2, in units of the scale) of it.

    ``probability_lower`` and ``probability_upper`` are limits of the class's share under Gaussian displacements of standard
    deviation ``sigma``; class and radius are ``None`` where it abstains. ``reaches`` says whether the radius that was asked
    for is certified, ``None`` where nobody asked or the labels did not decide it.
    """

    sigma: float
    predicted_class: int | None = None
    radius: float | None = None
    probability_lower: float
    probability_upper: float
    reaches: bool | None = None


class Sensitivity(Presented, _Data):
    """One input's measurement.

    ``spectral_norm`` and ``peak_spectral_norm`` in 1 / unit^2, ``trace`` likewise, ``margin_radius`` and ``displacement``
    (l2 length of one displacement) in the unit of the input domain.
    """

    index: int
    status: Status
    kind: Kind = "local"
    method: str
    predicted_class: int | None = None
    probability: float | None = None
    label: int | None = None
    group: str | None = None
    displacement: float | None = None
    queries: int = 0
    spectral_norm: Interval = Interval()
    peak_spectral_norm: Interval = Interval()
    trace: Interval = Interval()
    margin_radius: Interval = Interval()
    effective_rank: float | None = None
    contrast: Contrast | None = None
    carried_by: list[FeatureShare] = []
    flags: list[str] = []
    profile: list[ScaleRung] = []
    smallest_radius: float | None = None
    witness: Witness | None = None
    smoothed: Certificate | None = None
    reason: Sentence | None = None


#: Fields with a structure of their own are kept as JSON text.
NESTED: dict[str, TypeAdapter[Any]] = {
    "carried_by": TypeAdapter(list[FeatureShare]),
    "profile": TypeAdapter(list[ScaleRung]),
    "witness": TypeAdapter(Witness | None),
    "smoothed": TypeAdapter(Certificate | None),
}


class MeasuredInput:
    """One input's result with the rows and calls that it took."""

    def __init__(self, result: Sensitivity, rows: int, requests: int) -> None:
        self.result = result
        self.rows = rows
        self.requests = requests


def flat_row(result: Sensitivity) -> dict[str, Any]:
    """One input as a row: an interval becomes ``name``, ``name_lower``, ``name_upper``; the contrast two columns."""
    row: dict[str, Any] = {}
    for name in Sensitivity.model_fields:
        cell = getattr(result, name)
        if isinstance(cell, Interval):
            row[name], row[f"{name}_lower"], row[f"{name}_upper"] = cell.value, cell.lower, cell.upper
        elif name == "contrast":
            row["contrast_from"] = None if cell is None else cell.from_
            row["contrast_to"] = None if cell is None else cell.to
        elif name in NESTED:
            row[name] = NESTED[name].dump_json(cell).decode() if cell else None
        else:
            row[name] = cell
    return row


class Quantiles(_Data):
    """Summary of one quantity over inputs; the low tail matters for the margin radius, the high one for the norms."""

    median: Interval = Interval()
    p05: Interval = Interval()
    p95: Interval = Interval()
    min: Interval = Interval()
    max: Interval = Interval()
    mean: Interval = Interval()


class Summary(_Data):
    """These inputs, the population they are a sample of, and what it cost."""

    spectral_norm: Quantiles = Quantiles()
    peak_spectral_norm: Quantiles = Quantiles()
    margin_radius: Quantiles = Quantiles()
    population: dict[str, Quantiles] = {}
    statuses: dict[str, int] = {}
    queries: int = 0
    requests: int = 0


class StepReport(_Data):
    """How the displacement was chosen: typical l2 length, and the pilot's energy on each rung."""

    displacement: float | None = None
    profile: list[dict[str, float]] = []


class IntegrityCheck(_Data):
    """One check of whether the answers are those of one function whose slopes reach its decisions (``docs/integrity.md``).

    Attributes:
        name: ``history``, ``last_digit``, ``boundary``, ``slope`` or ``radius``.
        outcome: ``contradicted`` where the answers show that the numbers are not what they claim to be.
        notices: what it can and cannot notice, in words.
        finding: what was found, in words.
        metrics: the quantities that a contradiction takes away.
        numbers: what was found, in numbers.
        rows: that it took.
    """

    name: Literal["history", "last_digit", "boundary", "slope", "radius"]
    outcome: Literal["ok", "contradicted", "not_applicable"]
    notices: str
    finding: Sentence
    metrics: list[str] = list(QUANTITY_NAMES)
    numbers: dict[str, float | int | None] = {}
    rows: int = 0


class Yardstick(_Data):
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


class Report(Presented, _Data):
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

    def to_json(self) -> str:
        """The text of ``report.json``."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    def worst(self, k: int = 8) -> list[Sensitivity]:
        """The most sensitive inputs, the smallest margin radius first; where none is known, the largest spectral norm."""
        return list(_above("report.presenting", "worst")(self, k))

    def plot(self, kind: PlotKind = "distribution") -> Figure:
        """A matplotlib figure of the run, which a notebook shows.

        Args:
            kind: ``distribution``, ``worst``, ``groups``, ``calibration``, ``contrast``, ``profile`` or ``scale``.

        Raises:
            UsageError: an unknown kind, or a report that does not hold what the figure needs.
        """
        figure: Figure = _above("report.presenting", "plot")(self, kind)
        return figure

    def html(self, path: str | Path | None = None) -> str:
        """The page, with the most sensitive inputs themselves where the run folder keeps them; also written to ``path``."""
        return str(_above("report.presenting", "html")(self, path))

    def gate(self, policy: str | Path, *, baseline: str | Path | None = None) -> Any:
        """Decide a policy file over the report.

        Args:
            policy: YAML file.
            baseline: run folder for ``ratio`` rules, in place of the policy's own.

        Raises:
            UsageError: a policy that is refused, a group or baseline that is not there.
        """
        return _above("report.presenting", "gate")(self, policy, baseline)

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
        return Path(_above("evidence.bundle", "write_bundle")(self._folder, out, key=key, signer=signer, template=template))

    def to_frame(self) -> pd.DataFrame:
        """The inputs as a pandas table, an interval in three columns: ``name``, ``name_lower``, ``name_upper``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of([flat_row(s) for s in _above("report.presenting", "inputs")(self)], "Report.to_frame")

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """The report of a run folder (or of a path to ``report.json``)."""
        path = Path(folder)
        file = path / "report.json" if path.is_dir() else path
        report = cls.model_validate_json(file.read_bytes())
        report.keep_folder(file.parent)
        return report


def frame_of(rows: Sequence[Mapping[str, Any]], needed_for: str) -> pd.DataFrame:
    """Rows as a pandas table.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as exc:
        raise MissingExtraError(needed_for, "pandas", "report") from exc
    return pd.DataFrame(list(rows))


def json_schema() -> Mapping[str, Any]:
    """JSON Schema of ``report.json``."""
    return Report.model_json_schema(by_alias=True)
