"""A file of JSON lines that survives a kill and a power cut: each line is handed over whole before the next is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fimaudit.errors import RunFolderError
from fimaudit.storage.durable_files import AppendedFile, reading, writing

__all__ = ["damaged", "differences", "first_line", "line_bytes", "newer", "recover_lines"]

#: Of the lines of a journal; files from before it was written down are of version 1.
SCHEMA_VERSION = 1


def line_bytes(line: Mapping[str, Any]) -> bytes:
    """One line, with its end."""
    return (json.dumps(line, allow_nan=False) + "\n").encode()


def first_line(file: AppendedFile, run: Mapping[str, Any]) -> None:
    """Name the run that the lines to come belong to; on the disk at once."""
    file.append(line_bytes({"run": dict(run), "schema_version": SCHEMA_VERSION}), sync=True)


def recover_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a last one that a kill cut short is cut off the file too, and all from where a power cut left zeros.

    Raises:
        RunFolderError: a line is no JSON, the first does not name its run, the lines are of a newer version, or the file
            cannot be read or written.
    """
    with reading(path):
        text = path.read_bytes()
    written = text.partition(b"\0")[0]  # a file system may know a file's length before it has its bytes
    whole = written[: written.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with writing(path, RunFolderError), open(path, "r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    try:
        lines = [dict(json.loads(line)) for line in whole.splitlines()]
        if lines:
            dict(lines[0]["run"])
            version = int(lines[0].get("schema_version", 1))
    except (ValueError, KeyError, TypeError) as exc:
        raise damaged(path) from exc
    if lines and version > SCHEMA_VERSION:
        raise newer(path, version, SCHEMA_VERSION)
    return lines


def damaged(path: Path) -> RunFolderError:
    """What to say of a file that cannot be gone on from."""
    return RunFolderError(f"{path} is damaged; use --overwrite to run it again")


def newer(path: Path, version: object, known: int) -> RunFolderError:
    """What to say of a file that a later fimaudit wrote.

    >>> str(newer(Path("run/journal.jsonl"), 2, 1))
    'run/journal.jsonl was written by a newer fimaudit (schema_version 2, this one knows 1); update fimaudit to read it'
    """
    return RunFolderError(
        f"{path} was written by a newer fimaudit (schema_version {version}, this one knows {known}); "
        "update fimaudit to read it"
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which facts two runs differ, empty where they are the same; of facts with parts, only the parts that do.

    >>> differences({"data": "d", "of": {"seed": 0, "mode": "auto"}}, {"data": "d", "of": {"seed": 1, "mode": "auto"}})
    'seed was 0, is 1'
    """
    now = json.loads(json.dumps(dict(now)))
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    said = []
    for key in changed:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            said.append(differences(old, new))
        else:
            said.append(f"{key} was {old!r}, is {new!r}")
    return "; ".join(said)
