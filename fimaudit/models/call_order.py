"""In which order the calls of several inputs go out: one input after the other, or in random turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["in_turns", "random_turns"]

T = TypeVar("T")

#: Of the random numbers that give out turns.
STREAM = 0x7042


def random_turns(seed: int) -> np.random.Generator:
    """What gives out the turns of a run."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, STREAM], dtype=np.uint64)))


def in_turns(parts: Sequence[Sequence[T]], turns: np.random.Generator | None = None) -> list[T]:
    """The items of all parts, each part's in their own order: one part after the other, or in random turns.

    Every way to merge the parts is equally likely. A part's own order stays, so that which of its calls fails first, and
    what a resumed run still has to ask of it, does not depend on the others.

    Args:
        parts: what is to be asked, of each input.
        turns: who is next; in the order of the parts when left out.

    >>> in_turns(["abc", "de"])
    ['a', 'b', 'c', 'd', 'e']
    >>> in_turns(["abc", "de"], np.random.default_rng(0))
    ['a', 'd', 'e', 'b', 'c']
    """
    order = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if turns is not None:
        order = turns.permutation(order)
    rests = [iter(part) for part in parts]
    return [next(rests[k]) for k in order]
