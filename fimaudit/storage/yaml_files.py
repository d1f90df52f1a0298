"""Files that people write by hand: YAML mappings, read so that no line is passed over in silence."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from fimaudit.errors import UsageError
from fimaudit.models.strict_yaml import StrictLoader

__all__ = ["nearest", "parse_mapping", "read_text"]

#: Of YAML, which is read at some 600 kB a second.
MOST_BYTES = 2**20


def read_text(path: str | Path, what: str) -> str:
    """The text of a file that is called ``what`` in messages.

    Raises:
        UsageError: it is missing, larger than ``MOST_BYTES``, or cannot be read.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"the {what} {file} holds more than {MOST_BYTES:,} bytes, which no {what} does")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise UsageError(f"no such {what}: {file}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        said = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot read the {what} {file}: {said}") from exc


def parse_mapping(text: str, source: str, holds: str) -> dict[Any, Any]:
    """The mapping that a YAML text holds.

    Args:
        text: YAML.
        source: where it came from, for messages.
        holds: what is expected in it, for messages.

    Raises:
        UsageError: no YAML, a key that is given twice, or no mapping.

    >>> parse_mapping("queries: 400", "audit.yaml", "settings")
    {'queries': 400}
    """
    try:
        data = yaml.load(text, Loader=StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as exc:  # ValueError: a date that is none
        mark = getattr(exc, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{source} is no valid YAML{where}: {str(getattr(exc, 'problem', None) or exc)[:300]}") from exc
    if not isinstance(data, dict):
        got = "nothing" if data is None else f"a {type(data).__name__}"
        raise UsageError(f"expected {source} to hold a mapping with {holds}, got {got}")
    return data


def nearest(word: object, known: Collection[str], otherwise: str) -> str:
    """``did you mean 'at_most'?`` for the nearest of the known words, or what else to do.

    >>> nearest("at_mots", ["at_most", "at_least"], "see the page")
    "did you mean 'at_most'?"
    """
    near = get_close_matches(str(word), sorted(known), 1)
    return f"did you mean {near[0]!r}?" if near else otherwise
