"""Answers that were paid for and that no kept result stands for yet: what a run that was stopped goes on with."""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.leases import OWNER_BYTES
from fimaudit.storage.durable_files import AppendedFile, reading, writing

__all__ = ["ANSWERS", "AnswerLog"]

ANSWERS = "answers.bin"
#: Checksum of what follows; then length of the key, rows and columns of the answers.
_HEAD = struct.Struct("<IHii")


class AnswerLog:
    """One record for each answered call, appended; the file is emptied when every input it holds answers to is done.

    A record is in the operating system's hands before the answers are used: a killed process loses no more than the call
    that it was waiting for. A power cut may take all of them: their inputs are then measured again from the start.

    Args:
        path: the file; it need not exist.
        resume: take over what is there; otherwise it is replaced by the first record.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._file: AppendedFile | None = None
        self._held: dict[bytes, deque[NDArray[np.float64]]] = defaultdict(deque)
        self._owners: set[int] = set()
        self._early: list[tuple[bytes, NDArray[np.float64]]] | None = []
        self._resuming = resume and path.exists()
        if self._resuming:
            self._read()

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """The answers to a call of an earlier process, each once and in the order in which they came."""
        held = self._held.get(key)
        return held.popleft() if held else None

    def keep(self, key: bytes, answers: NDArray[np.float64]) -> None:
        """Keep one call's (rows, K) answers; the key begins with the input's number.

        They wait in memory until ``finish`` is called once: before, there is nothing to resume and perhaps no folder.
        """
        if self._early is not None:
            self._early.append((key, answers))
            return
        whole = np.ascontiguousarray(answers, dtype="<f8")
        rest = _HEAD.pack(0, len(key), *whole.shape)[4:] + key + whole.tobytes()
        if self._file is None and not self._resuming:
            self._opened().clear()
        self._opened().append(struct.pack("<I", zlib.crc32(rest)) + rest, sync=False)
        self._owners.add(owner_of(key))

    def finish(self, inputs: Iterable[int]) -> None:
        """The results of these inputs are kept: answers to them are of no more use."""
        done = set(inputs)
        if self._early is not None:
            early, self._early = self._early, None
            for key, answers in early:
                if owner_of(key) not in done:
                    self.keep(key, answers)
        if not self._owners:
            return
        self._owners -= done
        if not self._owners:
            self._held.clear()
            self._opened().clear()

    def close(self) -> None:
        """Close the file; without a record in it, it is removed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        with writing(self._path):
            if self._path.exists() and not self._path.stat().st_size:
                self._path.unlink()

    def _opened(self) -> AppendedFile:
        if self._file is None:
            self._file = AppendedFile(self._path, sync_seconds=float("inf"))
        return self._file

    def _read(self) -> None:
        """Take over whole records; one that a kill cut short ends the file."""
        with reading(self._path):
            data, at = self._path.read_bytes(), 0
        while at + _HEAD.size <= len(data):
            checksum, length, rows, classes = _HEAD.unpack_from(data, at)
            body = at + _HEAD.size
            end = body + length + 8 * rows * classes
            if min(rows, classes) < 0 or end > len(data) or zlib.crc32(data[at + 4 : end]) != checksum:
                break
            key = data[body : body + length]
            answers = np.frombuffer(data, dtype="<f8", count=rows * classes, offset=body + length)
            self._held[key].append(answers.reshape(rows, classes).astype(np.float64))
            self._owners.add(owner_of(key))
            at = end
        if at < len(data):
            with writing(self._path), open(self._path, "r+b") as file:
                file.truncate(at)


def owner_of(key: bytes) -> int:
    """The input that a call's key belongs to, or ``THE_RUN``."""
    return int.from_bytes(key[:OWNER_BYTES], "little", signed=True)
