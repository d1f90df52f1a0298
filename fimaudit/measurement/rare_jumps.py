"""Inputs beside others whose answers jump: where something else answers a few rows, no value is that of one function.

A second version that is chosen by a hash of the row answers a few per cent of the rows, at one input as at another. Which
inputs' rows meet it is chance, and the others' say nothing of it: only the run as a whole does.
"""

from __future__ import annotations

from collections.abc import Collection

from fimaudit.measurement.radius_evidence import WITHIN_RADIUS
from fimaudit.results import Interval, Sensitivity

__all__ = ["beside_cut_radii", "beside_jumps", "too_many_jump"]

#: From this share of the measured inputs on, and so many of them, the flag ``jumps`` is the model's (tests/measurement/
#: test_rare_jumps.py: 3 % of the rows; smooth regimes of benchmarks/regimes.py have no such flag).
MOST, FEWEST = 0.2, 2
REASON = (
    "at {jumping} of {measured} inputs of this run the answers jump, as if something else had given some of them, so that "
    "no value is that of one function"
)
CUT = (
    "the model's own making says that its answers jump ({making}), and {cut} of {known} radii were contradicted farther "
    "out, so no slope says how far another decision is"
)


def too_many_jump(measured: int, jumping: int) -> bool:
    """Whether the flag ``jumps`` of so many of the measured inputs is the model's, not theirs.

    >>> too_many_jump(9, 1), too_many_jump(9, 2), too_many_jump(11, 2)
    (False, True, False)
    """
    return jumping >= max(FEWEST, MOST * measured)


def beside_jumps(results: Collection[Sensitivity]) -> dict[int, Sensitivity]:
    """By index, the local inputs that are so no longer because answers jump at too many others; none as a rule.

    >>> def one(index, *flags):
    ...     return Sensitivity(index=index, status="ok", kind="local", method="rademacher", queries=50, flags=list(flags))
    >>> beside_jumps([one(i) for i in range(9)])
    {}
    >>> beside_jumps([one(0, "jumps"), one(1, "jumps"), one(2)])[2].kind
    'finite_scale'
    """
    measured = [one for one in results if one.status == "ok"]
    jumping = sum("jumps" in one.flags for one in measured)
    if not too_many_jump(len(measured), jumping):
        return {}
    reason = REASON.format(jumping=jumping, measured=len(measured))
    return {
        one.index: _without_radius(one, reason, kind="finite_scale")
        for one in measured
        if one.kind == "local" and "jumps" not in one.flags
    }


def beside_cut_radii(results: Collection[Sensitivity], making: str) -> dict[int, Sensitivity]:
    """By index, the inputs of a model that is known to jump, without their radii where too many of these were cut.

    Between the thresholds of trees the other parts of such a model are smooth, and a norm there is local. How far another
    decision is their slopes do not say where many inputs show so; at which ones it shows is chance.

    Args:
        results: of the run.
        making: why the model is known to jump (``ModelInfo.not_smooth``).

    >>> def one(index, *flags):
    ...     radius = Interval(value=2.0, lower=1.0)
    ...     return Sensitivity(
    ...         index=index, status="ok", kind="local", method="", queries=9, flags=list(flags), margin_radius=radius
    ...     )
    >>> cut = [one(i, "local_radius_overstates") for i in range(2)]
    >>> beside_cut_radii([*cut, one(2)], "tree ensemble")[2].margin_radius
    Interval(value=None, lower=None, upper=None)
    """
    known = [one for one in results if (one.status, one.kind) == ("ok", "local") and one.margin_radius.value is not None]
    cut = sum("local_radius_overstates" in one.flags for one in known)
    if not too_many_jump(len(known), cut):
        return {}
    reason = CUT.format(making=making, cut=cut, known=len(known))
    return {one.index: _without_radius(one, reason, flags=[*one.flags, "jumps"]) for one in known}


def _without_radius(one: Sensitivity, reason: str, **more: object) -> Sensitivity:
    """Without a radius but for a change of decision that was seen."""
    real = one.margin_radius.upper if WITHIN_RADIUS in one.flags else None
    seen = real if one.witness is None else one.witness.distance
    why = reason if one.reason is None else f"{one.reason}; {reason}"
    return one.model_copy(update={"margin_radius": Interval(upper=seen), "reason": why, **more})
