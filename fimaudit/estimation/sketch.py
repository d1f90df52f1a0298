"""One input's numbers from its answers along random directions; many inputs are worked on at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import Estimate, named_contrast
from fimaudit.estimation.grouping import chosen, positions_by_kind
from fimaudit.estimation.margin import Margin, margin_limits, peak_with_gaps, peak_with_hidden
from fimaudit.estimation.noise import VisibleClasses
from fimaudit.estimation.peak_norm import peak_limits
from fimaudit.estimation.secants import (
    complete_in_place,
    contrasts_in_place,
    least_visible,
    log_probabilities,
    visible_classes,
)
from fimaudit.estimation.spectral_norm import (
    Limits,
    joint_rows,
    spectral_limits,
    top_pair,
    trace_limits,
)
from fimaudit.estimation.tempering import temper

__all__ = ["Exact", "Sketch", "estimate_sketch", "estimate_sketches"]

Array = NDArray[np.float64]

#: A class is drowned where the squared change of its log-odds is less than so many times what noise makes of it. Of a class
#: that lies between two rounded numbers, and moves by much less than their distance, rounding makes three times its mean
#: (tests/estimation/test_sketches.py: test_a_class_between_two_rounded_numbers_is_no_rival_and_one_that_moves_is).
DROWNED = 5.0
#: Answers of inputs that are worked on together: with more, caches lose what fewer calls gain.
TOGETHER_BYTES = 2**22


@dataclass(frozen=True)
class Exact:
    """Answers along orthonormal directions that were measured one by one, beside random ones in their complement.

    Attributes:
        ahead, behind: (q, K) answers a step along each direction and a step against it.
        step: l2 length of that step in units of the scale.
    """

    ahead: Array
    behind: Array
    step: float

    def noise(self, length: float) -> float:
        """What noise adds to a squared norm, in multiples of what it adds to a contrast of random directions."""
        return len(self.ahead) * length**2 / (2.0 * self.step**2)


@dataclass(frozen=True)
class Sketch:
    """Answers to one input displaced along random directions.

    Attributes:
        view: the measurable classes at the input, and the noise of an answer.
        answers: (m, K) probabilities at the displaced inputs, m >= 2.
        length: root mean square displacement of one feature, as it was really sent.
        confidence: of each two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones.
        exact: what was measured one by one, where ``answers`` come from directions of its complement.
    """

    view: VisibleClasses
    answers: Array
    length: float
    confidence: float
    features: int | None
    exact: Exact | None = None

    @property
    def rows(self) -> list[Array]:
        """All answers: at the input, at random displacements, along exact directions."""
        base_answers = [self.view.base[None], self.answers]
        return base_answers if self.exact is None else [*base_answers, self.exact.ahead, self.exact.behind]

    @property
    def alone(self) -> bool:
        """Whether its table of answers is not simply that of the completed rows."""
        return self.exact is not None or not self.view.whole or self.view.noisy


def estimate_sketch(sketch: Sketch) -> Estimate | None:
    """Numbers from random directions; ``None`` when no answer differs from another.

    >>> rng = np.random.default_rng(0)
    >>> view = VisibleClasses(np.array([0.6, 0.4]), 0, np.array([0, 1]))
    >>> moved = 0.6 + 0.01 * rng.choice([-1.0, 1.0], 50)
    >>> found = estimate_sketch(Sketch(view, np.stack([moved, 1 - moved], axis=1), 0.1, 0.95, None))
    >>> found.spectral.lower < 0.01 / (0.6 * 0.4) < 2 * found.spectral.upper
    True
    """
    return estimate_sketches([sketch])[0]


def estimate_sketches(sketches: Sequence[Sketch], most_bytes: int = TOGETHER_BYTES) -> list[Estimate | None]:
    """``estimate_sketch`` of each; those of one shape are worked on together, which changes nothing but the time.

    Args:
        sketches: of any shapes.
        most_bytes: of answers worked on together.

    >>> estimate_sketches([])
    []
    """
    together = max(1, most_bytes // max((sketch.answers.nbytes for sketch in sketches), default=1))
    if len(sketches) > together:
        parts = (sketches[first : first + together] for first in range(0, len(sketches), together))
        return [estimate for part in parts for estimate in estimate_sketches(part, most_bytes)]
    tables = _tables(sketches)
    out: list[Estimate | None] = [None] * len(sketches)
    for places in positions_by_kind(_kind(i, sketch, tables[i]) for i, sketch in enumerate(sketches)):
        rows = _stacked([table for i in places if (table := tables[i]) is not None])
        for i, estimate in zip(places, _estimates([sketches[i] for i in places], rows), strict=True):
            out[i] = estimate
    return out


def _stacked(tables: Sequence[Array]) -> Array:
    """(n, rows, C) in C order, whatever theirs: sums along an axis depend on the order in their last digits."""
    whole = tables[0].base
    if whole is not None and whole.shape == (len(tables), *tables[0].shape) and all(table.base is whole for table in tables):
        return whole  # all of what ``_joined`` made, in its order
    return np.ascontiguousarray(tables[0])[None] if len(tables) == 1 else np.ascontiguousarray(np.stack(tables))


def _kind(place: int, sketch: Sketch, table: Array | None) -> Hashable:
    """What sketches that are worked on together have in common; ``None`` where there is nothing to work on."""
    if table is None or sketch.length == 0 or (table[1:] == table[1]).all():  # contrasts of equal rows are but rounding
        return None
    return (table.shape, sketch.confidence, sketch.features) if sketch.exact is None else place


def _tables(sketches: Sequence[Sketch]) -> list[Array | None]:
    """All answers to each in measurable columns, (rows, C); ``None`` for an unmeasurable view."""
    out = [s.view.table(np.vstack(s.rows)) if s.alone and not s.view.unmeasurable else None for s in sketches]
    for places in positions_by_kind(None if s.alone or s.view.unmeasurable else s.answers.shape for s in sketches):
        rows = _joined([sketches[i] for i in places])
        complete_in_place(rows, np.array([sketches[i].view.top for i in places]))
        for i, table in zip(places, rows, strict=True):
            out[i] = table
    return out


def _joined(sketches: Sequence[Sketch]) -> Array:
    """The answers of sketches of one shape, (n, rows, K)."""
    base, answers = sketches[0].view.base, sketches[0].answers
    rows = np.empty((len(sketches), len(answers) + 1, len(base)))
    for of_one, sketch in zip(rows, sketches, strict=True):
        of_one[0], of_one[1:] = sketch.view.base, sketch.answers
    return rows


def _estimates(sketches: Sequence[Sketch], p: Array) -> list[Estimate]:
    """Of sketches of one shape, with their answers (n, rows, C); exact ones come alone."""
    first, m = sketches[0], len(sketches[0].answers) + 1
    lengths = np.array([s.length for s in sketches])[:, None, None]
    y = contrasts_in_place(np.sqrt(p[:, 1:m]))
    y *= 2.0 / lengths
    known = np.stack([np.sqrt(p[:, 0, 1]), -np.sqrt(p[:, 0, 0])], axis=1) if p.shape[2] == 2 else None
    exact_part = None if first.exact is None else _halves(np.sqrt(p[0, m:])) / first.exact.step
    found, directions = spectral_limits(y, first.confidence, first.features, known, exact_part)
    spectral, trace = found.each(), trace_limits(y, first.confidence, first.features, exact_part).each()
    scatter = _scatter((y @ directions[:, :, None])[:, :, 0])
    out = []
    for i, (sketch, (peak, margin, hidden)) in enumerate(zip(sketches, _log_odds(sketches, p), strict=True)):
        view, noise = sketch.view, sketch.view.noise
        if noise is not None:
            share = (1.0 if sketch.exact is None else 1.0 + sketch.exact.noise(sketch.length)) / sketch.length**2
            spectral[i] = _less(spectral[i], noise.along(directions[i]) * share, noise.spread)
            trace[i] = _less(trace[i], noise.total * share, noise.spread)
        contrast = named_contrast(view, directions[i], p[i, 0])
        heavy = _heaviness(scatter[i], spectral[i])
        estimate = Estimate(spectral[i], trace[i], peak, margin, contrast, hidden, heavy)
        out.append(estimate.allowing_for_hidden(view))
    return out


def _scatter(along: Array) -> list[float]:
    """kappa of each of (n, m) secants along a direction: scatter of their squares over that of chi squared."""
    squares = along**2
    if squares.shape[1] < 2:
        return [1.0] * len(squares)
    mean = squares.mean(axis=1)
    kappa = squares.std(axis=1, ddof=1) / np.where(mean > 0, np.sqrt(2.0) * mean, 1.0)
    return [float(k) if average > 0 else 1.0 for k, average in zip(kappa, mean, strict=True)]


def _heaviness(kappa: float, limits: Limits) -> float:
    """(kappa - 1) times the half-width of the log interval."""
    if limits.lower <= 0 or not np.isfinite(limits.upper):
        return 0.0
    return max(0.0, kappa - 1.0) * 0.5 * float(np.log(limits.upper / limits.lower))


def _less(limits: Limits, noise: float, spread: float) -> Limits:
    """Noise taken off the value and, with what is not known of it, off the lower limit; the upper limit holds without."""
    value = limits.value - noise
    lower = limits.lower - noise * (1 + 2 * spread)
    return Limits(max(value, lower, 0.0), max(lower, 0.0), limits.upper)


def _halves(rows: Array) -> Array:
    """The first half of the rows less the second."""
    q = len(rows) // 2
    return np.asarray(rows[:q] - rows[q:])


#: Peak, margin, and whether a hidden class may be the nearest rival.
_LogOdds = tuple[Limits | None, Margin | None, bool]


@dataclass(frozen=True)
class _LogContrasts:
    """Contrasts of log p of C visible classes of each of n sketches; one with an exact part comes alone."""

    columns: list[NDArray[np.int64]]  #: places of the classes of each
    top: NDArray[np.int64]  #: (n,) the predicted class among them
    base: Array  #: (n, C) log p at the inputs
    slopes: Array  #: (n, m - 1, C) contrasts, over the length of the displacement
    exact_part: Array | None  #: (q, C) changes along exact directions, over theirs
    noise: Array | None  #: (n, C) variance that noise gives the slopes


def _log_contrasts(sketches: Sequence[Sketch], p: Array, keep: NDArray[np.bool_]) -> _LogContrasts:
    """From the answers (n, rows, C), of the classes ``keep`` (n, C), as many of each sketch."""
    first, m = sketches[0], len(sketches[0].answers) + 1
    lengths = np.array([s.length for s in sketches])[:, None, None]
    columns = [np.flatnonzero(kept) for kept in keep]
    top = np.array([int(np.searchsorted(c, s.view.place[0])) for c, s in zip(columns, sketches, strict=True)])
    seen = p if keep.all() else _stacked([one[:, c] for one, c in zip(p, columns, strict=True)])
    logs = log_probabilities(seen, top)
    exact_part = None if first.exact is None else _halves(logs[0, m:]) / (2.0 * first.exact.step)
    base, slopes, noise = logs[:, 0].copy(), contrasts_in_place(logs[:, 1:m]), None
    slopes *= 1.0 / lengths
    if first.view.noise is not None:
        each = [s.view.noise.diagonal[c] for s, c in zip(sketches, columns, strict=True) if s.view.noise is not None]
        noise = np.stack(each) / seen[:, 0] / lengths[:, :, 0] ** 2
    return _LogContrasts(columns, top, base, slopes, exact_part, noise)


def _of_all(parts: Sequence[_LogContrasts]) -> _LogContrasts:
    """Those of several sketches, of as many classes each, together."""
    if len(parts) == 1:
        return parts[0]
    top, base, slopes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("top", "base", "slopes"))
    noise = np.concatenate([part.noise for part in parts if part.noise is not None])
    return _LogContrasts([c for part in parts for c in part.columns], top, base, slopes, None, noise)


def _log_odds(sketches: Sequence[Sketch], p: Array) -> list[_LogOdds]:
    """Peak and margin of each from its visible classes; those with as many of them are worked on together."""
    keep, of_noisy = visible_classes(p), dict[int, _LogContrasts]()
    for i, sketch in enumerate(sketches):
        if sketch.view.noise is not None and keep[i, sketch.view.place[0]]:
            found = _log_contrasts([sketch], p[i : i + 1], keep[i : i + 1])
            above_noise = _above_noise(sketch, found)
            if not above_noise.all():  # of fewer classes, log p of the predicted one may be another
                keep[i, found.columns[0]] = above_noise
                found = _log_contrasts([sketch], p[i : i + 1], keep[i : i + 1])
            of_noisy[i] = found
    out: list[_LogOdds] = [(None, None, not s.view.whole or not k.all()) for s, k in zip(sketches, keep, strict=True)]

    def kind(i: int) -> Hashable:
        view, count = sketches[i].view, int(keep[i].sum())
        rivals = count - (view.rest and bool(keep[i, -1]))
        return (count, rivals, i in of_noisy) if keep[i, view.place[0]] and count >= 2 else None

    for places in positions_by_kind(kind(i) for i in range(len(sketches))):
        some, seen, rows = [sketches[i] for i in places], keep[places], chosen(p, places)
        rivals = int(seen[0].sum()) - (some[0].view.rest and bool(seen[0, -1]))
        noisy = [of_noisy[i] for i in places if i in of_noisy]
        found = _of_all(noisy) if noisy else _log_contrasts(some, rows, seen)
        for i, value in zip(places, _of_visible(some, rows, seen, rivals, found), strict=True):
            out[i] = value
    return out


def _above_noise(sketch: Sketch, found: _LogContrasts) -> NDArray[np.bool_]:
    """Which of the classes (C,) change their log-odds by more than the noise of the answers does."""
    top, slopes, noise = found.top[0], found.slopes[0], found.noise
    assert noise is not None
    changes, share = ((slopes[:, [top]] - slopes) ** 2).mean(axis=0), 1.0
    if sketch.exact is not None and found.exact_part is not None:
        along = found.exact_part
        changes, share = changes + ((along[:, [top]] - along) ** 2).sum(axis=0), 1.0 + sketch.exact.noise(sketch.length)
    above_noise = np.asarray(changes >= DROWNED * share * (noise[0] + noise[0, top]))
    above_noise[top] = True
    return above_noise


def _of_visible(
    sketches: Sequence[Sketch], p: Array, keep: NDArray[np.bool_], rivals: int, found: _LogContrasts
) -> list[_LogOdds]:
    """The same for sketches with as many visible classes, of which the first ``rivals`` may be the nearest."""
    first, columns, top, exact_part = sketches[0], found.columns, found.top, found.exact_part
    more = 0.0 if first.exact is None else first.exact.noise(first.length)
    # What is left of all other classes together is one in the sum of squares, but no rival, and none over temperature.
    named, base_logs = found.slopes[..., :rivals], found.base[:, :rivals]
    of_classes = None if exact_part is None else exact_part[:, :rivals]
    of_noise = None if found.noise is None else found.noise[:, :rivals]
    margins: list[Margin | None] = [None] * len(sketches)
    each_classes = [s.view.classes[c[:rivals]] for s, c in zip(sketches, columns, strict=True)]
    open_gaps = [s.view.gaps(classes) for s, classes in zip(sketches, each_classes, strict=True)]
    peaks: list[Limits] = []
    if rivals >= 2:
        margins = margin_limits(
            named,
            base_logs,
            top,
            first.confidence,
            first.features,
            of_noise,
            None if of_classes is None else of_classes[None],
            more,
            open_gaps,
        )
        peaks = _peaks(sketches, named, base_logs, of_noise, of_classes, more)
    moved = [bool(one.any()) or (exact_part is not None and bool(exact_part.any())) for one in found.slopes]
    out: list[_LogOdds] = []
    for i, (sketch, margin) in enumerate(zip(sketches, margins, strict=True)):
        view = sketch.view
        if not moved[i] or rivals < 2:
            out.append((None, None, not view.whole if not moved[i] else True))
        elif margin is None:
            out.append((peaks[i], None, not view.whole))
        else:
            known = len(view.classes)
            unmeasured = p[i, 0, :known][~keep[i, :known]]
            least = float(least_visible(p[i])) if unmeasured.size else 0.0
            ceiling = max(view.ceiling, least, float(unmeasured.max(initial=0.0)))
            ahead = float(found.base[i, top[i]] - np.log(ceiling)) if ceiling > 0 else np.inf
            hidden = margin.beaten_by(ahead)
            peaks[i] = peak_with_hidden(peaks[i], margin, len(view.base) - rivals, ahead)
            limits = open_gaps[i]
            if limits is not None:
                other = np.arange(rivals) != top[i]
                gaps = np.maximum(found.base[i, top[i]] - base_logs[i], 0.0)
                peaks[i] = peak_with_gaps(peaks[i], gaps[other], *(side[other] for side in limits))
            out.append((peaks[i], replace(margin, rival=int(view.classes[columns[i][margin.rival]])), hidden))
    return out


def _peaks(
    sketches: Sequence[Sketch],
    slopes: Array,
    log_p: Array,
    noise: Array | None,
    exact_part: Array | None,
    more: float,
) -> list[Limits]:
    """Peaks over temperature from contrasts (n, m, C) of log p; ``noise`` (n, C) is taken off, as for ``margin_limits``."""
    first = sketches[0]
    found, temperatures = peak_limits(slopes, log_p, first.confidence, first.features, exact_part)
    peaks = found.each()
    if noise is None:
        return peaks
    for i, sketch in enumerate(sketches):
        rows = slopes[i] if exact_part is None else joint_rows(slopes[i], exact_part)
        _, direction = top_pair(temper(rows, log_p[i], temperatures[i]))
        carried = temper(np.diag(np.sqrt(noise[i])), log_p[i], temperatures[i]) @ direction
        spread = sketch.view.noise.spread if sketch.view.noise is not None else 0.0
        peaks[i] = _less(peaks[i], float((carried**2).sum()) * (1.0 + more), spread)
    return peaks
