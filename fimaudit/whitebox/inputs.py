"""Many inputs by derivatives: the white-box measurement as an audit's results, with its passes counted by the meter."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import BudgetExhausted, FimauditError, StorageFailure, TargetError
from fimaudit.estimation.attribution import feature_shares, listed
from fimaudit.models.classifier import Classifier, Differentiable
from fimaudit.models.meter import Meter
from fimaudit.results import Interval, MeasuredInput, Sensitivity
from fimaudit.space import Space
from fimaudit.storage.durable_files import replacing, writing
from fimaudit.whitebox.kinks import KinkCheck, check_kinks
from fimaudit.whitebox.measure import measure, obstacle
from fimaudit.whitebox.secant_check import SecantCheck, check_secants

__all__ = ["BLOCK", "BY_DERIVATIVES", "DIRECTIONS_FOLDER", "choose_mode", "exact_inputs", "without_advice"]

DIRECTIONS_FOLDER = "directions"
#: Inputs linearised together; kept together too, so that a resumed run goes on at such a block.
BLOCK = 32
#: Method of inputs that derivatives do not measure; that of the others says how, too.
BY_DERIVATIVES = "derivatives"
ALL_ZERO = (
    "every derivative is exactly zero, from which no limit follows: the answers are saturated, a part has no derivative, or "
    "the model is piecewise constant; use --mode black-box"
)
KINKED = (
    "the answers bend at the input, so a local value does not exist: the slopes to either side differ from their mean by "
    "{:.0%} of it; the numbers are those of the derivative that is taken there, the limits hold for the mean; "
    "--mode black-box measures over a finite displacement"
)
#: Relative rounding error of derivatives by floating-point width: the exact norm lies this near the computed one.
ROUNDING = {2: 1e-2, 4: 1e-3, 8: 1e-9}
#: And that of probabilities.
LAST_DIGIT = {2: 1e-3, 4: 1.2e-7, 8: 2.3e-16}


def without_advice(reason: str) -> str:
    """Why there are no derivatives, without the advice to ask for another mode, however that is put.

    >>> without_advice("the model is piecewise constant; use --mode black-box")
    'the model is piecewise constant'
    """
    return re.split("; use (?:--mode|mode=)", reason)[0]


def choose_mode(asked: str, classifier: Classifier, x: NDArray[Any], space: Space) -> tuple[str, str | None]:
    """``white-box`` or ``black-box``, and a sentence where ``auto`` could not take derivatives that the model offers.

    Raises:
        TargetError: ``white-box`` was asked for and cannot be had.
    """
    if asked == "black-box":
        return "black-box", None
    why = _obstacle(classifier, x, space)
    if why is None:
        return "white-box", None
    why = without_advice(why)
    if asked == "white-box":
        raise TargetError(f"--mode white-box cannot be had: {why}; use --mode black-box")
    offered = isinstance(classifier, Differentiable)
    return "black-box", f"measured black-box although the model is differentiable: {why}" if offered else None


def _obstacle(classifier: Classifier, x: NDArray[Any], space: Space) -> str | None:
    if not isinstance(classifier, Differentiable):
        return f"the {classifier.info.adapter} adapter gives no derivatives"
    audited = slice(0, space.frozen.size - classifier.info.held)
    if space.frozen.ravel()[audited].any() or not (space.scale == 1).all():
        return "derivatives are taken in raw units over all features, but a scale or frozen features are set"
    if (space.quantum > 0).any():
        return "derivatives need continuous inputs, but a quantum is set"
    return obstacle(classifier, x[0].astype(classifier.info.dtype))


def exact_inputs(
    indices: Sequence[int],
    x: NDArray[Any],
    meter: Meter,
    space: Space,
    *,
    wanted: Container[int],
    tolerance: float,
    seed: int,
    worst_directions: Path | None,
) -> Iterator[MeasuredInput]:
    """Measure inputs by derivatives, in blocks fixed by index.

    An input whose answers do not move as its derivatives say has failed, with the reason.

    Args:
        indices: the inputs that share passes, rising.
        x: (n, \\*shape) these inputs.
        meter: counts forward and backward passes, one row each; its ``batch`` holds for inputs that share passes, too.
        space: the domain; derivatives are checked against answers within it.
        wanted: those of them to hand over and to count; the others keep the batch as it always is.
        tolerance: relative residual at which an iteration stops.
        seed: of an iteration's start and of trace estimates.
        worst_directions: folder for each input's worst direction (unit l2 norm, ``00012.npy``), or ``None``.

    Raises:
        BudgetExhausted: the budget does not allow the next block.
    """
    for _, members in groupby(enumerate(indices), key=lambda pair: pair[1] // BLOCK):
        places, block = zip(*members, strict=True)
        yield from _block(list(block), x[list(places)], meter, space, wanted, tolerance, seed, worst_directions)


def _block(
    block: list[int],
    x: NDArray[Any],
    meter: Meter,
    space: Space,
    wanted: Container[int],
    tolerance: float,
    seed: int,
    folder: Path | None,
) -> Iterator[MeasuredInput]:

    model = cast(Differentiable, meter.model)
    width = np.dtype(model.info.dtype).itemsize
    try:
        found = measure(
            model,
            x.astype(model.info.dtype),
            tolerance=tolerance,
            worst_direction=folder is not None or listed(x[0]),
            seed=seed,
            indices=block,
            together=meter.batch,
        )
        asked = [place for place, index in enumerate(block) if index in wanted and found[place].trace != 0]
        some, keys = [found[place] for place in asked], [block[place] for place in asked]
        checks = dict(zip(keys, check_secants(meter, x[asked], some, space, seed=seed, indices=keys), strict=True))
        bends = dict(zip(keys, check_kinks(meter, x[asked], some, space, seed=seed, indices=keys), strict=True))
    except (BudgetExhausted, StorageFailure):
        raise
    except FimauditError as error:
        if len(block) > 1:  # find the input that fails
            for place, index in enumerate(block):
                if index in wanted:
                    yield from _block([index], x[place : place + 1], meter, space, wanted, tolerance, seed, folder)
            return
        yield MeasuredInput(Sensitivity(index=block[0], status="failed", method=BY_DERIVATIVES, reason=str(error)), 0, 0)
        return
    for index, one in zip(block, found, strict=True):
        if index not in wanted:
            continue
        check, bend = checks.get(index, SecantCheck(None)), bends.get(index, KinkCheck())
        passes = one.passes + check.passes
        ticket = meter.reserve(passes)
        meter.commit(ticket, passes, one.probabilities, "ok", passes * x[0].nbytes)
        result = _sensitivity(index, one, width, check, bend)
        rows, requests = passes + check.rows + bend.rows, 1 + check.requests + bend.requests
        if result.status != "ok":
            yield MeasuredInput(result, rows, requests)
            continue
        if folder is not None and one.direction is not None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"{index:05d}.npy") as file:
                np.save(file, one.direction)
        if one.direction is not None and listed(x[0]):
            result = result.model_copy(update={"carried_by": feature_shares(one.direction, np.arange(x[0].size), None)})
        yield MeasuredInput(result, rows, requests)


def _sensitivity(index: int, one: Any, width: int, check: SecantCheck, bend: KinkCheck) -> Sensitivity:
    rounding = ROUNDING.get(width, 1e-3)
    top = int(np.argmax(one.probabilities))
    known: dict[str, Any] = {
        "index": index,
        "predicted_class": top,
        "probability": float(one.probabilities[top]),
        "queries": one.passes + check.passes + check.rows + bend.rows,
    }
    if check.reason is not None:
        return Sensitivity(status="failed", method=BY_DERIVATIVES, reason=f"{check.reason}; use --mode black-box", **known)
    if one.trace == 0:
        return Sensitivity(status="below_detection", method=BY_DERIVATIVES, reason=ALL_ZERO, **known)
    trace_error = 2.0 * (one.trace_error or 0.0)
    radius, share = one.margin_radius, bend.share
    off = _gap_error(one.probabilities, LAST_DIGIT.get(width, LAST_DIGIT[4]))
    peak = (
        Interval() if off >= 1 else _around(one.peak_spectral_norm, (one.peak_residual or 0.0) + rounding + 2 * off, share)
    )
    return Sensitivity(
        status="ok",
        kind="lower_bound" if one.hidden_classes else "finite_scale" if share else "local",
        method=f"{BY_DERIVATIVES}-{one.method}",
        **known,
        spectral_norm=_around(one.spectral_norm, one.residual + rounding, share),
        peak_spectral_norm=peak,
        trace=_around(one.trace, rounding + (trace_error / one.trace if one.trace else 0.0), share),
        margin_radius=Interval()
        if radius is None
        else Interval(
            value=radius,
            lower=radius * (1 - one.margin_slack) * (1 - rounding) * max(0.0, 1 - share) * max(0.0, 1 - off),
            upper=None if off >= 1 else radius * (1 + rounding) * (1 + share) * (1 + off),
        ),
        effective_rank=one.effective_rank,
        contrast=one.contrast,
        flags=["kinked"] if share else [],
        reason=KINKED.format(share) if share else None,
    )


def _gap_error(p: NDArray[np.float64], digits: float) -> float:
    """What the last digits of the numbers, ``digits`` of each, may be of the gap between the two most probable classes.

    >>> _gap_error(np.array([0.5, 0.5]), 1e-7)
    inf
    """
    second, first = np.partition(p, -2)[-2:]
    gap = float(np.log(first / second)) if second > 0 else np.inf
    return 4 * digits / gap if gap > 0 else np.inf


def _around(value: float | None, error: float, bend: float = 0.0) -> Interval:
    """The value with its numerical error on both sides: nothing here is sampled but a large model's trace.

    At a kink the slope that was taken and the mean of both sides' differ by the share ``bend`` of the latter, either way.
    """
    if value is None:
        return Interval()
    upper = value * (1 + error) / (1 - bend) ** 2 if bend < 1 else None
    return Interval(value=value, lower=value * max(0.0, 1 - error) / (1 + bend) ** 2, upper=upper)
