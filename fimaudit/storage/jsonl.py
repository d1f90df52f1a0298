"""A file of JSON lines that survives a kill: each line is in the operating system's hands before the next is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fimaudit.errors import RunFolderError

__all__ = ["damaged", "differences", "recover_lines", "write_line"]


def write_line(file: IO[str], line: Mapping[str, Any]) -> None:
    """Append one line and hand it to the operating system."""
    file.write(json.dumps(line, allow_nan=False) + "\n")
    file.flush()


def recover_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a last one that a kill cut short is cut off the file too.

    Raises:
        RunFolderError: a line is no JSON, or the first does not name its run.
    """
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    try:
        lines = [dict(json.loads(line)) for line in whole.splitlines()]
        if lines:
            dict(lines[0]["run"])
    except (ValueError, KeyError, TypeError) as exc:
        raise damaged(path) from exc
    return lines


def damaged(path: Path) -> RunFolderError:
    """What to say of a file that cannot be gone on from."""
    return RunFolderError(f"{path} is damaged; use --overwrite to run it again")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which facts two runs differ, empty where they are the same.

    >>> differences({"seed": 0, "data": "d"}, {"seed": 1, "data": "d"})
    'seed was 0, is 1'
    """
    now = json.loads(json.dumps(dict(now)))
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed)
