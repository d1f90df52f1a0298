"""How far an input lies from the plane that touches a decision boundary somewhere, from labels on both sides of that plane.

Let b be a point of the boundary at distance L from the input, v = b / L, n the boundary's unit normal there and c = n . v.
The plane's distance from the input is r = c L, however far away b is. Rows b + s (w + t v), with white noise w orthogonal to
v, lie beyond the plane with probability Phi(o + q t), a probit in t with the slope q = c / sqrt(1 - c^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, expit, ndtr

from fimaudit.estimation.spectral_norm import Limits

__all__ = [
    "NEAR_FOOT",
    "PlacedLabels",
    "ProbitSlope",
    "box_share",
    "common_slopes",
    "curvature",
    "in_box_normal",
    "misfit_chance",
    "plane_radius",
    "probit_slope",
    "steepness",
]

Array = NDArray[np.float64]

#: Prior precision of offset and slope: enough where labels separate, nothing where they do not.
RIDGE = 0.01
#: Beyond so many standard deviations a label adds nothing.
FARTHEST = 5.0
#: Rounds of the fit, whose steps are halved after so many each, since they may go to and fro where labels are random.
MOST_ROUNDS, HALVED_AFTER, ENOUGH = 50, 10, 1e-8
#: Labels of one cell whose share beyond is compared with the fit.
CELL = 25
LEAST_COSINE, MOST_COSINE = 1e-4, 0.999
#: Spread of log(radius / true one) that curvature causes, below and above, with so many labels at least: a short walk ends
#: where the bend is worse (benchmarks/labels.py).
BENDS = ((1000, 0.138, 0.1335), (400, 0.25, 0.25), (0, 0.3, 0.45))
#: From this cosine on the plane touches near its foot.
NEAR_FOOT = 0.6


@dataclass(frozen=True)
class ProbitSlope:
    """A probit fit of labels.

    Attributes:
        offset, slope: o and q.
        error: standard error of the slope, no less as a share than that of maximum likelihood, which is without bound where
            labels separate: they say only that the slope is no smaller.
        own_error: that of the fit itself, which tells labels that separate from a slope that is not to be seen.
    """

    offset: float
    slope: float
    error: float
    own_error: float = 0.0

    @property
    def cosine(self) -> float:
        """c = q / sqrt(1 + q^2)."""
        return float(self.slope / np.hypot(1.0, self.slope))

    def cosine_at(self, deviations: float) -> float:
        """c for a slope so many standard errors away on its logarithm, whose error is nearly symmetric; 0 for none."""
        if self.slope <= 0:
            return 0.0
        return float(np.sqrt(expit(2 * (np.log(self.slope) + deviations * self.error / self.slope))))


def probit_slope(t: Array, beyond: NDArray[np.bool_], lapse: float = 0.0) -> ProbitSlope:
    """Fit of P(beyond) = e + (1 - 2 e) Phi(o + q t) without the bias of maximum likelihood, too steep for few labels.

    Args:
        t: (m,) places along v, in standard deviations of the noise.
        beyond: (m,) whether the label is another one there.
        lapse: e, share of labels that are wrong at random.

    >>> t = np.repeat([-1.0, 1.0], 500)
    >>> beyond = np.concatenate([np.arange(500) < 79, np.arange(500) < 421])
    >>> round(probit_slope(t, beyond).slope, 2)
    1.0
    """
    return common_slopes([PlacedLabels(1.0, t, beyond)], lapse)[0]


@dataclass(frozen=True)
class PlacedLabels:
    """Labels around one of several boundary points that one plane touches.

    Attributes:
        length: L, distance of the point.
        t: (m,) places along its v, in standard deviations of the noise.
        beyond: (m,) whether the label is another one there.
    """

    length: float
    t: Array
    beyond: NDArray[np.bool_]


def common_slopes(places: Sequence[PlacedLabels], lapse: float = 0.0) -> list[ProbitSlope]:
    """The probit of labels around several points of one plane: offset and slope at each.

    A plane at the distance r is seen from a point at L under c = r / L, so that one slope says all others; each point has
    an offset of its own. Where the points' own distances differ by more than their labels explain, the boundary is no plane,
    and errors are larger by as much.

    Args:
        places: labels around each point.
        lapse: share of labels that are wrong at random.

    >>> t = np.repeat([-1.0, 1.0], 500)
    >>> beyond = np.concatenate([np.arange(500) < 79, np.arange(500) < 421])
    >>> once = PlacedLabels(1.0, t, beyond)
    >>> round(common_slopes([once, once])[1].slope, 2)
    1.0
    """
    nearer = np.array([places[-1].length / one.length for one in places])
    at, own = _fitted(places, nearer, lapse, adjusted=True)
    likely, wide = _fitted(places, nearer, lapse, adjusted=False)
    slope = float(at[-1])
    error = max(own, wide, slope * wide / max(float(likely[-1]), 1e-12))
    if len(places) > 1:
        error *= _disagreement(places, lapse)
    slopes, steep = _seen_from(slope, nearer)
    return [
        ProbitSlope(float(o), float(q), float(each * error), float(each * own))
        for o, q, each in zip(at, slopes, steep, strict=False)
    ]


def _fitted(places: Sequence[PlacedLabels], nearer: Array, lapse: float, *, adjusted: bool) -> tuple[Array, float]:
    """Offsets at each point and the slope at the last one, by Fisher scoring, and the slope's standard error.

    Adjusted as in Firth, "Bias reduction of maximum likelihood estimates", Biometrika 80 (1993): w z x' I^-1 x / 2 is taken
    off each label's score, and with it the bias of order 1 / m (but for what it owes to slopes at other points, which are
    not linear in the last one's).
    """
    block = np.repeat(np.arange(len(places)), [len(one.t) for one in places])
    t, hit = np.concatenate([one.t for one in places]), np.concatenate([one.beyond for one in places]).astype(np.float64)
    at, information = np.zeros(len(places) + 1), np.eye(len(places) + 1)
    design = np.zeros((len(t), len(at)))
    design[np.arange(len(t)), block] = 1.0
    for number in range(MOST_ROUNDS):
        slopes, steep = _seen_from(float(at[-1]), nearer)
        design[:, -1] = steep[block] * t
        z = np.clip(at[block] + slopes[block] * t, -FARTHEST, FARTHEST)
        score, weight = _probit_score(z, hit, lapse)
        information = (design * weight[:, None]).T @ design + RIDGE * np.eye(len(at))
        if adjusted:
            leverage = ((design @ np.linalg.inv(information)) * design).sum(axis=1)
            score = score - weight * z * leverage / 2
        step = np.linalg.solve(information, design.T @ score - RIDGE * at)
        step *= min(1.0, 2.0 / max(float(np.abs(design @ step).max()), 1e-12)) * 0.5 ** (number // HALVED_AFTER)
        at = at + step
        if np.abs(step).max() < ENOUGH:
            break
    return at, float(np.sqrt(np.linalg.inv(information)[-1, -1]))


def _disagreement(places: Sequence[PlacedLabels], lapse: float) -> float:
    """Root of chi^2 per degree of freedom of the plane's distance from each point alone, at least 1."""
    fits = [probit_slope(one.t, one.beyond, lapse) for one in places]
    cosine = np.maximum([fit.cosine for fit in fits], LEAST_COSINE)
    r = np.array([one.length for one in places]) * cosine
    error = np.array([one.length * fit.error * (1.0 + fit.slope**2) ** -1.5 for one, fit in zip(places, fits, strict=True)])
    mean = float((r / error**2).sum() / (1.0 / error**2).sum())
    return max(1.0, float(np.sqrt((((r - mean) / error) ** 2).sum() / (len(r) - 1))))


def _seen_from(slope: float, nearer: Array) -> tuple[Array, Array]:
    """Slopes at points whose cosines are so many times the last one's (at most about 1), and their derivatives."""
    c = slope / np.hypot(1.0, slope)
    seen = np.clip(nearer * c, -MOST_COSINE, MOST_COSINE)
    rest = 1.0 - seen**2
    return seen / np.sqrt(rest), nearer * rest**-1.5 * (1.0 + slope**2) ** -1.5


def _probit_score(z: Array, hit: Array, lapse: float) -> tuple[Array, Array]:
    """Derivative of each label's log likelihood by z, and its expected square."""
    density = (1 - 2 * lapse) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    p, q = (lapse + (1 - 2 * lapse) * ndtr(side * z) for side in (1.0, -1.0))
    return density * (hit / p - (1 - hit) / q), density**2 / (p * q)


def misfit_chance(places: Sequence[PlacedLabels], fits: Sequence[ProbitSlope], lapse: float = 0.0) -> float:
    """How likely labels of a plane lie so far from their fit: chi^2 of neighbouring places along v, a cell each.

    Of a region thinner than the noise, of the next region behind it or of a corner, labels do not fall as a plane's.

    Args:
        places: labels around each point, and ``fits``: of them (``common_slopes``).
        lapse: share of labels that are wrong at random.

    >>> t = np.repeat([-1.0, 0.0, 1.0], 100)
    >>> pocket = PlacedLabels(1.0, t, np.repeat([False, True, False], 100))
    >>> misfit_chance([pocket], common_slopes([pocket])) < 1e-9
    True
    """
    square, cells = 0.0, 0
    for one, fit in zip(places, fits, strict=True):
        for cell in np.array_split(np.argsort(one.t, kind="stable"), max(1, len(one.t) // CELL)):
            chance = lapse + (1 - 2 * lapse) * ndtr(fit.offset + fit.slope * one.t[cell])
            off = float(one.beyond[cell].sum() - chance.sum())
            square += off**2 / (float((chance * (1 - chance)).sum()) + 0.25)  # few are expected in some cells
            cells += 1
    return float(chdtrc(max(1, cells - len(places) - 1), square))


def steepness(cosine: float) -> float:
    """How far along v to go, in standard deviations of the noise, so that labels say most about the slope.

    The information z^2 phi(z)^2 / (Phi(z) Phi(-z)) on the logarithm of the slope is largest at z = 1.58; a little less
    allows for an offset: t = 1.4 sqrt(1 - c^2) / c.

    >>> round(steepness(0.5), 3)
    2.425
    """
    return max(1.4 * float(np.sqrt(max(0.0, 1.0 - cosine**2))) / cosine, 0.1)


def box_share(first: Array, second: Array, edge: NDArray[np.bool_]) -> float:
    """Share of the normal's squared length that lies on features at an edge of the box, from two independent estimates.

    sum_edge e1 e2 / sum e1 e2, shrunk towards the share of such features by twice the sampling error.

    Args:
        first, second: (d,) estimates of the normal's direction from independent halves of the labels, in the same unit.
        edge: (d,) which features lie at an edge.

    >>> box_share(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([True, False])) < 0.5
    True
    """
    product = first * second
    shrink = 2.0 * float(np.sqrt((first**2).mean() * (second**2).mean() * len(product)))
    share = float(edge.mean())
    if shrink == 0:
        return share
    return (max(float(product[edge].sum()), 0.0) + shrink * share) / (max(float(product.sum()), 0.0) + shrink)


def in_box_normal(cosine: float, inward: Array, share: float, drift: float = 0.0) -> float:
    """Length of the part of the unit normal along which the box lets the input move.

    Components on edge features are normal about a_i, their part along v and their common drift, with the rest of the
    normal spread evenly; what points out of the box, E[(z)_-^2], is taken off.

    Args:
        cosine: c.
        inward: (k,) components of v on the edge features, positive where they lead into the box.
        share: of the rest of the normal's squared length on these features (``box_share``).
        drift: mean of the rest of the normal over these features, positive into the box.

    >>> in_box_normal(0.5, np.empty(0), 0.0)
    1.0
    """
    if inward.size == 0:
        return 1.0
    rest = (1.0 - cosine**2) * share / inward.size
    drift = float(np.clip(drift, -np.sqrt(rest), np.sqrt(rest)))
    a = cosine * inward + drift
    spread = float(np.sqrt(max(rest - drift**2, 1e-3 * rest, 1e-300)))
    z = a / spread
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    outward = ((a**2 + spread**2) * ndtr(-z) - a * spread * density).sum()
    return float(np.sqrt(max(1.0 - float(outward), 0.25)))


def curvature(labels: int) -> tuple[float, float]:
    """Standard deviations of log(radius / true one), below and above, that curvature causes with so many labels an input.

    >>> curvature(1000)[0] < curvature(200)[0]
    True
    """
    return next((below, above) for least, below, above in BENDS if labels >= least)


def plane_radius(
    fit: ProbitSlope,
    length: float,
    nearest: float,
    deviations: float,
    *,
    in_box: float = 1.0,
    bend: tuple[float, float] = BENDS[0][1:],
) -> Limits:
    """r = c L / |n in the box|, with limits that cover sampling and curvature, and a real counterexample above all.

    Limits lie at hypot(sampling, curvature) from c L. What curvature does was seen on real networks, not on this input
    (``curvature``). Near the foot of the plane (c >= 0.6) the
    boundary's bend decides, and the counterexample alone limits the radius from above.

    Args:
        fit: of the labels around the boundary point.
        length: L, of the boundary point on the plane.
        nearest: distance of the nearest row that was decided otherwise.
        deviations: of the confidence, 1.96 for 95 %.
        in_box: |n in the box| (``in_box_normal``).
        bend: standard deviations of log(r / true) below and above.

    >>> found = plane_radius(ProbitSlope(0.0, 1.0, 0.1), 2.0, 3.0, 1.96)
    >>> found.lower < found.value < found.upper <= 3.0
    True
    """
    cosine = max(fit.cosine, LEAST_COSINE)
    plane = length * cosine
    value = min(plane / in_box, nearest)
    below, above = bend
    low = np.hypot(plane - length * fit.cosine_at(-deviations), deviations * below * plane)
    high = np.hypot(length * fit.cosine_at(deviations) - plane, deviations * above * plane)
    lower = max(0.0, plane - float(low)) / ((1.0 + in_box) / 2)
    upper = (plane + float(high)) / max(1.5 * in_box - 0.5, 0.4)
    if cosine >= NEAR_FOOT:
        upper = nearest
    return Limits(value, min(lower, value), max(min(upper, nearest), value))
