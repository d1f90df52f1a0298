"""Inputs beside others whose answers jump: where something else answers a few rows, no value is that of one function.

A second version that is chosen by a hash of the row answers a few per cent of the rows, at one input as at another. Which
inputs' rows meet it is chance, and the others' say nothing of it: only the run as a whole does.
"""

from __future__ import annotations

from collections.abc import Collection

from fimaudit.results import Interval, Sensitivity

__all__ = ["beside_jumps", "too_many_jump"]

#: From this share of the measured inputs on, and so many of them, the flag ``jumps`` is the model's (tests/measurement/
#: test_rare_jumps.py: 3 % of the rows; smooth regimes of benchmarks/regimes.py have no such flag).
MOST, FEWEST = 0.2, 2
REASON = (
    "at {jumping} of {measured} inputs of this run the answers jump, as if something else had given some of them, so that "
    "no value is that of one function"
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
    return {one.index: _demoted(one, reason) for one in measured if one.kind == "local" and "jumps" not in one.flags}


def _demoted(one: Sensitivity, reason: str) -> Sensitivity:
    """At a finite scale, without a radius but for a change of decision that was seen."""
    seen = None if one.witness is None else one.witness.distance
    why = reason if one.reason is None else f"{one.reason}; {reason}"
    return one.model_copy(update={"kind": "finite_scale", "margin_radius": Interval(upper=seen), "reason": why})
