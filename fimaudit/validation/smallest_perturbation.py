"""The smallest perturbation that any attack finds at one input, believed once it holds alone and among others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import UsageError
from fimaudit.measurement.boundary import CHECK_ROWS, HOLD_ROWS, Held, NotHeld, hold_row
from fimaudit.models.counted_passes import CountedModel, logs
from fimaudit.perturbations.rows import Rows
from fimaudit.space import Space
from fimaudit.validation.art_estimator import Asked, RowsSpent, quiet
from fimaudit.validation.attacks import ATTACKS, Setting, seen_as_image
from fimaudit.validation.coordinates import Coordinates

__all__ = ["AttackResult", "choose_attacks", "smallest_perturbation"]

Array = NDArray[np.float64]

#: Random rows that are tried where no other input has another decision, ten at each of these multiples of the unit.
RANDOM_ROWS, RANDOM_REACH = 10, (4.0, 16.0, 64.0, 256.0)


@dataclass(frozen=True)
class AttackResult:
    """What the attacks found at one input.

    Attributes:
        decision: the class that the model gives the input.
        distance: smallest l2 length, in units of the scale, of a displacement that changes the decision both alone and
            among other rows; ``None`` when no attack found one, which says nothing about 0.
        attack: which attack found it.
        row: the row that was sent, with that other decision.
        changed_to: its class.
        distances: each attack's own smallest length, ``None`` where it failed, or where its row did not hold.
        forward, backward: rows it took.
        unfinished: attacks that ran out of rows.
        reason: why there is no distance although attacks changed the decision; ``None`` otherwise.
    """

    decision: int
    distance: float | None
    attack: str | None
    row: NDArray[Any] | None
    changed_to: int | None
    distances: dict[str, float | None]
    forward: int
    backward: int
    unfinished: list[str] = field(default_factory=list)
    reason: str | None = None


def choose_attacks(asked: Sequence[str] | str, differentiable: bool, shape: tuple[int, ...]) -> list[str]:
    """The attacks that apply, in the order in which they run.

    Args:
        asked: ``auto`` (those with derivatives where the model offers them, else those without), or names.
        differentiable: whether the model offers derivatives.
        shape: of one input.

    Raises:
        UsageError: an unknown name, one that needs derivatives that the model does not give, Square without an image.
    """
    if isinstance(asked, str) and asked == "auto":
        names = [name for name, (needs, _) in ATTACKS.items() if needs == differentiable]
        return [name for name in names if name != "square" or seen_as_image(shape)]
    wanted = [asked] if isinstance(asked, str) else list(asked)
    for name in wanted:
        if name not in ATTACKS:
            raise UsageError(f"expected attacks among {', '.join(ATTACKS)}, or auto, got {name!r}")
        if ATTACKS[name][0] and not differentiable:
            raise UsageError(f"{name} needs derivatives, which this model does not give; take hopskipjump or square")
        if name == "square" and not seen_as_image(shape):
            raise UsageError(f"square needs square images of at least 15 pixels a side, got inputs of shape {shape}")
    if not wanted:
        raise UsageError(f"expected at least one attack among {', '.join(ATTACKS)}")
    return [name for name in ATTACKS if name in wanted]


def smallest_perturbation(
    passes: CountedModel,
    x: NDArray[Any],
    space: Space,
    unit: float,
    attacks: Sequence[str],
    *,
    seed: int,
    others: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
    most: int | None = None,
) -> AttackResult:
    """Attack one input with each attack and keep the smallest displacement that changes the decision.

    The nearest row is asked again, alone and among others, and stepped outwards until it holds (``hold_row``); where it
    does not, the next attack's is.

    Args:
        passes: asks and counts.
        x: the input, shape \\*shape, within the domain.
        space: the domain: bounds, quantum, frozen features and scale hold for every row that is sent.
        unit: a length of the order of the answer, in units of the scale (the margin radius).
        attacks: names, as ``choose_attacks`` gives them.
        seed: of the attacks' random choices.
        others: (n, \\*shape) inputs and the (n,) decisions on them, among which boundary attacks look for a start.
        most: rows, forward and backward, that this input may take: what the last check may need, and the rest shared
            equally by the attacks.

    Raises:
        BudgetExhausted, ModelFailure: the model cannot be asked any more.
    """
    forward, backward = passes.forward, passes.backward
    at = Coordinates(x, space, unit)
    log_p = logs(passes.probabilities(x[None]))[0]
    share = None if most is None else max(0, most - 1 - _reserved(most)) // len(attacks)
    asked = Asked(passes, at, int(log_p.argmax()), share)
    distances: dict[str, float | None] = {}
    unfinished: list[str] = []
    nearest: dict[str, NDArray[Any]] = {}
    best: float | None = None
    start: NDArray[Any] | None = None
    for place, name in enumerate(attacks):
        needs, attack = ATTACKS[name]
        asked.forget()
        with quiet(seed + 1000003 * place):
            try:
                if not needs and start is None:
                    start = _start(asked, others)
                    asked.forget()
                guess = 1.0 if best is None else best / unit
                attack(Setting(asked, log_p, guess, start, seed, share))
            except RowsSpent:
                asked.until_nearer = False
                unfinished.append(name)
        distances[name] = None if asked.row is None else asked.distance
        if asked.row is not None:
            nearest[name] = asked.row
            best = asked.distance if best is None else min(best, asked.distance)

    def left() -> int:
        return HOLD_ROWS if most is None else most - (passes.forward - forward) - (passes.backward - backward)

    def hold(row: NDArray[Any]) -> Held | NotHeld:
        return _drive(hold_row(x, row, space, asked.decision, min(HOLD_ROWS, left())), passes)

    found, reason = _nearest_that_holds(nearest, distances, unfinished, hold, left)
    counts = passes.forward - forward, passes.backward - backward
    if found is None:
        return AttackResult(asked.decision, None, None, None, None, distances, *counts, unfinished, reason)
    name, held = found
    return AttackResult(asked.decision, held.distance, name, held.row, held.predicted_class, distances, *counts, unfinished)


def _nearest_that_holds(
    nearest: dict[str, NDArray[Any]],
    distances: dict[str, float | None],
    unfinished: list[str],
    hold: Callable[[NDArray[Any]], Held | NotHeld],
    left: Callable[[], int],
) -> tuple[tuple[str, Held] | None, str | None]:
    """Of each attack's nearest row the nearest that holds, with its attack, else why none does; distances are made true."""
    found: tuple[str, Held] | None = None
    reason: str | None = None
    for name in sorted(nearest, key=lambda name: distances[name] or 0.0):
        if found is not None and found[1].distance <= (distances[name] or 0.0):
            break
        if (found is not None or reason is not None) and left() < CHECK_ROWS:
            distances[name] = None
            unfinished += [] if name in unfinished else [name]
            continue
        held = hold(nearest[name])
        if isinstance(held, NotHeld):
            distances[name] = None
            reason = held.reason if reason is None else reason
            continue
        distances[name] = held.distance
        if found is None or held.distance < found[1].distance:
            found = name, held
    return found, reason


def _reserved(most: int) -> int:
    """Of so many rows, those that the last check may need."""
    return min(HOLD_ROWS, most // 3)


def _drive(flow: Generator[Rows, Array, Held | NotHeld], passes: CountedModel) -> Held | NotHeld:
    """Ask what it yields, to its end."""
    try:
        rows = next(flow)
        while True:
            rows = flow.send(passes.apart(rows.build(0, len(rows))))
    except StopIteration as end:
        result: Held | NotHeld = end.value
        return result


def _start(asked: Asked, others: tuple[NDArray[Any], NDArray[np.int64]] | None) -> NDArray[Any] | None:
    """A row in u with another decision: the nearest of the other inputs that has one, else a random one."""
    at = asked.at
    if others is not None:
        rows, decisions = others
        changed = np.flatnonzero(decisions != asked.decision)
        nearest = changed[np.argsort(at.distances(rows[changed]))[:1]] if changed.size else changed
        if nearest.size:
            u = at.coordinates(rows[nearest])
            if int(asked.log_probabilities(u)[0].argmax()) != asked.decision:  # frozen features stay the input's own
                return np.asarray(u[0])
    for reach in RANDOM_REACH:
        noise = np.random.standard_normal((RANDOM_ROWS, *at.origin.shape)) * reach
        classes = asked.log_probabilities(noise).argmax(axis=1)
        if (classes != asked.decision).any():
            return np.asarray(noise[int(np.flatnonzero(classes != asked.decision)[0])])
    return None
