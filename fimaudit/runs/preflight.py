"""A handful of questions before the measurement: does the model answer, how many classes, how repeatable, how rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import ModelFailure, OutputError, TargetError, UsageError
from fimaudit.estimation.noise import REPEATABLE, REPEATABLE_LOGS, REPEATS, OutputQuality
from fimaudit.measurement.distances import differences
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.labels import are_one_hot
from fimaudit.models.meter import Meter
from fimaudit.number_format import output_resolution
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import Kind
from fimaudit.space import Space
from fimaudit.statistics.spread import evenly_spread

__all__ = ["Preflight", "expected_kind", "look", "not_deterministic", "roughness"]

#: Rows of a call, in which half as many inputs are that are asked alone, too; fewer behind a network, where rows cost money.
TOGETHER, NETWORK_TOGETHER = 8, 4
#: Inputs that a model on this machine is tried with, until one is answered.
TRIED = 4
#: And where rows cost nothing but time: calls of so many rows, a full one last.
SIZES = (2, 7, 32)
#: Change of 2 sqrt(p) that is more than last digits; of half precision, and behind a network, whose precision nobody knows.
MOVED, MOVED_IN_HALF = 1e-4, 1e-2
#: Displacements that show whether a model is rough, as shares of the input's root mean square.
STEPS = (1e-3, 1e-1)
#: And by how much a single input is displaced for want of others.
NEAR = 1e-2
#: A row that moved by so many roundings has moved.
ROUNDINGS = 1.5
#: The rows of a call are moved alike where two answers in one differ by less than this share (of mean squares) of what two
#: in different calls do: noise of its own for every row stays above it in all but one run of thirty, of two classes one of
#: ten, which are then measured as well, only slower (tests/runs/test_moving_calls.py).
ALIKE = 0.25


@dataclass(frozen=True)
class Preflight:
    """What a few answers tell.

    Attributes:
        classes: columns of an answer.
        repeat_difference, repeat_difference_logs: largest difference of probability, and of its logarithm, between two times
            the same rows asked among the same rows.
        batch_difference: largest difference of probability between a row asked alone and in a batch.
        output_quantum: 10^-t when all answers are rounded to t decimals, else 0.
        rows: rows asked.
        row_by_row: each row is asked alone: the other rows of a call move answers by more than last digits, or chance moves
            all of its rows alike, which no comparison within the call shows.
        one_hot: whether every answer was all 0 but for a single 1.
        first: the first answered input's answer when it was asked alone, of this process; in no report.
        exact: the answers are the model's own values, surely not rounded.
    """

    classes: int
    repeat_difference: float
    batch_difference: float
    output_quantum: float
    rows: int
    row_by_row: bool = False
    one_hot: bool = False
    first: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    exact: bool = False
    repeat_difference_logs: float = 0.0

    @property
    def random(self) -> bool:
        """Whether the same row asked twice is answered differently: of sure answers only small probabilities are."""
        return _differs(self.repeat_difference, self.repeat_difference_logs)

    def quality(self, top_k: int | None) -> OutputQuality:
        """What the answers are worth, for the measurement."""
        if self.random:  # neither rounding nor what a call does can be known beside noise
            return OutputQuality(random=True, top_k=top_k)
        effect = 0.0 if self.row_by_row else self.batch_difference
        return OutputQuality(self.output_quantum, top_k=top_k, batch_effect=effect, exact=self.exact)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {name: value for name, value in vars(self).items() if name != "first"}

    def warnings(self) -> list[str]:
        """Sentences for the user."""
        out = []
        if self.random:
            alike = ", and all rows of a call alike, so that each is asked alone," if self.row_by_row else ""
            of_p, of_logs = self.repeat_difference, self.repeat_difference_logs
            by = f"{of_p:.2g} in probability" if of_p > REPEATABLE else f"{of_logs:.2g} in log p"
            why = f"the same row asked twice differs by {by}{alike}"
            out.append(not_deterministic(why))
        elif self.row_by_row:
            out.append(
                f"an answer depends on the other rows of its call (by up to {self.batch_difference:.2g} in probability), "
                "so each row is asked alone, which takes longer"
            )
        elif self.batch_difference > REPEATABLE:
            out.append(
                f"an answer depends on the batch it is asked in (by up to {self.batch_difference:.2g} in probability); "
                "the batch size is kept fixed"
            )
        if self.one_hot:
            out.append(
                "every answer seen before the measurement is all 0 but for a single 1: if the model gives its class and no "
                "probabilities, audit the labels with --link labels"
            )
        if self.output_quantum > 0:
            out.append(f"the answers are rounded to {self.output_quantum:g}; what the rounding hides is not measured")
        return out


def expected_kind(top_k: int | None, seen: Preflight) -> Kind:
    """What kind of number an input's norm will be, as far as a few answers tell.

    >>> expected_kind(5, Preflight(10, 0.0, 0.0, 0.0, 8))
    'lower_bound'
    """
    if top_k is not None:
        return "lower_bound"
    return "finite_scale" if seen.random else "local"


def not_deterministic(why: str) -> str:
    """What a random model means for the measurement."""
    then = f"each input's own noise is measured by asking it {REPEATS} times, and taken off"
    return f"the model is not deterministic: {why}; {then}"


class _Questions:
    """Asks rows, and counts them whether an earlier process asked them or not."""

    def __init__(self, meter: Meter, dtype: str) -> None:
        self._meter, self._dtype = meter, dtype
        self.rows = 0

    def ask(self, rows: NDArray[Any], occasion: str | None = None) -> NDArray[np.float64]:
        """(n, K) answers to (n, \\*shape) rows in a call of their own."""
        self.rows += len(rows)
        return self._meter.ask([PlainRows(rows.astype(self._dtype))], occasion=occasion)[0]


def look(meter: Meter, x: NDArray[Any], dtype: str, *, thorough: bool = False, space: Space | None = None) -> Preflight:
    """Ask a few inputs alone, among others and in another order, and some of that again.

    Where other rows of a call move answers by more than last digits, ``meter`` asks each row alone from here on.

    Args:
        meter: the door to the model.
        x: (n, \\*shape) inputs.
        dtype: what the model is fed.
        thorough: ask a model on this machine in calls of several sizes, a full one last.
        space: where a single input may be displaced, for want of others; rows near it stand for others when left out.

    Raises:
        TargetError: a local model raised.
        ModelFailure: an endpoint did not answer.
        OutputError, LinkError: its answers are no distributions.
    """
    network = isinstance(meter.model, NetworkClassifier)
    asked = _Questions(meter, dtype)
    size = NETWORK_TOGETHER if network else TOGETHER
    if len(x) == 1 and space is not None:
        x = _displaced(x, space)
        size = min(size, len(x))
    try:
        alone, x = _first_answer(asked, x, 1 if network else TRIED)
        again = asked.ask(x[:1], "repeat")
        repeated = differences(alone[0], again)
        try:
            single, seen, repeated_together = _alone_and_together(asked, x, size, alone)
        except (ModelFailure, UsageError):  # another input may be at fault; its own measurement will say so
            x = x[:1]
            single, seen, repeated_together = _alone_and_together(asked, x, size, alone)
        if thorough and not network:
            for rows in sorted({*SIZES, meter.batch_rows(x[:1].astype(dtype).nbytes)}):
                places = _together_places(len(x), rows)
                seen.append((places, asked.ask(x[places])))
    except ModelFailure as exc:
        if network:
            raise  # it answers perhaps tomorrow: what was sent stays counted
        raise TargetError(f"the model cannot be asked: {exc}") from exc
    pairs = [
        (single[place], answer) for places, answers in seen for place, answer in zip(places, answers, strict=True)
        if place in single
    ]  # fmt: skip
    quantum = output_resolution(np.concatenate([alone, *(answers for _, answers in seen)]))
    found = Preflight(
        classes=alone.shape[1],
        repeat_difference=max(repeated[0], repeated_together[0]),
        repeat_difference_logs=max(repeated[1], repeated_together[1]),
        batch_difference=float(max(np.abs(a - b).max() for a, b in pairs)),
        output_quantum=0.0 if meter.model.info.exact else quantum,
        rows=asked.rows,
        one_hot=are_one_hot(np.concatenate([alone, *(answers for _, answers in seen)])),
        first=alone[0],
        exact=meter.model.info.exact,
    )
    most = MOVED_IN_HALF if network or _in_half(meter) else MOVED
    first = [alone, again, *(answers[np.array(places) == 0] for places, answers in seen)]
    if _moved_alike(first) if found.random else any(_moved(a, b, most, quantum) for a, b in pairs):
        found = replace(found, row_by_row=True)
        meter.batch = 1
    return found


def _first_answer(asked: _Questions, x: NDArray[Any], tried: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """The answer to the first of the inputs ``tried`` that has one, and the inputs from it on: one without fails alone.

    Raises:
        ModelFailure, OutputError: as of the very first, where none of those has an answer.
    """
    failure: ModelFailure | OutputError | None = None
    for place in range(min(len(x), tried)):
        try:
            return asked.ask(x[place : place + 1]), x[place:]
        except (ModelFailure, OutputError) as exc:
            failure = failure or exc
    assert failure is not None
    raise failure


def _alone_and_together(
    asked: _Questions, x: NDArray[Any], size: int, alone: NDArray[np.float64]
) -> tuple[dict[int, NDArray[np.float64]], list[tuple[list[int], NDArray[np.float64]]], tuple[float, float]]:
    """Some inputs alone by position, calls of many rows with their positions, and how much one of those differs again."""
    single = {0: alone[0]}
    for place in evenly_spread(len(x), size // 2)[1:].tolist():
        single[place] = asked.ask(x[place : place + 1])[0]
    places = _together_places(len(x), size)
    seen = [(order, asked.ask(x[order])) for order in (places, places[::-1])]
    moved = [
        (*differences(single[place], answer[None]), call, place) for call, (order, answers) in enumerate(seen)
        for place, answer in zip(order, answers, strict=True) if place in single
    ]  # fmt: skip
    _, _, call, place = max(moved, key=lambda one: max(one[0] / REPEATABLE, one[1] / REPEATABLE_LOGS))
    if not any(_differs(of_p, of_logs) for of_p, of_logs, _, _ in moved):
        return single, seen, (0.0, 0.0)
    # By the rows beside it, or at random: then the same call, or the row alone, is answered differently the next time.
    order, answers = seen[call]
    seen.append((order, asked.ask(x[order], "repeat together")))
    apart = differences(single[place], asked.ask(x[place : place + 1], "repeat alone"))
    of_rows = [differences(a, b[None]) for a, b in zip(answers, seen[-1][1], strict=True)]
    return single, seen, (max(one[0] for one in [apart, *of_rows]), max(one[1] for one in [apart, *of_rows]))


def _differs(of_p: float, of_logs: float) -> bool:
    """Whether a difference of probability, or of its logarithm, is more than rounding."""
    return of_p > REPEATABLE or of_logs > REPEATABLE_LOGS


def _displaced(x: NDArray[Any], space: Space) -> NDArray[Any]:
    """One input and a few near it, where it may be displaced by any length."""
    if space.quantised or np.dtype(space.dtype).kind != "f":
        return x
    signs = generator(0, 0).choice([-1.0, 1.0], (NETWORK_TOGETHER, *x.shape[1:]))
    unit = float(np.sqrt(np.mean(np.square(x / space.scale, dtype=np.float64)))) or 1.0
    moved = np.where(space.frozen, x, x + NEAR * unit * space.scale * signs)
    return np.concatenate([x, np.clip(moved, space.lower, space.upper).astype(x.dtype)])


def _together_places(inputs: int, size: int) -> list[int]:
    """Positions of the rows of one call: those inputs that are asked alone, others, and the first once more at the end."""
    some = evenly_spread(inputs, size // 2).tolist()
    others = [place for place in evenly_spread(inputs, size).tolist() if place not in some]
    rows = [*some, *others]
    return [*(rows[i % len(rows)] for i in range(size - 1)), 0]


def roughness(classifier: Classifier, x: NDArray[Any]) -> float:
    """How many times the secant energy over short steps is that over long ones: about 1 for a smooth model.

    E = |2 (sqrt(p(x + h z)) - sqrt(p(x - h z)))|^2 / (2 h)^2 for random signs z, h a thousandth and a tenth of the input's
    root mean square; the mean over inputs. Rounding inside makes it large, as noise over h^2 does.

    Args:
        classifier: what is asked, outside of any count.
        x: (n, \\*shape) inputs.
    """
    signs = generator(0, 0).choice([-1.0, 1.0], x.shape)
    unit = float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) or 1.0
    energies = []
    for share in STEPS:
        ends = [(x + way * share * unit * signs).astype(classifier.info.dtype) for way in (1, -1)]
        one, other = (2 * np.sqrt(classifier.probabilities(end)) for end in ends)
        energies.append(float(((one - other) ** 2).sum()) / (2 * share) ** 2)
    return energies[0] / energies[1] if energies[1] > 0 else 1.0


def _moved_alike(calls: Sequence[NDArray[np.float64]]) -> bool:
    """Whether the answers (m, K) to one row are alike within each of several calls, beside what they are between them."""
    roots = [np.sqrt(np.maximum(answers, 0.0)) for answers in calls]
    squares = [[float(((a[:, None] - b[None]) ** 2).sum(axis=2).sum()) for b in roots] for a in roots]
    sizes = np.array([len(answers) for answers in calls])
    pairs = np.multiply.outer(sizes, sizes) - np.diag(sizes)  # of a call with itself, none of an answer with itself
    own = np.eye(len(calls), dtype=np.bool_)
    within, between = (np.array(squares)[of].sum() / max(1, pairs[of].sum()) for of in (own, ~own))
    return bool(within <= ALIKE * between)


def _in_half(meter: Meter) -> bool:
    info = meter.model.info
    return info.details.get("model_dtype", info.dtype) in ("float16", "bfloat16")


def _moved(alone: NDArray[np.float64], other: NDArray[np.float64], most: float, quantum: float) -> bool:
    """Whether an answer moved by more than last digits, and more than a rounding that fell the other way."""
    roots = 2 * (np.sqrt(np.maximum(alone, 0.0)) - np.sqrt(np.maximum(other, 0.0)))
    return bool(np.linalg.norm(roots) > most and np.abs(alone - other).max() > ROUNDINGS * quantum)
