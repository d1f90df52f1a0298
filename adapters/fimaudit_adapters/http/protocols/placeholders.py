"""What stands for rows in a request document: the names that ``templates`` fills, found without any rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from fimaudit.errors import TargetError

__all__ = ["IN_TEXT", "OF_ONE", "check_names", "places"]

#: Values that stand for all rows of a request.
OF_ALL = ("rows", "records", "columns", "flat", "transposed")
#: Values that stand for one row.
OF_ONE = ("row", "record", "csv")
#: Values that say something of a request or of a cell, and hold no row.
BESIDE = ("index", "count", "names", "name", "value")
#: Mappings of one key that make a value of the document in it.
AROUND = ("$each", "$cells", "$merge", "$join", "$json", "$base64", "$bytes", "$literal")
_TYPO = 0.8
#: Where a name may stand within text: ``aged {age}``.
IN_TEXT = re.compile(r"\{([^{}]+)\}")


def places(part: object, columns: Sequence[str] = ()) -> list[str]:
    """The placeholders for rows in a request document, in their order; what stands within text is of one row, ``$row``.

    Args:
        part: the document.
        columns: names that may stand there too, as a value or within text.

    >>> places({"a": ["$rows"], "b": "data:{row}", "c": "aged {age}, {unknown}"}, ["age"])
    ['$rows', '$row', '$row']
    >>> places({"a": {"$cells": "$value"}, "b": {"$literal": "$rows"}, "c": {"$each": "$row"}})
    ['$row', '$each']
    """
    if isinstance(part, dict):
        if set(part) & {"$each", "$cells", "$literal"} and len(part) == 1:
            key, inner = next(iter(part.items()))
            return {"$each": ["$each"] if places(inner, columns) else [], "$cells": ["$row"], "$literal": []}[key]
        return [place for value in part.values() for place in places(value, columns)]
    if isinstance(part, list):
        return [place for value in part for place in places(value, columns)]
    if not isinstance(part, str):
        return []
    if part.startswith("$"):
        name = part[1:].removesuffix("...")
        return [f"${name}"] if name in (*OF_ALL, *OF_ONE) else ["$row"] if name in columns else []
    return ["$row" for name in IN_TEXT.findall(part) if name in OF_ONE or name in columns]


def check_names(part: object, columns: Sequence[str]) -> None:
    """Refuse what looks like a placeholder and is none: it would be sent as it stands, and a column would be missing.

    Args:
        part: the request document.
        columns: names that may stand there too, as a value or within text.

    Raises:
        TargetError: an unknown ``$name``; a near miss within text or as the key of a mapping; a name that a column has too;
            the name or value of a cell outside of ``$cells``.
    """
    for key in _lone_keys(part):
        near = get_close_matches(key, AROUND, 1, _TYPO)
        if near and key not in (*AROUND, "$file"):
            raise TargetError(f"request: nothing is called {key[:60]}; did you mean {near[0]}?")
    for text in _texts(part, in_cells=False):
        if text in ("$name", "$value") and text[1:] not in columns:
            raise TargetError(f"request: {text} is of a cell: it stands within {{$cells: ..}}")
    known = (*OF_ALL, *OF_ONE, *BESIDE)
    for text in _texts(part):
        word = re.fullmatch(r"\$([A-Za-z_]\w*)(\.\.\.)?", text)
        if word is not None and word[1] not in (*known, *columns):
            near = get_close_matches(word[1], [*known, *columns], 1)
            advice = f"did you mean ${near[0]}?" if near else "they are " + ", ".join(f"${name}" for name in known)
            raise TargetError(f"request: no placeholder is called {text[:60]}: {advice}; {{$literal: ..}} sends it as it is")
        for name in [] if word is not None else IN_TEXT.findall(text):
            if name in columns and name in known:
                raise TargetError(f"{{{name}}} in request may mean the column of that name or more; rename the column")
            near = get_close_matches(name, [*known, *columns], 1, _TYPO)
            if near and name not in known and name not in columns:
                raise TargetError(f"{{{name[:60]}}} in request is no column; did you mean {{{near[0]}}}?")


def _lone_keys(part: Any) -> Iterator[str]:
    """Keys with a ``$`` that a mapping has alone."""
    if isinstance(part, dict) and len(part) == 1 and str(next(iter(part))).startswith("$"):
        yield next(iter(part))
    if isinstance(part, dict | list) and part != {} and (isinstance(part, list) or set(part) != {"$literal"}):
        for value in part.values() if isinstance(part, dict) else part:
            yield from _lone_keys(value)


def _texts(part: Any, *, in_cells: bool = True) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value, in_cells=in_cells)
    elif isinstance(part, dict) and set(part) not in ({"$literal"}, set() if in_cells else {"$cells"}):
        for key, value in part.items():
            yield from _texts(value, in_cells=in_cells)
            if key not in AROUND:
                yield from _texts(key if "{" in key else "")
