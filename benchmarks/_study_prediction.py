"""The page's section on robust accuracy: what predicts it without an attack, and how well on networks held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks._study_calibration import CHOSEN_ON, FIXED, HALFWAY, LABELLED
from benchmarks._study_repeats import spread
from benchmarks._study_words import picture, spread_of, table

__all__ = ["HELD_OUT_DATA", "LEADING", "WANTED", "predicts_accuracy", "reached"]

Row = Mapping[str, Any]
Summary = Mapping[str, Any]

#: What was asked of the method before the study was run: error in points in the median of networks held out.
WANTED = 5.0
ROWS_OF = {
    "margin_radius": "radius, 200 queries",
    "radius_and_counterexample": "radius and counterexample of the same audit",
    "radius_and_labels": f"radius, scaled by the labels of {LABELLED} inputs",
    "radius_counterexample_and_labels": f"radius and counterexample, scaled by the labels of {LABELLED} inputs",
    "label_radius": "radius from labels, first inputs",
    "smallest_radius": "shortest of the profile",
    "margin_radius_white": "radius, derivatives",
}
#: The predictors of which the page's opening speaks.
LEADING = ("margin_radius", "radius_and_counterexample", "radius_counterexample_and_labels", "label_radius")
HELD_OUT_ONE, HELD_OUT_DATA = "one network", "a data set"


def reached(summary: Summary, held_out: str = HELD_OUT_ONE) -> dict[str, tuple[float, float]]:
    """Median error in points over networks held out, at deciles and at fixed eps, of each predictor."""
    out = {}
    for name, found in summary["calibration"].items():
        errors = found["schemes"].get(held_out, [])
        out[name] = (_quantile([e["points"] for e in errors], 0.5), _quantile([e["fixed"] for e in errors], 0.5))
    return out


def predicts_accuracy(summary: Summary) -> str:
    """The calibration curve, its errors on networks held out, by what it is predicted from."""
    lines = [
        (ROWS_OF[metric], name, *_errors_of(errors))
        for metric, found in summary["calibration"].items()
        for name, errors in found["schemes"].items()
    ]
    fixed = f"at eps {', '.join(f'{e:g}' for e in FIXED)}: median"
    head = (
        "from",
        "held out",
        "error in points at the deciles of its radii: median (95 % over networks)",
        "90 % of networks below",
        fixed,
        "signed, median",
        "networks whose bias is resolved over inputs",
    )
    whole = summary["calibration"]["margin_radius"]
    shares = [f"{v:.0%}" for v in whole["curve"].values()]
    curve = table(("eps / radius", *whole["curve"]), [("share not changed", *shares)])
    middle = reached(summary)
    verdict = ";\n".join(
        f"{ROWS_OF[name]}: {at:.1f} at deciles{' (**not met**)' if not at <= WANTED else ''}, "
        f"{beside:.1f} at fixed eps{' (**not met**)' if not beside <= WANTED else ''}"
        for name, (at, beside) in ((name, middle[name]) for name in LEADING)
    )
    share = LABELLED / (LABELLED + HALFWAY)
    apart = "; ".join(
        f"{ROWS_OF[name]} {at:.1f}{' (**not met**)' if not at <= WANTED else ''}"
        for name, (at, _) in reached(summary, HELD_OUT_DATA).items()
        if name in LEADING
    )
    word = _quantile([e["points"] for e in whole["schemes"]["none: the radius at its word"]], 0.5)
    line = summary["calibration"]["radius_and_counterexample"]["line"] or [float("nan")] * 3
    return f"""## How is robust accuracy at eps predicted without an attack?

Wanted: within {WANTED:g} points in the median of networks held out. Found, with one network held out at a time:
{verdict}.
With a whole data set held out, at deciles: {apart}.
Without a curve, the radius at its word, it is {word:.1f} at deciles. The ratio of perturbation to radius differs from
network to network: that no radius at an input tells, and where the decision really changed farther out does.

The five networks with the largest errors from the radius alone, each with what all others say:

{_worst(summary)}

Predicted: the mean over inputs of (right) x S(eps / length), S(q) the share of inputs of *other* networks whose smallest
perturbation is more than q lengths. **eps are the nine deciles of a network's own radii**: known without an attack, and
nowhere is the answer trivially 0 or 1. The error is the mean over these eps of |predicted - found| in points; beside it the
same at **fixed eps, {", ".join(f"{e:g}" for e in FIXED)} input units**, where many answers are 0 or all that are right.
{whole["unmeasured"]} inputs without a radius are left out. The length is

- the radius, where nothing else is said;
- *radius and counterexample*: r exp({line[1]:+.2f} b {line[2]:+.2f} log(r / median r)), r the radius (these numbers from all
  networks; in each test from the others). b = (r / cosine / distance of the counterexample)^2, 0 where the audit found none,
  cosine = sqrt(m / (m + d)) of m queries in d features: how much nearer the decision really changed along the estimated
  gradient than on a plane. No row more: an audit of 200 queries looks for counterexamples anyway;
- *scaled by labels*: times one number a network, exp of {share:.0%} of the median of log(radius from labels / length) over
  its first {LABELLED} inputs; {summary["calibration_label_rows"]:,.0f} rows for each of these. Without counterexamples, b is
  left out;
- *radius from labels*: of each input alone, over the inputs where it was measured, at the deciles of these radii.

{_choice(summary)}

{table(head, lines)}

{_aside(summary)}

The curve over all networks, from the radius alone:

{curve}

{picture("calibration", "calibration curve, and errors by what is predicted from")}"""


def _worst(summary: Summary) -> str:
    """The networks on which the radius alone errs most, and the other predictors there."""
    found = {name: summary["calibration"][name] for name in LEADING}
    by_network = {
        name: dict(zip(of["networks"], of["schemes"].get(HELD_OUT_ONE, []), strict=False)) for name, of in found.items()
    }
    order = sorted(by_network["margin_radius"].items(), key=lambda pair: -pair[1]["points"])[:5]
    lines = []
    for i, error in order:
        signed = f"{error['signed']:+.1f} [{error['lower']:+.1f}, {error['upper']:+.1f}]"
        others = (by_network[name].get(i) for name in LEADING[1:])
        beside = ("-" if one is None else f"{one['points']:.1f}" for one in others)
        lines.append((summary["calibration_networks"][i], f"{error['points']:.1f}", signed, *beside))
    return table(("network", "error", "signed [95 % over inputs]", *(ROWS_OF[name] for name in LEADING[1:])), lines)


def _choice(summary: Summary) -> str:
    """On which networks the form was chosen, and the errors on the others."""
    names = summary["calibration_networks"]
    medians = []
    for name in ("radius_and_counterexample", "radius_counterexample_and_labels"):
        found = summary["calibration"][name]
        pairs = zip(found["networks"], found["schemes"].get(HELD_OUT_ONE, []), strict=False)
        errors = [e for i, e in pairs if names[i] not in CHOSEN_ON]
        values = (_quantile([e[key] for e in errors], 0.5) for key in ("points", "fixed"))
        medians.append(f"{ROWS_OF[name]} {' and '.join(f'{v:.1f}' for v in values)}")
    rest = sum(name not in CHOSEN_ON for name in names)
    return (
        f"The square, the line's terms, {LABELLED} inputs and their share were chosen among some sixty variants on the "
        f"first {len(CHOSEN_ON)} networks that were finished, flagged ones among them. On the {rest} others, at deciles and "
        "at fixed eps: "
        f"{'; '.join(medians)}."
    )


def _aside(summary: Summary) -> str:
    """Networks on which nothing was fitted: flagged ones, and those that others trained."""
    names = summary["calibration_aside_networks"]
    if not names:
        return "No network is flagged and set aside, and none of others' was measured."
    lines, others = [], [i for i, name in enumerate(names) if name.startswith("given ")]
    for place, name in enumerate(names):
        errors = [summary["calibration_aside"][metric][place] for metric in LEADING]
        lines.append((name, *("-" if e is None else f"{e['points']:.1f}, {e['fixed']:.1f}" for e in errors)))
    medians = []
    for metric in LEADING:
        known = [e["points"] for i in others if (e := summary["calibration_aside"][metric][i]) is not None]
        medians.append(f"{ROWS_OF[metric]} {_quantile(known, 0.5):.1f}")
    middle = f"In the median of the {len(others)} networks of others, at deciles: {'; '.join(medians)}. " if others else ""
    return middle + (
        "Networks on which nothing was fitted: flagged ones, set aside above, and those that others trained (whether they "
        "are right is not asked of these). Error in points at deciles, and at fixed eps, by what all unflagged "
        "networks say:\n\n" + table(("network", *(ROWS_OF[name] for name in LEADING)), lines)
    )


def _errors_of(errors: Sequence[Row]) -> tuple[str, ...]:
    points = [e["points"] for e in errors]
    apart = sum(e["lower"] > 0 or e["upper"] < 0 for e in errors)
    return (
        spread_of(spread(points), ".1f"),
        f"{_quantile(points, 0.9):.1f}",
        f"{_quantile([e['fixed'] for e in errors], 0.5):.1f}",
        f"{_quantile([e['signed'] for e in errors], 0.5):+.1f}",
        f"{apart} of {len(errors)}",
    )


def _quantile(values: Sequence[float], at: float) -> float:
    return float(np.quantile(values, at)) if values else float("nan")
