"""Random directions: signs from ``numpy``'s Philox generator keyed by (audit seed, input index).

They are the same on every device, engine and worker count, and in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["generator", "packed_signs"]


class _Unseeded(np.random.bit_generator.ISeedSequence):
    """Seeds a bit generator whose state is set anyway: one that is given a key alone asks the system for a seed first."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        return np.zeros(n_words, dtype)


_UNSEEDED: Any = _Unseeded()


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """The random generator of one input: Philox with the key (seed, index) and the counter's top word ``stream``.

    Args:
        seed: audit seed, any integer; taken modulo 2^64.
        index: input index, likewise.
        stream: separates uses that must not share numbers (main directions 0, pilot 1, ...).

    >>> generator(7, 3).integers(0, 100, 3).tolist() == generator(7 - 2**64, 3).integers(0, 100, 3).tolist()
    True
    """
    bits = np.random.Philox(_UNSEEDED)
    counter, key = (np.array(words, dtype=np.uint64) for words in ((0, 0, 0, stream), (seed % 2**64, index % 2**64)))
    bits.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": key},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return np.random.Generator(bits)


def packed_signs(rng: np.random.Generator, count: int, features: int) -> NDArray[np.uint8]:
    """``count`` Rademacher directions as (count, ceil(features / 8)) bits, most significant first, 1 for +.

    Raw 64-bit words in little-endian order, so that they are the same on every machine; E[v v^T] = I. The last bits of a row
    stand for no feature.

    Args:
        rng: of a bit generator with 64-bit words, as ``generator`` gives.
        count: directions.
        features: bits of each that count.

    Returns:
        uint8; ``np.unpackbits(packed, axis=1, count=features)`` are the signs.

    >>> packed = packed_signs(generator(0, 0), 3, 10)
    >>> packed.shape, np.unpackbits(packed, axis=1, count=10)[0].tolist()
    ((3, 2), [1, 0, 0, 1, 1, 0, 1, 1, 1, 1])
    """
    width = (features + 7) // 8
    words = rng.bit_generator.random_raw(-(-count * width // 8)).astype("<u8", copy=False)
    return words.view(np.uint8)[: count * width].reshape(count, width)
