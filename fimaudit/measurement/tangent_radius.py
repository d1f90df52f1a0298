"""The distance from an input to the plane that touches the decision boundary at a point, from labels around that point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.tangent_plane import ProbitSlope, box_share, in_box_normal, probit_slope, steepness
from fimaudit.measurement.boundary_walk import BoundaryWalk
from fimaudit.measurement.protocol import Flow

__all__ = ["PlaneAnswers", "measure_plane"]

Array = NDArray[np.float64]

#: Shares of the labels in rounds: each places its rows by what those before showed.
ROUNDS, FEW_ROUNDS = (0.06, 0.08, 0.12, 0.24, 0.5), (0.15, 0.25, 0.6)
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
#: Numbers of one block of rows.
BLOCK_NUMBERS = 4 * 2**20
#: The random rounding of features with levels adds this share of a level's square.
ROUNDING = 1 / 6


@dataclass
class PlaneAnswers:
    """The labels around a boundary point.

    Attributes:
        b: (d,) the boundary point.
        lapse: share of labels that are wrong at random.
        t: place of each row along v, in standard deviations of its noise; beyond: whether it is decided otherwise.
        sigma: standard deviation of the noise of a feature in the last round.
        normal: two (d,) sums of noise by label, of even and odd rows: estimates of the normal's direction.
    """

    b: Array
    lapse: float = 0.0
    sigma: float = 0.0
    t: list[Array] = field(default_factory=list)
    beyond: list[NDArray[np.bool_]] = field(default_factory=list)
    normal: list[Array] = field(default_factory=list)

    @property
    def length(self) -> float:
        """Distance of the boundary point."""
        return float(np.linalg.norm(self.b))

    def fit(self) -> ProbitSlope:
        """The probit of all labels so far."""
        return probit_slope(np.concatenate(self.t), np.concatenate(self.beyond), self.lapse)

    def intercept(self, fit: ProbitSlope) -> float:
        """How far along v the boundary lies beyond ``b`` by the fit, within what was asked."""
        if fit.slope < 3 * fit.error:
            return 0.0
        places = np.concatenate(self.t)
        return self.sigma * float(np.clip(-fit.offset / fit.slope, places.min(), places.max()))

    def balanced(self, fit: ProbitSlope, tau: float) -> float:
        """How far along v labels are even by the fit, no farther than the last rows and half of their step."""
        last = self.t[-1]
        even = -fit.offset / max(fit.slope, 0.05)
        return self.sigma * float(np.clip(even, last.min() - tau / 2, last.max() + tau / 2))

    def add(self, sent: Array, noise: Array, side: Array, beyond: NDArray[np.bool_]) -> None:
        """Take over the answers to (m, d) points, of which ``noise`` is the random part, on one of two sides along v."""
        v = self.b / self.length
        across = (noise**2).sum(axis=1) - (noise @ v) ** 2
        self.sigma = float(np.sqrt(max(float(across.mean()) / max(len(v) - 1, 1), 1e-300)))
        self.t.append((sent - self.b) @ v / self.sigma)
        self.beyond.append(beyond)
        hit = beyond.astype(np.float64)
        for way in (-1.0, 1.0):
            if (side == way).any():
                hit[side == way] -= hit[side == way].mean()
        for part in (0, 1):
            rows = np.arange(len(hit)) // 2 % 2 == part
            self.normal[part] += hit[rows] @ noise[rows]

    def _per_normal(self, cosine: float) -> float:
        """What turns sums of noise by label into the rest of the unit normal: E[label w] = phi(o + q t) sigma n."""
        fit, places = self.fit(), np.concatenate(self.t)
        seen = float(np.exp(-((fit.offset + fit.slope * places) ** 2) / 2).sum() / np.sqrt(2 * np.pi))
        return float(np.sqrt(max(0.0, 1.0 - cosine**2))) / max(self.sigma * seen, 1e-300)

    def in_box(self, walk: BoundaryWalk, cosine: float) -> float:
        """Length of the part of the unit normal that the box allows (``in_box_normal``)."""
        points = walk.points
        if not points.space.bounded:
            return 1.0
        width = np.where(np.isfinite(points.upper - points.lower), points.upper - points.lower, np.inf)
        low, high = -points.lower <= EDGE * width, points.upper <= EDGE * width
        edge = (low | high) & np.isfinite(width)
        if not edge.any():
            return 1.0
        v, inward = self.b / self.length, np.where(low, 1.0, -1.0)[edge]
        share = box_share(self.normal[0], self.normal[1], edge)
        drift = float((self.normal[0] + self.normal[1])[edge] @ inward) / edge.sum() * self._per_normal(cosine)
        return in_box_normal(cosine, v[edge] * inward, min(1.0, share), drift)


def measure_plane(
    walk: BoundaryWalk, b: Array, labels: int, enough: Callable[[PlaneAnswers], bool] | None = None
) -> Flow[PlaneAnswers]:
    """Ask so many labels around a boundary point; see ``fimaudit.estimation.tangent_plane``.

    Args:
        walk: the search that found it.
        b: (d,) the boundary point.
        labels: to ask.
        enough: stops after a round.
    """
    plane = PlaneAnswers(b, walk.lapse, normal=[np.zeros(len(b)), np.zeros(len(b))])
    stencil = _Stencil.at(walk, b)
    before = walk.asked
    first = max(FIRST_COSINE, float(1 / np.sqrt(1 + len(b) / FEW_FEATURES)))
    tau, centre = steepness(first), (yield from stencil.balance())
    left = labels - (walk.asked - before)
    whole = left
    rounds = FEW_ROUNDS if whole < FEW else ROUNDS
    for number, share in enumerate(rounds):
        count = left if number == len(rounds) - 1 else min(left, int(whole * share))
        left -= count
        block = max(8, BLOCK_NUMBERS // len(b))
        while count > 0:
            yield from stencil.ask(plane, min(block, count), tau, centre)
            count -= block
        if not plane.t:  # labels are few, and all of them come in the last round
            continue
        if enough is not None and enough(plane):
            break
        fit = plane.fit()
        centre = plane.balanced(fit, tau)
        cosine = float(np.clip(fit.cosine, LEAST_COSINE, MOST_COSINE))
        tau = max(steepness(cosine), SHRINK * tau)
    return plane


@dataclass(frozen=True)
class _Stencil:
    """How rows lie about a boundary point.

    Attributes:
        walk: asks.
        b, v: the boundary point and its direction.
        delta: standard deviation of a feature's noise; sigma: with the rounding to levels.
        tight: which features have room for one standard deviation either way only.
        lower, upper: between which these features' means lie.
    """

    walk: BoundaryWalk
    b: Array
    v: Array
    delta: float
    sigma: float
    tight: NDArray[np.bool_]
    lower: Array
    upper: Array

    @classmethod
    def at(cls, walk: BoundaryWalk, b: Array) -> _Stencil:
        """About a boundary point."""
        points, length = walk.points, float(np.linalg.norm(b))
        v = b / length
        delta = NOISE * length / np.sqrt(len(b))
        sigma = float(np.sqrt(delta**2 + ROUNDING * (points.levels**2).mean()))
        reach = delta + REACH * sigma * np.abs(v)
        lower, upper = points.lower + reach, points.upper - reach
        tight = (b - lower < ROOM * delta) | (upper - b < ROOM * delta)
        narrow = upper < lower
        half = (np.where(narrow, lower, 0.0) + np.where(narrow, upper, 0.0)) / 2
        return cls(walk, b, v, delta, sigma, tight, np.where(narrow, half, lower), np.where(narrow, half, upper))

    def mean(self, centre: float) -> Array:
        """The point so far along v from ``b``, with tight features moved inward."""
        middle = self.b + centre * self.v
        return np.where(self.tight, np.clip(middle, self.lower, self.upper), middle)

    def balance(self) -> Flow[float]:
        """How far along v rows about the mean fall on both sides, where moving features inward left the boundary."""
        if not self.tight.any():
            return 0.0
        far = (yield from self.walk.vote(self.mean(0.0)[None]))[0]
        way, step, known, other = (-1.0 if far else 1.0), 2 * self.sigma, 0.0, None
        for _ in range(DOUBLINGS):
            at = known + way * step
            if (yield from self.walk.vote(self.mean(at)[None]))[0] != far:
                other = at
                break
            known, step = at, 2 * step
        if other is None:
            return 0.0
        for _ in range(HALVINGS):
            at = (known + other) / 2
            if (yield from self.walk.vote(self.mean(at)[None]))[0] != far:
                other = at
            else:
                known = at
        return (known + other) / 2

    def ask(self, plane: PlaneAnswers, count: int, tau: float, centre: float) -> Flow[None]:
        """Rows with white noise orthogonal to v, half of them tau deviations nearer, half farther, about ``centre``."""
        b, v, rng = self.b, self.v, self.walk.rng
        side = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
        noise: Array = rng.standard_normal((count, len(b)), dtype=np.float32) * np.float64(self.delta)
        if self.tight.any():
            noise[:, self.tight] = np.copysign(self.delta, noise[:, self.tight])
        noise -= np.outer(noise @ v, v)
        mean = self.mean(centre) + np.outer(side * tau * self.sigma, v)
        dither = rng.random(noise.shape, dtype=np.float32) if self.walk.points.space.quantised else None
        other, sent = yield from self.walk.ask(mean + noise, dither)
        plane.add(sent, sent - mean, side, other)
