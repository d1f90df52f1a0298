"""What came of each point of an operation, kept line by line, so that a table of hours can be run in pieces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.crash.disturbing import Found
from scripts.crash.system_calls import Point


class KeptPoints:
    """The points of one operation that were tried; of a point tried twice the last counts.

    Args:
        operation: its name.
        points: that it passes now; what is kept of others is of an earlier state of the code.
        path: where they are kept, ``None`` for nowhere.
    """

    def __init__(self, operation: str, points: Sequence[Point], path: Path | None) -> None:
        present = set(map(str, points))
        self._operation, self._path = operation, path
        self._found: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            for line in map(json.loads, path.read_text().splitlines()):
                if line["operation"] == operation and line["point"] in present:
                    self._found[line["point"]] = line

    def passed(self, point: Point) -> bool:
        """Whether it was reached before, and passed."""
        found = self._found.get(str(point))
        return found is not None and found["reached"] and not found["wrong"]

    def add(self, found: Found) -> None:
        """Keep what came of a point, and say it where it failed."""
        line = {
            "operation": self._operation, "point": str(found.point), "reached": found.reached, "again": found.again,
            "code": found.ended.code, "wrong": found.wrong,
        }  # fmt: skip
        self._found[str(found.point)] = line
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if found.wrong:
            print(f"FAILED {found.point}: {found.wrong}", flush=True)

    @property
    def failed(self) -> int:
        """How many points did not pass."""
        return sum(bool(line["wrong"]) for line in self._found.values())

    def row(self) -> dict[str, object]:
        """The operation's row of the table."""
        lines = self._found.values()
        tried = Counter(line["point"].rsplit(":", 1)[1] for line in lines if line["reached"])
        return {
            "tried": dict(sorted(tried.items())),
            "not reached": sum(not line["reached"] for line in lines),
            "failed": self.failed,
            "most rows asked again": max((line["again"] for line in lines), default=0),
        }
