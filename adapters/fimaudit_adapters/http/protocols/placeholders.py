"""What stands for rows in a request document: the names that ``templates`` fills, found without any rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from fimaudit.errors import TargetError

__all__ = ["check_names", "in_text", "places"]

#: Values that stand for all rows of a request.
OF_ALL = ("rows", "records", "columns", "flat", "transposed")
#: Values that stand for one row.
OF_ONE = ("row", "record", "csv")
#: Values that say something of a request or of a cell, and hold no row.
BESIDE = ("index", "count", "names", "name", "value")
#: Mappings of one key that make a value of the document in it.
AROUND = ("$each", "$cells", "$merge", "$join", "$json", "$base64", "$bytes", "$literal")
_TYPO = 0.8
_IN_TEXT = re.compile(r"\{([^{}]+)\}")


def in_text() -> re.Pattern[str]:
    """Where a name may stand within text: ``aged {age}``."""
    return _IN_TEXT


def places(part: object, columns: Sequence[str] = ()) -> list[str]:
    """The placeholders for rows in a request document, in their order; what stands within text is of one row, ``$row``.

    Args:
        part: the document.
        columns: names that may stand within text too.

    >>> places({"a": ["$rows"], "b": "data:{row}", "c": "aged {age}, {unknown}"}, ["age"])
    ['$rows', '$row', '$row']
    >>> places({"a": {"$cells": "$value"}, "b": {"$literal": "$rows"}, "c": {"$each": "$row"}})
    ['$row', '$each']
    """
    if isinstance(part, dict):
        if set(part) & {"$each", "$cells", "$literal"} and len(part) == 1:
            return {"$each": ["$each"], "$cells": ["$row"], "$literal": []}[next(iter(part))]
        return [place for value in part.values() for place in places(value, columns)]
    if isinstance(part, list):
        return [place for value in part for place in places(value, columns)]
    if not isinstance(part, str):
        return []
    if part.startswith("$"):
        name = part[1:].removesuffix("...")
        return [f"${name}"] if name in (*OF_ALL, *OF_ONE) else []
    return ["$row" for name in _IN_TEXT.findall(part) if name in OF_ONE or name in columns]


def check_names(part: object, columns: Sequence[str]) -> None:
    """Refuse what looks like a placeholder and is none: it would be sent as it stands, and a column would be missing.

    Args:
        part: the request document.
        columns: names that may stand within text too.

    Raises:
        TargetError: an unknown ``$name``; within text a near miss, or a name that a column has too.
    """
    known = (*OF_ALL, *OF_ONE, *BESIDE)
    for text in _texts(part):
        word = re.fullmatch(r"\$([A-Za-z_]+)(\.\.\.)?", text)
        if word is not None and word[1] not in known:
            near = get_close_matches(word[1], known, 1)
            advice = f"did you mean ${near[0]}?" if near else "they are " + ", ".join(f"${name}" for name in known)
            raise TargetError(f"request: no placeholder is called {text[:60]}: {advice}; {{$literal: ..}} sends it as it is")
        for name in [] if word is not None else _IN_TEXT.findall(text):
            if name in columns and name in known:
                raise TargetError(f"{{{name}}} in request may mean the column of that name or more; rename the column")
            near = get_close_matches(name, [*known, *columns], 1, _TYPO)
            if near and name not in known and name not in columns:
                raise TargetError(f"{{{name[:60]}}} in request is no column; did you mean {{{near[0]}}}?")


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value)
    elif isinstance(part, dict) and set(part) != {"$literal"}:
        for key, value in part.items():
            yield from _texts(value)
            if key not in AROUND:
                yield from _texts(key if "{" in key else "")
