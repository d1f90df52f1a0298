"""Inputs in groups: by the data's own groups, by true class, by right and wrong answers; accuracy and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from fimaudit.results import Interval, Sensitivity, Summary
from fimaudit.statistics.summary import summarise

__all__ = ["Calibration", "Division", "Slice", "calibration", "divisions", "share_interval"]

#: Below this many inputs a group is marked: its own intervals are honest, but wide.
SMALL = 20
#: More classes than this are not listed one by one; the largest are.
MOST_SLICES = 40
BINS = 10
LEAST_IN_BIN = 10


@dataclass(frozen=True)
class Slice:
    """Some of the inputs under one name.

    Attributes:
        name: the group, ``class 3``, ``right`` or ``wrong``.
        inputs: how many, failed ones included.
        small: fewer than ``SMALL``.
        summary: of these inputs alone.
        accuracy: share of right answers among the labelled ones, ``None`` without labels.
    """

    name: str
    inputs: int
    small: bool
    summary: Summary
    accuracy: Interval | None


@dataclass(frozen=True)
class Division:
    """The inputs divided by one criterion.

    Attributes:
        title: of the criterion.
        slices: the largest, ``MOST_SLICES`` at most, in the order of their names.
        left_out: how many more there are.
        by_answer: the criterion is whether they were answered rightly.
    """

    title: str
    slices: list[Slice]
    left_out: int
    by_answer: bool = False


@dataclass(frozen=True)
class Calibration:
    """Right answers beside the confidence they were given with.

    Attributes:
        accuracy: share of right answers, with its Clopper-Pearson limits.
        confidence: mean probability of the predicted class.
        gap: mean confidence minus accuracy, with limits: above 0 is overconfident.
        bins: (mean confidence, share right with limits, inputs), in equal numbers of inputs.
    """

    accuracy: Interval
    confidence: float
    gap: Interval
    bins: list[tuple[float, Interval, int]]


def divisions(inputs: Sequence[Sensitivity], confidence: float, names: Sequence[str] | None = None) -> list[Division]:
    """Every way in which these inputs can be divided; groups of one kind only are left out.

    Groups, true class, right and wrong answers, and the predicted class where no true class is known.

    Args:
        inputs: with ``group``, ``label`` and ``predicted_class``, as far as they are known.
        confidence: of each interval, two-sided; not corrected for the number of groups.
        names: of the classes, where they have some.

    >>> inputs = [Sensitivity(index=i, status="ok", method="rademacher", predicted_class=0, label=i % 2) for i in range(4)]
    >>> [(d.title, [(s.name, s.inputs) for s in d.slices]) for d in divisions(inputs, 0.95)]
    [('True class', [('class 0', 2), ('class 1', 2)]), ('Right and wrong answers', [('right', 2), ('wrong', 2)])]
    """
    out = [
        _divide("Groups", inputs, lambda s: s.group, confidence),
        _divide("True class", inputs, lambda s: _class(s.label, names), confidence),
        replace(_divide("Right and wrong answers", inputs, _rightness, confidence), by_answer=True),
    ]
    if not any(d.slices for d in out[1:2]):
        out.append(_divide("Predicted class", inputs, lambda s: _class(s.predicted_class, names), confidence))
    return [d for d in out if len(d.slices) > 1]


def calibration(inputs: Sequence[Sensitivity], confidence: float) -> Calibration | None:
    """Accuracy and confidence of labelled inputs; ``None`` without labels.

    With d = p - right for each of n inputs, p the probability of the predicted class, the gap is mean(d) with limits
    z sd(d) / sqrt(n) to both sides, kept within [-1, 1], z the normal quantile of (1 + confidence) / 2. Inputs are
    independent; the normal law needs more than a few of them.

    >>> s = Sensitivity(index=0, status="ok", method="rademacher", predicted_class=0, probability=0.75, label=0)
    >>> found = calibration([s, s.model_copy(update={"label": 1})], 0.95)
    >>> found.accuracy.value, found.confidence, found.gap.value
    (0.5, 0.75, 0.25)
    """
    known = [s for s in inputs if s.label is not None and s.probability is not None]
    if not known:
        return None
    p = np.array([s.probability for s in known], dtype=float)
    right = np.array([s.label == s.predicted_class for s in known])
    accuracy = share_interval(int(right.sum()), len(right), confidence)
    difference = p - right
    half = (
        float(special.ndtri((1 + confidence) / 2)) * float(difference.std(ddof=1)) / np.sqrt(len(p)) if len(p) > 1 else 1.0
    )
    mean = float(difference.mean())
    gap = Interval(value=mean, lower=max(-1.0, mean - half), upper=min(1.0, mean + half))
    count = int(np.clip(len(p) // LEAST_IN_BIN, 1, BINS))
    bins = [
        (float(p[part].mean()), share_interval(int(right[part].sum()), len(part), confidence), len(part))
        for part in np.array_split(np.argsort(p, kind="stable"), count)
    ]
    return Calibration(accuracy, float(p.mean()), gap, bins)


def share_interval(count: int, of: int, confidence: float) -> Interval:
    """A share with its Clopper-Pearson limits.

    Quantiles (1 - confidence) / 2 of Beta(count, of - count + 1) and (1 + confidence) / 2 of Beta(count + 1, of - count),
    for independent inputs.

    Args:
        count: from 0 to ``of``.
        of: at least 1.
        confidence: two-sided.

    >>> str(share_interval(0, 10, 0.95))
    '0 [0, 0.3085]'
    """
    tail = (1 - confidence) / 2
    lower = float(special.betaincinv(count, of - count + 1, tail)) if count else 0.0
    upper = float(special.betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return Interval(value=count / of, lower=lower, upper=upper)


def _divide(
    title: str, inputs: Sequence[Sensitivity], key: Callable[[Sensitivity], str | None], confidence: float
) -> Division:
    members: dict[str, list[Sensitivity]] = {}
    for s in inputs:
        name = key(s)
        if name is not None:
            members.setdefault(name, []).append(s)
    names = sorted(members, key=lambda name: (-len(members[name]), _natural(name)))[:MOST_SLICES]
    slices = [_slice(name, members[name], confidence) for name in sorted(names, key=_natural)]
    return Division(title, slices, len(members) - len(slices))


def _slice(name: str, inputs: Sequence[Sensitivity], confidence: float) -> Slice:
    labelled = [s for s in inputs if s.label is not None and s.predicted_class is not None]
    right = sum(s.label == s.predicted_class for s in labelled)
    return Slice(
        name,
        len(inputs),
        len(inputs) < SMALL,
        summarise(inputs, confidence, sum(s.queries for s in inputs), 0),
        share_interval(right, len(labelled), confidence) if labelled else None,
    )


def _natural(name: str) -> tuple[str, int, str]:
    word, _, number = name.rpartition(" ")
    return (word, int(number), name) if number.isdigit() else (name, 0, name)


def _rightness(s: Sensitivity) -> str | None:
    if s.label is None or s.predicted_class is None:
        return None
    return "right" if s.label == s.predicted_class else "wrong"


def _class(position: int | None, names: Sequence[str] | None) -> str | None:
    if position is None or names is None or position >= len(names):
        return None if position is None else f"class {position}"
    return names[position]
