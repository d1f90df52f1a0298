"""What every adapter of this package does with ``Options``: refuse what it has no use for, and fingerprint files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from fimaudit.errors import TargetError
from fimaudit.models.classifier import ModelInfo, Options

__all__ = ["LogitCheck", "file_fingerprint", "refuse_unused", "require_file"]


#: Rows from which outputs between 0 and 1 are no chance.
CHECKED_ROWS = 3


def refuse_unused(options: Options, adapter: str, *, used: Collection[str], extra: Collection[str] = ()) -> None:
    """Refuse, in a sentence, every option that ``adapter`` would otherwise ignore.

    Args:
        options: as given to ``open``.
        adapter: the adapter's name, for the message.
        used: fields of ``Options`` that it reads (``link`` and ``trust_pickle`` are always fine).
        extra: names within ``options.extra`` that it reads.

    Raises:
        TargetError: naming the option and what to do.
    """
    for name in ("device", "weights", "input", "output", "output_step", "finding", "hold", "packing", "normalise"):
        value = getattr(options, name)
        if name not in used and value not in (None, {}):
            if name == "device" and value == "cpu":
                continue
            if name == "packing":
                raise TargetError(f"the {adapter} adapter has one input, so nothing is held beside it; leave --hold out")
            if name == "normalise":
                raise TargetError(f"the {adapter} adapter feeds inputs as they are; leave --mean and --std (preprocess) out")
            raise TargetError(f"the {adapter} adapter has no use for {name}={value!r}; leave it out")
    unknown = sorted(set(options.extra) - set(extra))
    if unknown:
        known = ", ".join(sorted(extra)) or "none"
        raise TargetError(f"the {adapter} adapter does not know the option {unknown[0]!r}; its own options: {known}")


class LogitCheck:
    """Watches outputs under ``softmax`` and ``sigmoid``: where all of them lie from 0 to 1 they are hardly logits."""

    def __init__(self, link: str) -> None:
        self._link, self._rows, self._inside = link, 0, link in ("softmax", "sigmoid")

    def watch(self, values: NDArray[Any]) -> None:
        """Look at (rows, K) outputs."""
        if self._inside and values.size:
            self._rows += len(values)
            self._inside = bool(values.min() >= 0 and values.max() <= 1)

    def noted(self, info: ModelInfo) -> ModelInfo:
        """What is known of the model, with the sentence for the user once there were a few rows."""
        notes = self._notes()
        return replace(info, notes=(*info.notes, *notes)) if notes else info

    def _notes(self) -> tuple[str, ...]:
        if not self._inside or self._rows < CHECKED_ROWS:
            return ()
        said = f"all outputs under --link {self._link} lie from 0 to 1, as probabilities do and logits hardly ever"
        if self._link == "sigmoid":
            return (f"{said}: if they are P(class 1), use --link identity",)
        return (
            f"{said}: if they are a distribution, use --link identity; if they are findings that do not exclude each other, "
            "add --class NAME",
        )


def require_file(path: str | os.PathLike[str], what: str) -> str:
    """The path as a string, or a ``TargetError`` when no file is there."""
    text = os.fspath(path)
    if os.path.isdir(text):
        raise TargetError(f"expected {what}, got the folder {text!r}; name the file in it")
    if not os.path.exists(text):
        raise TargetError(f"expected {what} at {text!r}, but there is no such file; check the path")
    if os.path.getsize(text) == 0:
        raise TargetError(f"expected {what} at {text!r}, but the file is empty; export it again")
    return text


def file_fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
