"""Published detectors of query attacks, as far as a referee needs them: which rows they take for near-duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from scipy.fft import dctn

__all__ = ["Blacklight", "Detector", "PerceptualHash", "flagged"]


class Detector(Protocol):
    """Compares each row with those before it."""

    def matches(self, row: np.ndarray) -> bool:
        """Whether an earlier row is its near-duplicate; the row is remembered."""
        ...


def flagged(detector: Detector, rows: Iterable[np.ndarray]) -> np.ndarray:
    """(n,) which rows the detector takes for near-duplicates of earlier ones, in the order in which they came."""
    return np.array([detector.matches(row) for row in rows])


class Blacklight:
    """Probabilistic content fingerprints (Li, Shan, Wenger, Zhang, Zheng, Zhao; USENIX Security 2022, arXiv 2006.14042).

    Pixels plus a secret salt are quantised, each window of consecutive pixels is hashed with SHA-256, and the 50 largest
    hashes, read backwards, are the fingerprint. More than 25 of them in common with one earlier row is an attack.

    Args:
        pixels: numbers in a row, of [0, 1].
        memory: how many of the last rows are remembered; all when left out.
        quantum, window, kept, threshold: of the paper, for small images.
        seed: of the salt.
    """

    def __init__(
        self,
        pixels: int,
        memory: int | None = None,
        quantum: int = 50,
        window: int = 20,
        kept: int = 50,
        threshold: int = 25,
        seed: int = 0,
    ) -> None:
        self._salt = np.random.default_rng(seed).integers(0, 256, size=pixels)
        self._quantum, self._window, self._kept, self._threshold = quantum, window, kept, threshold
        self._holders: dict[bytes, set[int]] = defaultdict(set)
        self._memory, self._rows, self._count = memory, deque[tuple[int, list[bytes]]](), 0

    def fingerprint(self, row: np.ndarray) -> list[bytes]:
        """The hashes that stand for a row."""
        levels = ((np.asarray(row, np.float64).ravel() * 255 + self._salt) % 256 // self._quantum).astype(np.uint8).tobytes()
        starts = range(len(levels) - self._window + 1)
        hashes = {hashlib.sha256(levels[at : at + self._window]).digest()[::-1] for at in starts}
        return sorted(hashes, reverse=True)[: self._kept]

    def matches(self, row: np.ndarray) -> bool:
        """See ``Detector``."""
        hashes = self.fingerprint(row)
        shared = Counter(holder for one in hashes for holder in self._holders[one])
        found = bool(shared) and max(shared.values()) > self._threshold
        for one in hashes:
            self._holders[one].add(self._count)
        self._rows.append((self._count, hashes))
        self._count += 1
        if self._memory is not None and len(self._rows) > self._memory:
            oldest, forgotten = self._rows.popleft()
            for one in forgotten:
                self._holders[one].discard(oldest)
        return found


class PerceptualHash:
    """A perceptual hash of the whole image, as PIHA compares them (Choi, Shin, Choi 2023), here the plain DCT hash.

    The signs of the lowest 8 x 8 frequencies against their median; two images with at most ``near`` signs apart are one.

    Args:
        shape: of an image.
        memory: how many of the last rows are remembered; all when left out.
        near: signs that may differ.
    """

    def __init__(self, shape: tuple[int, int], memory: int | None = None, near: int = 3) -> None:
        self._shape, self._near = shape, near
        self._rows: deque[np.ndarray] = deque(maxlen=memory)

    def matches(self, row: np.ndarray) -> bool:
        """See ``Detector``."""
        low = dctn(np.asarray(row, np.float64).reshape(self._shape), norm="ortho")[:8, :8].ravel()
        signs = low > np.median(low)
        found = bool(self._rows) and int((np.array(self._rows) != signs).sum(axis=1).min()) <= self._near
        self._rows.append(signs)
        return found
