"""The distance from an input to the plane that touches the decision boundary at a point, from labels around that point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.tangent_plane import (
    NEAR_FOOT,
    PlacedLabels,
    ProbitSlope,
    box_share,
    common_slopes,
    in_box_normal,
    misfit_chance,
    steepness,
)
from fimaudit.measurement.label_search import LabelSearch
from fimaudit.measurement.protocol import Flow

__all__ = ["PlaneAnswers", "measure_plane"]

Array = NDArray[np.float64]

#: Shares of the labels in rounds: each places its rows by what those before showed.
ROUNDS, FEW_ROUNDS = (0.06, 0.08, 0.12, 0.24, 0.5), (0.15, 0.25, 0.6)
#: The next round is placed for a slope so many standard errors above the fit's: labels that separate say only that the step
#: along v was long, and one that is too short costs less. Where a slope is fewer of its errors than that, it was short.
STEEPER, CLEAR = 1.5, 2.0
#: Labels below which there are fewer rounds.
FEW = 250
#: A round's step along v is no shorter than this share of the one before: labels that separate say only that it was long.
SHRINK = 1 / 3
#: Root mean square of a row's noise over the distance of the boundary point.
NOISE = 0.1
#: Cosine that is supposed before the first round, for many features and for so few as a walk ends near the foot.
FIRST_COSINE, LEAST_COSINE, MOST_COSINE = 0.15, 0.01, 0.995
FEW_FEATURES = 40
#: A feature with less room than so many standard deviations of the noise moves by one of them either way.
ROOM = 4.0
#: A feature this near an edge of the box, as a share of its width, can move one way only.
EDGE = 0.01
#: Room that is left at the edges for steps along v, in standard deviations; the same in all rounds, so that their rows lie
#: about one point.
REACH = 10.0
#: Most doublings of a step along v, and halvings after, until rows about the moved point fall on both sides.
DOUBLINGS, HALVINGS = 12, 3
#: Rows that this takes at most.
BALANCE_ROWS = 1 + DOUBLINGS + HALVINGS
#: After so many rounds the point moves nearer, by so many halvings, if these take no more than a share of the labels and the
#: distance falls to a share: the labels so far also say where the boundary leans, and its bend errs less from there.
MOVES, MOVE_HALVINGS, MOST_COST, ENOUGH_NEARER = (2, 3, 4), 8, 0.04, 0.99
#: Numbers of one block of rows.
BLOCK_NUMBERS = 4 * 2**20
#: The random rounding of features with levels adds this share of a level's square.
ROUNDING = 1 / 6


@dataclass
class _Around:
    """Labels around one boundary point.

    Attributes:
        b: (d,) the point.
        sigma: standard deviation of the noise of a feature in the last round.
        t: place of each row along v, in standard deviations of its noise; beyond: whether it is decided otherwise.
        normal: two (d,) sums of noise by label, of even and odd fours of rows: estimates of the normal's direction.
    """

    b: Array
    sigma: float = 0.0
    t: list[Array] = field(default_factory=list)
    beyond: list[NDArray[np.bool_]] = field(default_factory=list)
    normal: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.normal = [np.zeros(len(self.b)), np.zeros(len(self.b))]

    @property
    def length(self) -> float:
        """Distance of the point."""
        return float(np.linalg.norm(self.b))

    @property
    def placed(self) -> PlacedLabels:
        """Its labels."""
        return PlacedLabels(self.length, np.concatenate(self.t), np.concatenate(self.beyond))


@dataclass
class PlaneAnswers:
    """The labels around boundary points that one plane touches, each nearer to the input than the one before.

    Attributes:
        around: the points, the last one asked about now.
        lapse: share of labels that are wrong at random.
    """

    around: list[_Around]
    lapse: float = 0.0

    @property
    def last(self) -> _Around:
        """The point that is asked about."""
        return self.around[-1]

    @property
    def t(self) -> list[Array]:
        """Places along v about the last point."""
        return self.last.t

    @property
    def length(self) -> float:
        """Distance of the last point."""
        return self.last.length

    def fit(self) -> ProbitSlope:
        """The probit of all labels so far, at the last point."""
        return self._fits()[-1]

    def _fits(self) -> list[ProbitSlope]:
        return common_slopes([one.placed for one in self.around], self.lapse)

    def misfit(self) -> float:
        """How likely a plane's labels lie so far from the fit (``misfit_chance``)."""
        return misfit_chance([one.placed for one in self.around], self._fits(), self.lapse)

    def intercept(self, fit: ProbitSlope) -> float:
        """How far along v the boundary lies beyond the last point by the fit, within what was asked."""
        if fit.slope < 3 * fit.error:
            return 0.0
        places = np.concatenate(self.t)
        return self.last.sigma * float(np.clip(-fit.offset / fit.slope, places.min(), places.max()))

    def balanced(self, fit: ProbitSlope, tau: float) -> float:
        """How far along v labels are even by the fit, no farther than the last rows and half of their step."""
        last = self.t[-1]
        even = -fit.offset / max(fit.slope, 0.05)
        return self.last.sigma * float(np.clip(even, last.min() - tau / 2, last.max() + tau / 2))

    def add(self, sent: Array, noise: Array, side: Array, beyond: NDArray[np.bool_]) -> None:
        """Take over the answers to (m, d) points, of which ``noise`` is the random part, on one of two sides along v."""
        last = self.last
        v = last.b / last.length
        across = (noise**2).sum(axis=1) - (noise @ v) ** 2
        last.sigma = float(np.sqrt(max(float(across.mean()) / max(len(v) - 1, 1), 1e-300)))
        last.t.append((sent - last.b) @ v / last.sigma)
        last.beyond.append(beyond)
        hit = beyond.astype(np.float64)
        for way in (-1.0, 1.0):
            if (side == way).any():
                hit[side == way] -= hit[side == way].mean()
        for part in (0, 1):
            rows = np.arange(len(hit)) // 4 % 2 == part  # noise and its negative in one half
            last.normal[part] += hit[rows] @ noise[rows]

    def _per_normal(self, cosine: float) -> float:
        """What turns sums of noise by label into the rest of the unit normal: E[label w] = phi(o + q t) sigma n."""
        seen = 0.0
        for fit, one in zip(self._fits(), self.around, strict=True):
            places = np.concatenate(one.t)
            seen += one.sigma * float(np.exp(-((fit.offset + fit.slope * places) ** 2) / 2).sum() / np.sqrt(2 * np.pi))
        return float(np.sqrt(max(0.0, 1.0 - cosine**2))) / max(seen, 1e-300)

    def in_box(self, search: LabelSearch, cosine: float) -> float:
        """Length of the part of the unit normal that the box allows (``in_box_normal``)."""
        points = search.points
        if not points.space.bounded:
            return 1.0
        width = np.where(np.isfinite(points.upper - points.lower), points.upper - points.lower, np.inf)
        low, high = -points.lower <= EDGE * width, points.upper <= EDGE * width
        edge = (low | high) & np.isfinite(width)
        if not edge.any():
            return 1.0
        v, inward = self.last.b / self.length, np.where(low, 1.0, -1.0)[edge]
        even, odd = (np.sum([one.normal[part] for one in self.around], axis=0) for part in (0, 1))
        share = box_share(even, odd, edge)
        drift = float((even + odd)[edge] @ inward) / edge.sum() * self._per_normal(cosine)
        return in_box_normal(cosine, v[edge] * inward, min(1.0, share), drift)


def measure_plane(
    search: LabelSearch, b: Array, labels: int, enough: Callable[[PlaneAnswers], bool] | None = None
) -> Flow[PlaneAnswers]:
    """Ask so many labels around a boundary point, which moves nearer; see ``fimaudit.estimation.tangent_plane``.

    Args:
        search: the search that found it.
        b: (d,) the boundary point.
        labels: to ask.
        enough: stops after a round.
    """
    plane = PlaneAnswers([_Around(b)], search.lapse)
    stencil = _Stencil.at(search, b)
    end = search.asked + labels
    if labels <= BALANCE_ROWS * search.votes:
        return plane
    first = max(FIRST_COSINE, float(1 / np.sqrt(1 + len(b) / FEW_FEATURES)))
    tau, centre = steepness(first), (yield from stencil.balance())
    whole = end - search.asked
    rounds = FEW_ROUNDS if whole < FEW else ROUNDS
    for number, share in enumerate(rounds):
        left = end - search.asked
        count = left if number == len(rounds) - 1 else min(left, int(whole * share))
        block = max(8, BLOCK_NUMBERS // len(b))
        while count > 0:
            yield from stencil.ask(plane, min(block, count), tau, centre)
            count -= block
        if not plane.t:  # labels are few, and all of them come in the last round
            continue
        if enough is not None and enough(plane):
            break
        fit = plane.fit()
        steeper = STEEPER if fit.slope > CLEAR * fit.own_error else 0.0
        cosine = float(np.clip(fit.cosine_at(steeper), LEAST_COSINE, MOST_COSINE))
        nearer = None
        spare = end - search.asked - (MOVE_HALVINGS + BALANCE_ROWS) * search.most_votes
        if number + 1 < len(rounds) and spare > 0:
            nearer = yield from _nearer(search, plane, cosine, number, whole)
        if nearer is None:
            centre = plane.balanced(fit, tau)
        else:
            cosine = min(MOST_COSINE, cosine * plane.length / float(np.linalg.norm(nearer)))
            stencil = _Stencil.at(search, nearer)
            plane.around.append(_Around(nearer))
            centre = yield from stencil.balance()
        tau = max(steepness(cosine), SHRINK * tau)
    return plane


def _nearer(search: LabelSearch, plane: PlaneAnswers, cosine: float, number: int, whole: int) -> Flow[Array | None]:
    """A boundary point that is nearer, in the direction in which the labels so far say that the boundary leans."""
    cost = MOVE_HALVINGS * search.votes
    if number + 1 not in MOVES or cosine >= NEAR_FOOT or cost > MOST_COST * whole:
        return None
    last = plane.last
    v = last.b / last.length
    across = last.normal[0] + last.normal[1]
    across = across - (across @ v) * v
    size = float(np.linalg.norm(across))
    if not size > 0:
        return None
    to = (yield from search.arcs(last.b[None], across[None] / size, MOVE_HALVINGS))[0]
    return to if float(np.linalg.norm(to)) < last.length * ENOUGH_NEARER else None


@dataclass(frozen=True)
class _Stencil:
    """How rows lie about a boundary point.

    Attributes:
        search: asks.
        b, v: the boundary point and its direction.
        delta: standard deviation of a feature's noise; sigma: with the rounding to levels.
        tight: which features have room for one standard deviation either way only.
        lower, upper: between which these features' means lie.
    """

    search: LabelSearch
    b: Array
    v: Array
    delta: float
    sigma: float
    tight: NDArray[np.bool_]
    lower: Array
    upper: Array

    @classmethod
    def at(cls, search: LabelSearch, b: Array) -> _Stencil:
        """About a boundary point."""
        points, length = search.points, float(np.linalg.norm(b))
        v = b / length
        delta = NOISE * length / np.sqrt(len(b))
        sigma = float(np.sqrt(delta**2 + ROUNDING * (points.levels**2).mean()))
        reach = delta + REACH * sigma * np.abs(v)
        lower, upper = points.lower + reach, points.upper - reach
        tight = (b - lower < ROOM * delta) | (upper - b < ROOM * delta)
        narrow = upper < lower
        half = (np.where(narrow, lower, 0.0) + np.where(narrow, upper, 0.0)) / 2
        return cls(search, b, v, delta, sigma, tight, np.where(narrow, half, lower), np.where(narrow, half, upper))

    def mean(self, centre: float) -> Array:
        """The point so far along v from ``b``, with tight features moved inward."""
        middle = self.b + centre * self.v
        return np.where(self.tight, np.clip(middle, self.lower, self.upper), middle)

    def balance(self) -> Flow[float]:
        """How far along v rows about the mean fall on both sides, where moving features inward left the boundary."""
        if not self.tight.any():
            return 0.0
        far = (yield from self.search.vote(self.mean(0.0)[None]))[0]
        way, step, known, other = (-1.0 if far else 1.0), 2 * self.sigma, 0.0, None
        for _ in range(DOUBLINGS):
            at = known + way * step
            if (yield from self.search.vote(self.mean(at)[None]))[0] != far:
                other = at
                break
            known, step = at, 2 * step
        if other is None:
            return 0.0
        for _ in range(HALVINGS):
            at = (known + other) / 2
            if (yield from self.search.vote(self.mean(at)[None]))[0] != far:
                other = at
            else:
                known = at
        return (known + other) / 2

    def ask(self, plane: PlaneAnswers, count: int, tau: float, centre: float) -> Flow[None]:
        """Rows with white noise orthogonal to v, half of them tau deviations nearer, half farther, about ``centre``.

        On either side each noise comes with its negative: of such a pair at most one row is beyond where few are, so that
        their number varies less.
        """
        b, v, rng = self.b, self.v, self.search.rng
        side = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
        noise: Array = rng.standard_normal((count, len(b)), dtype=np.float32) * np.float64(self.delta)
        pairs = count // 4 * 4
        noise[2:pairs:4], noise[3:pairs:4] = -noise[0:pairs:4], -noise[1:pairs:4]
        if self.tight.any():
            noise[:, self.tight] = np.copysign(self.delta, noise[:, self.tight])
        noise -= np.outer(noise @ v, v)
        mean = self.mean(centre) + np.outer(side * tau * self.sigma, v)
        dither = rng.random(noise.shape, dtype=np.float32) if self.search.points.space.quantised else None
        other, sent = yield from self.search.ask(mean + noise, dither)
        plane.add(sent, sent - mean, side, other)
