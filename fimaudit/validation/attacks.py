"""The attacks: adversarial-robustness-toolbox's, each set up for one input in coordinates where the answer is about 1.

Each takes what was asked so far, the model as ART sees it, and ends when it is done; the nearest row whose decision
differed is in ``asked``. All minimise the l2 length of the displacement and aim at any other class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.validation.art_estimator import Asked, BlackBoxEstimator, DecisionChanged, WhiteBoxEstimator

# isort: split
from art.attacks.evasion import CarliniL2Method, DeepFool, HopSkipJump, SquareAttack
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import ProjectedGradientDescentNumpy

__all__ = ["ATTACKS", "Setting", "seen_as_image"]

Array = NDArray[np.float64]

#: PGD: steps at one eps, their length in eps, and the ladder's end: ratio of the eps that works to the one that does not.
PGD_STEPS, PGD_STEP, PGD_END = 40, 0.1, 1.02
#: Random starts beside the input itself: they find basins that gradients at the input do not point to.
PGD_STARTS = 3
#: No ladder goes beyond these multiples of the first-order radius.
LARGEST, SMALLEST = 2.0**10, 2.0**-10
DEEPFOOL_STEPS, DEEPFOOL_OVERSHOOT = 50, 0.02
CW_STEPS, CW_CONSTANTS = 40, 3
#: HopSkipJump asks about 100 sqrt(i) rows in step i, 67 n^1.5 in n steps, and 30 more in each to find the boundary.
HOPSKIPJUMP_STEPS, HOPSKIPJUMP_SHARE = 30, 0.012
#: Square asks three rows a step.
SQUARE_STEPS, SQUARE_ROUNDS, SQUARE_SHRINK = 300, 8, 0.9
#: Square needs five tiles a side, each at least three pixels.
SQUARE_SIDE = 15
#: Rows of one bisection along a segment: its length to one part in a thousand.
SEGMENT_ROWS = 10


@dataclass(frozen=True)
class Setting:
    """What an attack starts from.

    Attributes:
        asked: the model at one input, in attack coordinates.
        log_p: (K,) at the input.
        guess: length in u at which the boundary is expected: 1, or what an earlier attack found.
        start: a row in u with another decision, for attacks that walk along the boundary; ``None`` if none is known.
        seed: of its random choices.
        rows: that the attack may ask; black-box attacks take as many steps as fit. ``None`` for their own number.
    """

    asked: Asked
    log_p: Array
    guess: float
    start: NDArray[Any] | None
    seed: int
    rows: int | None = None

    @property
    def zero(self) -> NDArray[Any]:
        """The input in u, as a batch of one."""
        return np.zeros((1, *self.asked.at.origin.shape), dtype=np.float32)

    @property
    def target(self) -> NDArray[Any]:
        """The decision, one-hot."""
        return np.eye(len(self.log_p))[[self.asked.decision]]


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image's first axis is its channels: the shorter of first and last is."""
    return shape[0] <= shape[-1]


def seen_as_image(shape: tuple[int, ...]) -> bool:
    """Whether Square applies: channels and a square of at least 15 pixels a side."""
    if len(shape) != 3:
        return False
    height, width = shape[1:] if channels_first(shape) else shape[:2]
    return height == width and height >= SQUARE_SIDE


def _deepfool(setting: Setting) -> None:
    # Without clip values: with them, ART multiplies the step by their range.
    model = WhiteBoxEstimator(setting.asked, len(setting.log_p), None)
    attack = DeepFool(model, max_iter=DEEPFOOL_STEPS, epsilon=DEEPFOOL_OVERSHOOT, nb_grads=10, verbose=False)
    setting.asked.log_probabilities(attack.generate(setting.zero))
    _shorten(setting)


def _carlini_wagner(setting: Setting) -> None:
    # At the nearest boundary point 2 u = c grad(margin), so c is about 2 |u|^2 / margin for a nearly linear margin.
    ranked = np.sort(setting.log_p)
    margin = max(float(ranked[-1] - ranked[-2]), 1e-6)
    reach = 16.0 * setting.guess
    model = WhiteBoxEstimator(setting.asked, len(setting.log_p), (-reach, reach))
    attack = CarliniL2Method(
        model,
        learning_rate=0.25 / reach**2,  # in tanh space, where du = reach^2 times this times the gradient
        binary_search_steps=CW_CONSTANTS,
        max_iter=CW_STEPS,
        initial_const=3.0 * setting.guess**2 / margin,
        verbose=False,
    )
    attack.generate(setting.zero, setting.target)
    _shorten(setting)


def _pgd(setting: Setting) -> None:
    """A ladder over eps: double until the decision changes, then bisect; within an eps, stop at the first change."""
    asked = setting.asked
    low, high, eps = 0.0, np.inf, setting.guess
    rng = np.random.default_rng(setting.seed)
    while SMALLEST <= eps <= LARGEST and high > PGD_END * low:
        if _pgd_at(setting, eps, rng):
            high = asked.distance / asked.at.unit
            eps = high / 1.3 if low == 0.0 else float(np.sqrt(low * high))
        else:
            low = eps
            eps = 2.0 * low if high == np.inf else float(np.sqrt(low * high))
    _shorten(setting)


class _PgdFrom(ProjectedGradientDescentNumpy):  # type: ignore[misc]
    """ART's PGD from given starts: its own come from the global generator, which side by side is anybody's."""

    starts: NDArray[Any]

    def _compute(self, x: Any, x_init: Any, *arguments: Any, **keywords: Any) -> Any:
        if self._i_max_iter == 0:
            x = x + self.starts
        return super()._compute(x, x_init, *arguments, **keywords)


def _pgd_at(setting: Setting, eps: float, rng: np.random.Generator) -> bool:
    """Whether PGD within eps changes the decision nearer than before: by either loss from the input, or from its ball."""
    asked, rows = setting.asked, 2 + PGD_STARTS
    model = WhiteBoxEstimator(asked, len(setting.log_p), asked.at.bounds())
    model.margin = np.arange(rows) == 1
    zero = np.repeat(setting.zero, rows, axis=0)
    away = rng.standard_normal(zero.shape).astype(np.float32)
    away *= eps / np.linalg.norm(away.reshape(rows, -1), axis=1).reshape(-1, *(1,) * (zero.ndim - 1))
    away[:2] = 0.0
    attack = _PgdFrom(model, norm=2, eps=eps, eps_step=PGD_STEP * eps, max_iter=PGD_STEPS, batch_size=rows, verbose=False)
    attack.starts = away
    asked.until_nearer = True
    try:
        attack.generate(zero, np.repeat(setting.target, rows, axis=0))
    except DecisionChanged:
        return True
    finally:
        asked.until_nearer = False
    return False


def _hopskipjump(setting: Setting) -> None:
    if setting.start is None:
        return
    # From a nearer start on the segment: the walk along the boundary is the shorter.
    asked = setting.asked
    asked.log_probabilities(setting.start[None])
    _shorten(setting)
    if asked.row is None:
        return
    reach = 10.0 * max(setting.guess, asked.distance / asked.at.unit)
    model = BlackBoxEstimator(asked, len(setting.log_p), (-reach, reach))
    steps = HOPSKIPJUMP_STEPS
    if setting.rows is not None:
        steps = min(steps, max(1, int((HOPSKIPJUMP_SHARE * setting.rows) ** (2 / 3))))
    attack = HopSkipJump(model, norm=2, max_iter=steps, verbose=False)
    begin = asked.at.coordinates(asked.row)[None].astype(np.float32)
    attack.generate(setting.zero, setting.target, x_adv_init=begin)
    _shorten(setting)


def _square(setting: Setting) -> None:
    """Square at ever smaller eps, from what is known already, until it fails twice in a row."""
    asked = setting.asked
    shape = asked.at.origin.shape
    if not seen_as_image(shape):
        return
    model = BlackBoxEstimator(asked, len(setting.log_p), asked.at.bounds(), channels_first(shape))
    eps, failures, steps = setting.guess, 0, SQUARE_STEPS
    if setting.rows is not None:
        steps = min(steps, max(10, setting.rows // (3 * SQUARE_ROUNDS) - 10))
    for _ in range(SQUARE_ROUNDS):
        before = asked.distance
        attack = SquareAttack(model, norm=2, eps=float(eps), max_iter=steps, p_init=0.8, nb_restarts=1, verbose=False)
        attack.generate(setting.zero, setting.target)
        if asked.distance < before:
            eps, failures = SQUARE_SHRINK * asked.distance / asked.at.unit, 0
        elif asked.row is None:
            eps *= 2.0
        else:
            failures += 1
            eps = (eps + asked.distance / asked.at.unit) / 2.0
        if failures == 2:
            break
    _shorten(setting)


def _shorten(setting: Setting) -> None:
    """Bisect between the input and the nearest row so far: an attack may have stepped across the boundary."""
    asked = setting.asked
    if asked.row is None:
        return
    whole = asked.at.coordinates(asked.row)
    low, high = 0.0, 1.0
    for _ in range(SEGMENT_ROWS):
        middle = (low + high) / 2.0
        changed = int(asked.log_probabilities(middle * whole[None])[0].argmax()) != asked.decision
        low, high = (low, middle) if changed else (middle, high)


#: Every attack by name, whether it needs derivatives, and how it is run.
ATTACKS: Mapping[str, tuple[bool, Callable[[Setting], None]]] = {
    "deepfool": (True, _deepfool),
    "carlini-wagner": (True, _carlini_wagner),
    "pgd": (True, _pgd),
    "hopskipjump": (False, _hopskipjump),
    "square": (False, _square),
}
