"""What every adapter of this package does with ``Options``: refuse what it has no use for, and fingerprint files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from typing import Any

from fimaudit.errors import TargetError
from fimaudit.models.classifier import Options

__all__ = ["file_fingerprint", "finding_names", "finding_position", "refuse_unused", "require_file"]


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


def finding_position(finding: str | int | None, names: Sequence[Any] | None) -> int | None:
    """The column that ``--class`` means: a name of the model's, else a position.

    Raises:
        TargetError: no such name, or the model names none.
    """
    if finding is None:
        return None
    called = [str(name) for name in names or ()]
    if str(finding) in called:
        return called.index(str(finding))
    if str(finding).isdigit() and (not called or int(finding) < len(called)):
        return int(finding)
    known = f"one of {', '.join(called)}" if called else "a position (0, 1, ...): the model does not name its classes"
    raise TargetError(f"expected --class with {known}, got {finding!r}")


def finding_names(finding: int | None, names: Sequence[Any] | None) -> tuple[str, str] | None:
    """What the complement and the finding are called."""
    if finding is None:
        return None
    name = str(names[finding]) if names is not None and finding < len(names) else f"class {finding}"
    return f"not {name}", name


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
