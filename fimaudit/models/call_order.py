"""In which order the calls of several inputs go out: one input after the other, or in random turns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["in_turns"]

T = TypeVar("T")


def in_turns(parts: Sequence[Sequence[T]], seed: int | None = None, asked: bytes = b"") -> list[T]:
    """The items of all parts, each part's in their own order: one part after the other, or in random turns.

    Every way to merge the parts is equally likely. A part's own order stays, so that which of its calls fails first does not
    depend on the others. A run that was killed draws the same turns again.

    Args:
        parts: what is to be asked, of each input.
        seed: of the turns; in the order of the parts when left out.
        asked: what identifies this question within the run.

    >>> in_turns(["abc", "de"])
    ['a', 'b', 'c', 'd', 'e']
    >>> in_turns(["abc", "de"], seed=1)
    ['d', 'e', 'a', 'b', 'c']
    """
    if seed is None or len(parts) < 2:
        return [item for part in parts for item in part]
    order = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    key = hashlib.blake2b(asked, digest_size=16, key=(seed % 2**64).to_bytes(8, "little")).digest()
    order = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64))).permutation(order)
    rests = [iter(part) for part in parts]
    return [next(rests[k]) for k in order]
