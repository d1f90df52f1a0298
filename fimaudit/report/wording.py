"""The numbers in plain words, with units."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fimaudit.audit_report import Report
from fimaudit.report.pictures import is_picture
from fimaudit.results import Interval, Sensitivity

__all__ = [
    "INTEGRITY_WORDS",
    "STATUS_WORDS",
    "NamedChange",
    "abbreviated",
    "class_name",
    "focus_sentence",
    "integrity_sentence",
    "interval_text",
    "moved_share",
    "named_change",
    "number",
    "percent",
    "sample_sentences",
    "share_text",
]

GREY_LEVELS = 255
HUNDREDTH = "a change of one hundredth of one feature's range"
STATUS_WORDS = {
    "ok": "measured",
    "below_detection": "below detection: the answers give no value, and limits at most; the input's reason says why",
    "no_rival_visible": "no rival visible: the answers hide the class that may be nearest, so there is no margin radius",
    "abstained": "abstained: no class is certified under the noise",
    "failed": "failed: no number can be given",
}
POPULATION = (
    "“These inputs” speaks of the inputs that were measured, “population” of the population they are a sample of; "
    "the latter holds only if they were drawn at random from it."
)
NO_JUDGEMENT = (
    "Nothing here says that an answer is right, fair or safe for a use; accuracy is shown only where labels were given."
)
BELOW_DETECTION = (
    "“Below detection” means that the answers gave no value: limits are known at most, and the input's reason says why."
)
INTEGRITY_WORDS = {
    "history": "Same rows, there and back",
    "last_digit": "Rows that differ in a last digit",
    "boundary": "Ties where decisions change",
    "slope": "Slopes that reach the decisions",
    "radius": "Radius against real changes",
    "ceiling": "Confidence without a ceiling",
}


@dataclass(frozen=True)
class NamedChange:
    """A change of the input that a person can picture, and its l2 length in the report's unit; ``times`` counts it."""

    words: str
    length: float
    times: str | None = None


def named_change(report: Report) -> NamedChange:
    """One grey level everywhere for pictures, else a step of the scale, a hundredth of a stated range, or one unit."""
    domain = report.domain
    lower, upper, quantum, scale = (domain.get(k) for k in ("lower", "upper", "quantum", "scale"))
    width = None
    if isinstance(lower, int | float) and isinstance(upper, int | float) and isinstance(scale, int | float):
        width = (upper - lower) / scale
    if width is not None and is_picture(tuple(report.data.get("shape", ()))):
        grey = width / GREY_LEVELS
        level = quantum / float(domain["scale"]) if isinstance(quantum, int | float) and quantum > 0 else grey
        words = "one grey level everywhere" if math.isclose(level, grey) else "one level everywhere"
        length = level * math.sqrt(domain["features"])
        return NamedChange(f"a change of {words}", length, words.replace("one ", "", 1).replace("level", "levels"))
    unit = str(domain["unit"])
    if unit == "standard deviation of the feature":
        return NamedChange("a change of one standard deviation of one feature", 1.0)
    if unit == "range of the feature":
        return NamedChange(HUNDREDTH, 0.01)
    if width is not None:
        return NamedChange(HUNDREDTH, 0.01 * width)
    return NamedChange(f"a change of total length 1 ({unit})", 1.0)


def moved_share(norm: Interval, change: NamedChange) -> Interval:
    """Most probability (total variation, to first order) that the change moves: 1/2 sqrt(lambda) eps, at most 1."""
    ends = [
        None if v is None else min(1.0, 0.5 * math.sqrt(max(v, 0.0)) * change.length)
        for v in (norm.value, norm.lower, norm.upper)
    ]
    return Interval(value=ends[0], lower=ends[1], upper=ends[2])


def number(value: float | None) -> str:
    """Three digits; powers of ten only where they are shorter."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e5:
        digits = max(0, 2 - math.floor(math.log10(size)))
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa} × 10{_superscript(int(power))}"


def percent(share: float | None) -> str:
    """A share in per cent."""
    if share is None:
        return "–"
    if share >= 0.9995 or share == 0:
        return f"{share:.0%}"
    return f"{number(100 * share)}%"


def interval_text(interval: Interval) -> str:
    """``lower to upper``, with what is unknown named."""
    return _limits(interval, number)


def share_text(interval: Interval) -> str:
    """The same in per cent."""
    return _limits(interval, percent)


def abbreviated(name: str, most: int) -> str:
    """A name that is too long, without its middle: names that begin alike often differ at the end.

    >>> abbreviated("right answers, each group (group large tumour)", 24)
    'right answer…rge tumour)'
    """
    tail = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - tail].rstrip()}…{name[-tail:].lstrip()}"


def class_name(report: Report, index: int | None) -> str:
    """The class's name where the model carries names, else its number."""
    if index is None:
        return "–"
    details = report.model.get("details", {})
    texts = details.get("label_texts")
    if isinstance(texts, dict) and str(index) in texts:
        return str(texts[str(index)])
    known = (report.model.get("class_names"), *(details.get(k) for k in ("class_names", "labels", "classes")))
    names = next((found for found in known if isinstance(found, list)), None)
    if names is not None and index < len(names):
        return str(names[index])
    return f"class {index}"


def decision_words(report: Report, s: Sensitivity) -> list[str]:
    """What is known of one input, sentence by sentence."""
    unit = str(report.domain["unit"])
    out = []
    if s.margin_radius.value is not None:
        limits = interval_text(s.margin_radius)
        out.append(f"Estimated distance to another answer: {number(s.margin_radius.value)} ({limits}; unit: {unit}).")
    if s.smallest_radius is not None and "local_radius_overstates" in s.flags:
        out.append(f"Over larger changes the estimate falls to {number(s.smallest_radius)}: take that one.")
    if s.witness is not None:
        beyond = class_name(report, s.witness.predicted_class)
        out.append(f"Counterexample: at distance {number(s.witness.distance)} the answer is really {beyond}.")
    if s.smoothed is not None and s.smoothed.radius is not None:
        same = class_name(report, s.smoothed.predicted_class)
        out.append(f"The smoothed classifier answers {same} within {number(s.smoothed.radius)} (unit: {unit}).")
    if s.contrast is not None:
        pair = f"{class_name(report, s.contrast.from_)} and {class_name(report, s.contrast.to)}"
        out.append(f"Probability moves between {pair}.")
    return out


def moment(text: object) -> str:
    """A time stamp for people: ``2026-11-22 22:27 UTC``; other texts as they are.

    >>> moment("2026-11-22T22:27:35+00:00")
    '2026-11-22 22:27 UTC'
    """
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{found:%Y-%m-%d %H:%M}" + (" UTC" if found.utcoffset() == timedelta(0) else "")


def sample_sentences(drawn: int, measured: int) -> list[str]:
    """What a page of a large run shows of it; nothing for a small one, which it shows whole."""
    if drawn >= measured:
        return []
    return [
        f"The summary and the most sensitive inputs are those of all {measured:,} inputs; figures, calibration and the "
        f"groups side by side are of {drawn:,} of them, spread evenly over the data. All are in inputs.parquet."
    ]


def focus_sentence(report: Report) -> str | None:
    """Which inputs a screening named the most sensitive, and how sure that is; ``None`` without one."""
    focus = report.data.get("focus")
    if focus is None:
        return None
    named = ", ".join(str(i) for i in focus["named"])
    return (
        f"All inputs were screened with few queries, and {focus['measured']:,} of {focus['chosen']:,} that may be among the "
        f"{focus['top']} most sensitive (by spectral norm) were measured in full. These are named: {named}. Of them "
        f"{focus['expected_right']:.1f} are expected to be right, all of them with probability {focus['confidence']:.2f}."
    )


def integrity_sentence(report: Report) -> str:
    """In one line what the integrity checks found."""
    checks = report.integrity
    if not checks:
        return "integrity: not checked"

    def named(outcome: str) -> list[str]:
        return [check.name.replace("_", " ") for check in checks if check.outcome == outcome]

    if against := named("contradicted"):
        return f"integrity: contradicted by {', '.join(against)}"
    made, idle = named("ok"), named("not_applicable")
    return f"integrity: {len(made)} of {len(checks)} checks ok ({', '.join(made) or 'none'}" + (
        f"; not applicable: {', '.join(idle)})" if idle else ")"
    )


def scope_sentences(report: Report, statuses: Sequence[str], methods: Collection[str]) -> tuple[list[str], list[str]]:
    """(what the intervals cover, what the numbers do not say)."""
    level = f"{report.settings['confidence']:.0%}"
    white = report.settings.get("mode") == "white-box"
    whole = {m for m in methods if m.startswith("basis")}
    fitted = {m for m in methods if m == "least-squares"}
    if report.settings.get("link") == "labels":
        return _label_scope(report, level, statuses)
    causes = []
    if set(methods) - whole - fitted - {"none"} and not white:
        causes.append("the random choice of directions")
    if whole:
        causes.append("what two step sizes disagree by, where every feature was measured")
    if fitted:
        causes.append("the noise of the answers, where few features were fitted to many of them")
    covers = [
        f"Each {level} interval of one input covers "
        + ("the rounding and iteration error of exact derivatives" if white else " or ".join(causes) or "nothing")
        + ".",
        POPULATION,
        "Intervals do not cover an error of the step, a model that answers differently from call to call, "
        "or inputs unlike those measured.",
    ]
    silent = [
        "The margin radius is a first-order estimate of the distance to another answer, not a guaranteed bound; "
        "only a counterexample is certain.",
        "The spectral norm depends on confidence: the same decisions with sharper probabilities read smaller. "
        "The peak norm and the margin radius do not depend on it.",
        NO_JUDGEMENT,
    ]
    if "below_detection" in statuses:
        silent.append(BELOW_DETECTION)
    return covers, silent


def _label_scope(report: Report, level: str, statuses: Sequence[str]) -> tuple[list[str], list[str]]:
    """``scope_sentences`` where labels alone were read."""
    none = ["Spectral norm, peak norm and all that follows from them need probabilities.", NO_JUDGEMENT]
    if report.settings.get("smooth") is not None:
        certified = (
            "A certificate is of the classifier that answers by majority under noise, not of the model itself; a class or "
            f"radius is wrong at an input with a probability of at most 1 − {report.settings['confidence']:g}."
        )
        return [certified, POPULATION], none
    covers = [
        f"Each {level} interval of one input covers the sampling of labels, and as much curvature of the decision boundary "
        "as was seen on other networks, not at this input.",
        POPULATION,
        "Intervals do not cover another boundary, nearer than the one that the search ended at: a radius may be too long.",
    ]
    silent = [
        "The margin radius is the distance to the plane that touches the decision boundary where the search ended; only a "
        "counterexample is certain.",
        *none,
    ]
    if "below_detection" in statuses:
        silent.append(BELOW_DETECTION)
    return covers, silent


def _limits(interval: Interval, write: object) -> str:
    assert callable(write)
    if not interval.lower and interval.upper is None:
        return "no limits"
    if interval.upper is None:
        return f"at least {write(interval.lower)}"
    if interval.lower is None:
        return f"at most {write(interval.upper)}"
    return f"{write(interval.lower)} to {write(interval.upper)}"


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
