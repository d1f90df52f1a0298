"""What ``audit`` takes: one checked model of its options."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, InstanceOf, ValidationError, field_validator, model_validator

from fimaudit.data.table_reading import TableReading
from fimaudit.domain import InputDomain
from fimaudit.engines.selection import EngineName, RayEngine
from fimaudit.errors import UsageError
from fimaudit.estimation.stopping import most_queries
from fimaudit.measurement.query_split import looks_for_witness
from fimaudit.measurement.settings import ProfileChoice, Settings
from fimaudit.models.classes import finding_names, finding_position, read_classes
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.links import Link
from fimaudit.models.normalising import read_normalize
from fimaudit.models.opening import adapter_option_names, is_endpoint
from fimaudit.runs.screening import read_focus
from fimaudit.storage.yaml_files import nearest

__all__ = [
    "MOST_LABELS",
    "AuditOptions",
    "Existing",
    "Mode",
    "Order",
    "choice_sentence",
    "default_order",
    "read_options",
    "refuse_unknown",
]

Mode = Literal["auto", "black-box", "white-box"]
Existing = Literal["refuse", "resume", "overwrite"]
Order = Literal["inputs", "interleaved"]

#: Options that say how the model is opened, beside those of single adapters.
MODEL_OPTIONS = ("adapter", "device", "weights", "trust_pickle", "input", "output", "output_step", "finding", "hold")
#: Most labels of an input that stops by its precision.
MOST_LABELS = 4000
#: Options that are parts of ``domain``.
DOMAIN_OPTIONS = ("lower", "upper", "quantum", "unit", "scale", "frozen")
#: What a number must be, and the sentence that says so.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "queries": (lambda n: n >= 2, "expected at least 2 queries an input (the base row and one displaced)"),
    "confidence": (lambda c: 0.5 <= c < 1, "expected a confidence from 0.5 to below 1"),
    "budget": (lambda n: n >= 1, "expected a budget of at least one row"),
    "batch": (lambda n: n >= 1, "expected a batch of at least one row"),
    "precision": (lambda p: 0 < p < math.inf, "expected a finite precision above 0"),
    "threshold": (lambda t: 0 < t < math.inf, "expected a finite threshold above 0"),
    "smooth": (lambda s: 0 < s < math.inf, "expected a finite --smooth above 0, the standard deviation of the noise"),
    "smooth_radius": (lambda r: 0 < r < math.inf, "expected a finite --smooth-radius above 0"),
    "max_failures": (lambda n: n >= 0, "expected a number of failures to allow of 0 or more"),
}


class AuditOptions(BaseModel):
    """The options of ``audit``, checked; ``audit(model, x, **options.given())`` takes them as they were given.

    Further options of one adapter (``name``, ``classes``; an endpoint's ``rate``, ``timeout``, ...) are taken too. A word
    that neither fimaudit nor an adapter knows is refused.

    Attributes:
        link: what turns the model's output into probabilities; ``labels`` reads a class from each answer and nothing else.
        domain: the input domain; lower, upper, quantum, unit, scale, frozen: the same, one by one.
        free: integer columns of a table that may change (they are held otherwise), or ``all``.
        classes: the classes' names in the model's order, a list or ``"a,b,c"``, where the model does not say them; labels
            are matched by name. A number says how many a function has.
        preprocess: ``Normalize(mean, std)`` (torchvision's will do): the network is fed (x - mean) / std, and bounds, unit
            and metric are those of x. mean, std: the same, one number or one a channel.
        drop, index, sep, decimal, header, categorical: of a table: columns to leave out, the column that names rows, the
            separator of a CSV and its decimal sign, whether it begins with names, columns that are categories.
        existing: what to do with a run that lies in ``out``: ``refuse``, ``resume`` (go on with it) or ``overwrite``.
        resume, overwrite: the same as switches.
        budget: most rows that may be sent in all.
        queries: rows an input, the base row, its check and its share of the pilot included while these take a tenth at most.
            Beyond that, from 100 queries and 20 inputs on, they add 6 each at most, or 2.5 % where that is more, and 4 where
            an answer is odd; to fewer they may add more (``fimaudit plan`` says how many at most).
            ``auto``: as many as ``precision`` or ``threshold`` takes.
        mode: ``auto`` takes autograd where the model offers it, ``black-box`` never, ``white-box`` insists.
        confidence: of each two-sided interval; intervals cover the sampling of directions.
        seed: directions depend on it and the input's index alone.
        profile: radius and flips over longer displacements, out of the same queries: ``off``, ``cheap`` or ``full``.
        witness: look for a displacement that really changes the decision, alone and among others: 17 of each
            input's queries, and up to 20 rows more where it lies on the boundary. On by default from 170 queries on.
        integrity: after the inputs, check whether the answers are those of one function whose slopes reach its decisions
            (``report.integrity``): about 168 rows in all. By default from 170 queries on where that is a tenth at most.
        order: ``inputs``: calls go out input by input; ``interleaved``: those of inputs that are measured side by side in
            random turns. By default ``interleaved`` for endpoints. No number depends on it.
        precision: stop an input when the half-width of its spectral norm is within this share of the value.
        threshold: stop an input when its spectral norm is decided to lie above or below this; the decision is a flag.
        focus: ``top:k``: screen all inputs with few queries, and measure in full only those that may be among the k with
            the largest spectral norms; the report names them and says how sure it is (``report.data["focus"]``).
        smooth: from labels: certify the classifier that answers by majority under Gaussian noise of this standard deviation,
            in units of the scale; nothing is then said of the model itself (``docs/labels.md``).
        smooth_radius: with ``smooth``: stop an input when this radius is certified, or cannot be.
        batch: rows a call.
        count_refused: rows that an endpoint turned away unprocessed (429, 503, 401, ...) count against ``budget`` too.
        tolerance: white box, many classes: relative residual at which an input's iteration stops.
        worst_direction: white box: keep each input's most sensitive direction (unit l2) in the run folder.
        surrogate: local models (files, modules) of which each input's leading directions are measured exactly, or
            ``learned``: directions that the first inputs have in common. Off where a trial shows that it does not pay; the
            estimates are unbiased whatever the surrogate.
        max_failures: stop, so that the run can be resumed, when more inputs than this have failed.
        engine: ``local`` measures in this process, ``ray`` or a ``RayEngine`` on the processes of a cluster; the numbers are
            the same. address, workers, gpus_per_worker: of ``engine="ray"``, as in ``RayEngine``.
        baseline: run folder of another model in the same unit; noise: standard deviation of the noise that inputs carry, one
            number or one a feature, in the data's own numbers; linear_model: train one on the labels. Yardsticks for the
            report's headlines; they ask the model nothing.
        adapter, device, weights, trust_pickle, input, output, output_step, finding, hold: as for ``open_classifier``.

    Raises:
        UsageError: an unknown word, or a value that makes no sense.

    >>> AuditOptions(queries=400).given()
    {'queries': 400}
    """

    model_config = ConfigDict(frozen=True, extra="allow", arbitrary_types_allowed=True)

    link: Link = "auto"
    domain: InstanceOf[InputDomain] | None = None
    lower: Any = None
    upper: Any = None
    quantum: Any = None
    unit: str | None = None
    scale: Any = None
    frozen: Any = None
    free: Any = ()
    classes: Any = None
    preprocess: Any = None
    mean: Any = None
    std: Any = None
    drop: Any = ()
    index: str | None = None
    sep: str | None = None
    decimal: str | None = None
    header: bool | None = None
    categorical: Any = ()
    existing: Existing = "refuse"
    resume: bool = False
    overwrite: bool = False
    budget: int | None = None
    queries: int | Literal["auto"] = 200
    mode: Mode = "auto"
    confidence: float = 0.95
    seed: int = 0
    profile: ProfileChoice = "cheap"
    witness: bool | None = None
    integrity: bool | None = None
    order: Order | None = None
    precision: float | None = None
    threshold: float | None = None
    focus: str | None = None
    smooth: float | None = None
    smooth_radius: float | None = None
    batch: int | None = None
    count_refused: bool = False
    tolerance: float = 1e-4
    worst_direction: bool = False
    surrogate: Any = None
    max_failures: int | None = None
    engine: EngineName | InstanceOf[RayEngine] | None = None
    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    baseline: str | os.PathLike[str] | None = None
    noise: Any = None
    linear_model: bool = False
    adapter: str | None = None
    device: str | None = None
    weights: str | os.PathLike[str] | None = None
    trust_pickle: bool = False
    input: str | None = None
    output: str | int | None = None
    output_step: int | None = None
    finding: str | int | None = None
    hold: Mapping[str, Any] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, values: Any, check: Callable[[Any], AuditOptions]) -> AuditOptions:
        if isinstance(values, Mapping):
            refuse_unknown(values)
        try:
            return check(values)
        except ValidationError as exc:
            raise UsageError(_first_error(exc)) from None

    @field_validator(
        "queries", "confidence", "budget", "batch", "precision", "threshold", "max_failures", "smooth", "smooth_radius"
    )
    @classmethod
    def _makes_sense(cls, value: Any, info: Any) -> Any:
        allowed, sentence = _RANGES[info.field_name]
        if isinstance(value, int | float) and not allowed(value):
            raise UsageError(f"{sentence}, got {value:g}")
        return value

    @model_validator(mode="after")
    def _agrees(self) -> AuditOptions:
        asked = {self.existing, *["resume"] * self.resume, *["overwrite"] * self.overwrite} - {"refuse"}
        if len(asked) > 1:
            raise UsageError("expected one of --resume and --overwrite, got both")
        beside = [name for name in DOMAIN_OPTIONS if getattr(self, name) is not None]
        if self.domain is not None and beside:
            raise UsageError(f"expected {beside[0]} within domain=InputDomain(...), got it beside it too")
        if self.count_refused and (self.engine == "ray" or isinstance(self.engine, RayEngine)):
            raise UsageError("expected --count-refused with --engine local: workers count refused rows apart")
        read_focus(self.focus)  # refuses another word than top:K
        if self.smooth_radius is not None and self.smooth is None:
            raise UsageError("--smooth-radius says when a certificate may stop; give it with --smooth SIGMA")
        if self.queries == "auto":
            most_queries(self.precision, self.threshold, self.confidence, 1)  # refuses what would never stop
        return self

    def given(self) -> dict[str, Any]:
        """The options that were given, as keywords of ``audit``."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}

    def input_domain(self) -> InputDomain:
        """The domain as asked for."""
        return self.domain or InputDomain(self.lower, self.upper, self.quantum, self.frozen, self.scale, self.unit)

    def class_names(self) -> tuple[str, ...] | None:
        """The classes' names as given; of one finding, its complement's and its own."""
        names = read_classes(self.classes)
        if names is None or self.finding is None:
            return names
        return finding_names(finding_position(self.finding, names), names)

    def reading(self) -> TableReading:
        """How a table is read."""
        drop, categorical = (
            tuple(n.strip() for n in v.split(",")) if isinstance(v, str) else tuple(v) for v in (self.drop, self.categorical)
        )
        return TableReading(None, None, drop, self.index, self.sep, self.header, categorical, self.decimal)

    def resuming(self) -> bool:
        """Whether to go on with a run that is there."""
        return self.resume or self.existing == "resume"

    def overwriting(self) -> bool:
        """Whether to replace a run that is there."""
        return self.overwrite or self.existing == "overwrite"

    def settings(self, features: int, *, labels: bool = False) -> Settings:
        """Of each input's measurement, for inputs of so many features that may change, from ``labels`` alone."""
        queries = self.queries
        if queries == "auto":
            queries = MOST_LABELS if labels else most_queries(self.precision, self.threshold, self.confidence, features)
        return Settings(
            queries=queries,
            confidence=self.confidence,
            seed=self.seed,
            profile="off" if labels else self.profile,
            witness=labels or looks_for_witness(self.witness, queries),
            precision=self.precision,
            threshold=self.threshold,
            smooth=self.smooth,
            smooth_radius=self.smooth_radius,
        )

    def model_options(self, model: object) -> dict[str, Any]:
        """What was given of how ``model`` is opened, as options of ``open_classifier``."""
        given = {name: getattr(self, name) for name in MODEL_OPTIONS if name in self.model_fields_set}
        normalise = read_normalize(self.preprocess, self.mean, self.std)
        if normalise is not None:
            given["normalise"] = normalise
        names = read_classes(self.classes)
        if names is not None and self.finding is not None:
            given["finding"] = finding_position(self.finding, names)
        if self.batch is not None and is_endpoint(model):
            given["batch"] = self.batch  # an endpoint fixes its requests when it is opened
        if self.classes is not None and read_classes(self.classes) is None:
            given["classes"] = self.classes
        return {**given, **(self.model_extra or {})}

    def ray(self) -> RayEngine:
        """The settings of ``engine="ray"``."""
        return RayEngine(self.address, self.workers, self.gpus_per_worker)


def read_options(given: Mapping[str, Any], **named: Any) -> AuditOptions:
    """The options as one checked object; what was left as it is by default counts as not given.

    Raises:
        UsageError: an unknown word, or a value that makes no sense.
    """
    fields = AuditOptions.model_fields
    return AuditOptions(**given, **{name: value for name, value in named.items() if value != fields[name].default})


def refuse_unknown(words: Collection[str], also: Collection[str] = ()) -> None:
    """Refuse a word that is no option of ``audit`` or of an adapter.

    Args:
        words: as given.
        also: further words that are known here.

    Raises:
        UsageError: with the nearest known word.
    """
    known = {*AuditOptions.model_fields, *also}
    unknown = [word for word in words if word not in known]
    if not unknown:
        return
    declared = adapter_option_names()
    if declared is None:  # an adapter that does not say what it takes judges its words itself
        return
    for word in unknown:
        if word not in declared:
            help = nearest(word, known | declared, "help(fimaudit.AuditOptions) lists the known ones")
            raise UsageError(f"unknown option {word!r}; {help}")


def default_order(model: Classifier) -> Order:
    """Requests that others see give away less in random turns; calls in this process are seen by nobody."""
    return "interleaved" if isinstance(model, NetworkClassifier) else "inputs"


def choice_sentence(name: str, choices: Sequence[str], given: object) -> str:
    """What to say of a value that is none of the choices.

    >>> choice_sentence("--mode", ["auto", "black-box", "white-box"], "grey")
    "expected --mode auto, black-box or white-box, got 'grey'"
    """
    if len(choices) > 3:
        return f"expected {name} among {', '.join(choices)}, got {given!r}"
    return f"expected {name} {', '.join(choices[:-1])} or {choices[-1]}, got {given!r}"


def _first_error(exc: ValidationError) -> str:
    """The first option that is wrong, and what it may be."""
    errors = exc.errors(include_url=False)
    name = str(errors[0]["loc"][0])
    of = [e for e in errors if str(e["loc"][0]) == name]
    said = [e for e in of if e["type"] == "literal_error"]
    choices = re.findall(r"'([^']*)'", str(said[0].get("ctx", {}).get("expected"))) if said else []
    if len(choices) > 1:
        return choice_sentence(name, choices, errors[0]["input"])
    wanted = [e["msg"].removeprefix("Input should be ").partition(",")[0] for e in of]
    return f"expected {name} as {' or '.join(wanted)}, got {errors[0]['input']!r}"
