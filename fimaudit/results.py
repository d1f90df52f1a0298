"""What the measurement of one input returns, and summaries over inputs: plain data (pydantic), as in ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter

from fimaudit.errors import MissingExtraError
from fimaudit.errors.option_names import in_callers_words

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "FLAG_WORDS",
    "QUANTITY_NAMES",
    "QUANTITY_TITLES",
    "SCREENED",
    "UNANSWERED",
    "Certificate",
    "Contrast",
    "FeatureShare",
    "Interval",
    "Kind",
    "MeasuredInput",
    "Metric",
    "PlainData",
    "Presented",
    "Quantiles",
    "ScaleRung",
    "Sensitivity",
    "Sentence",
    "Status",
    "Summary",
    "Witness",
    "flat_row",
    "frame_of",
    "function_above",
]

#: Flag of an input that was screened only, where the most sensitive ones were measured in full.
SCREENED = "screened"
#: Flag of an input that failed because the server did not answer: it is asked again, and is in no report.
UNANSWERED = "unanswered"
#: The quantities, and what people call them.
QUANTITY_TITLES = {"spectral_norm": "spectral norm", "peak_spectral_norm": "peak norm", "margin_radius": "margin radius"}
QUANTITY_NAMES = tuple(QUANTITY_TITLES)
#: What an input may be flagged with, and what that means.
FLAG_WORDS = {
    "screened": "looked at with few queries only, because others are more sensitive",
    "own_step": "measured with a displacement of its own, because the common one did not suit it",
    "unstable_step": "no displacement at which the answer changes steadily was found; its interval is wide",
    "kinked": "its answers bend at the input, so its slopes to either side differ",
    "jumps": "answers around it jump, so it has no margin radius",
    "local_radius_overstates": "another decision lies nearer than the slope at the input says, so its margin radius was cut",
    "counterexample_within_radius": "its decision really changes nearer than its margin radius said, which was cut to that",
    "counterexample_far_within_radius": "its decision really changes nearer than 0.7 of what its margin radius said",
    "radius_not_checked": "nothing was looked at farther out that could contradict its margin radius",
    "noisy_labels": "its labels are random: rows were asked several times, and no single row is a counterexample",
    "unrepeatable": "rows that were answered otherwise are not when they are asked again, so no upper limit comes of them",
    "drift": "measured while the endpoint may have changed its model",
    "above_threshold": "its spectral norm was decided to lie above the threshold",
    "below_threshold": "its spectral norm was decided to lie below the threshold",
}
Metric = Literal["spectral_norm", "peak_spectral_norm", "margin_radius"]
Status = Literal["ok", "below_detection", "no_rival_visible", "abstained", "failed"]
Kind = Literal["local", "finite_scale", "lower_bound"]
#: What a result says in words: of options it speaks as whoever reads it would type them.
Sentence = Annotated[str, AfterValidator(in_callers_words)]


def function_above(module: str, name: str) -> Any:
    """A function that stands above the plain data; it is found by name when it is asked for, as data import nothing."""
    return getattr(import_module(f"fimaudit.{module}"), name)


class PlainData(BaseModel):
    """What a file holds field by field: nothing beside its fields, no change, and no number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Presented(PlainData):
    """What ``print`` and a notebook show on one screen, the answer first: by the function named in ``_shown_by``."""

    _shown_by: ClassVar[tuple[str, str]] = ("report.screens", "screen_of")

    def _screen(self) -> Any:
        return function_above(*self._shown_by)(self)

    def __str__(self) -> str:
        return str(self._screen().text())

    def _repr_html_(self) -> str:
        return str(self._screen().html())

    def to_json(self) -> str:
        """The text of its file (``report.json`` for a report)."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


class Interval(PlainData):
    """A value with its confidence limits; what was not measured is ``None``, limits that are known stay."""

    value: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __str__(self) -> str:
        number = "-" if self.value is None else f"{self.value:.4g}"
        low = "0" if self.lower is None else f"{self.lower:.4g}"
        high = "inf" if self.upper is None else f"{self.upper:.4g}"
        return f"{number} [{low}, {high}]"


class Contrast(PlainData):
    """The two classes that trade most probability along the most sensitive direction, the more probable of them first."""

    from_: int = Field(alias="from")
    to: int


class FeatureShare(PlainData):
    """A feature of a table, by position, and its share of the squared gradient towards the nearest other answer."""

    feature: int
    share: float


class ScaleRung(PlainData):
    """The margin radius at one displacement, and how many random displacements of that length changed the decision.

    ``radius`` is ``None`` where it could not be measured; ``flips_upper`` is the Clopper-Pearson limit of the share;
    ``nearest_flip`` is how far from the input the nearest lies: near a bound, displacements begin farther inside.
    """

    displacement: float
    radius: float | None = None
    flips: int
    nearest_flip: float | None = None
    flips_upper: float
    directions: int


class Witness(PlainData):
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


class Certificate(PlainData):
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


class Sensitivity(Presented):
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


@dataclass(eq=False)
class MeasuredInput:
    """One input's result with the rows and calls that it took."""

    result: Sensitivity
    rows: int
    requests: int


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


class Quantiles(PlainData):
    """Summary of one quantity over inputs; the low tail matters for the margin radius, the high one for the norms."""

    median: Interval = Interval()
    p05: Interval = Interval()
    p95: Interval = Interval()
    min: Interval = Interval()
    max: Interval = Interval()
    mean: Interval = Interval()


class Summary(PlainData):
    """These inputs, the population they are a sample of, and what it cost."""

    spectral_norm: Quantiles = Quantiles()
    peak_spectral_norm: Quantiles = Quantiles()
    margin_radius: Quantiles = Quantiles()
    population: dict[str, Quantiles] = {}
    statuses: dict[str, int] = {}
    queries: int = 0
    requests: int = 0


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
