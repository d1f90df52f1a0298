"""Rows that carry their numbers and come in another order than they were sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fimaudit.errors import OutputError

__all__ = ["refuse_other_order"]

#: Fields that number rows.
_NUMBERS = re.compile(
    r"(?i)(row|instance|record|item|request|input|sample)?[_-]?(id|index|idx|key|no|nr|num|number|pos|position)"
)
#: Of so few rows, numbers may be a permutation by chance, and the check of answers in another batch looks at those.
LEAST = 8
DEPTH = 4


def refuse_other_order(document: Any, rows: int) -> None:
    """Look at lists of one object a row whether a field numbers them, and does not count up.

    Args:
        document: the answer.
        rows: asked for.

    Raises:
        OutputError: it does; the rows' scores would be taken for those of others.
    """
    if rows < LEAST:
        return
    for listed in _lists(document, rows, DEPTH):
        for name in listed[0]:
            if not _NUMBERS.fullmatch(name):
                continue
            numbers = [_number(one.get(name)) for one in listed]
            if numbers == sorted(numbers, key=lambda n: -1 if n is None else n) or None in numbers:
                continue
            first = min(n for n in numbers if n is not None)
            if sorted(n for n in numbers if n is not None) == list(range(first, first + rows)):
                raise OutputError(
                    f"expected rows in the order in which they were sent, got some whose {name!r} does not count up: "
                    f"put them in order, such as sort_by(.., &{name})"
                )


def _lists(part: Any, rows: int, depth: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of as many objects as rows were asked for."""
    if isinstance(part, dict) and depth:
        for value in part.values():
            if isinstance(value, list | dict):
                yield from _lists(value, rows, depth - 1)
    elif isinstance(part, list) and part and isinstance(part[0], dict):
        if len(part) == rows and all(isinstance(one, dict) for one in part):
            yield part
        elif len(part) == 1:
            yield from _lists(part[0], rows, depth - 1)


def _number(value: Any) -> int | None:
    """The number in ``7``, ``"7"`` or ``"row-7"``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = re.search(r"(\d{1,9})$", value) if isinstance(value, str) else None
    return None if found is None else int(found[1])
