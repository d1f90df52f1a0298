"""What another library's exception says, on one line of ours."""

from __future__ import annotations

__all__ = ["foreign", "one_line", "shortened"]


def one_line(text: object, most: int = 200) -> str:
    """The first characters of what something says, on one line.

    >>> one_line(ValueError("expected 3,\\n  got 4"), 11)
    'expected 3,'
    """
    return " ".join(str(text).split())[:most]


def foreign(exc: BaseException, most: int = 200) -> str:
    """What another library's exception is and says, on one line.

    >>> foreign(ValueError("no such column"))
    'ValueError: no such column'
    """
    return f"{type(exc).__name__}: {one_line(exc, most)}"


def shortened(exc: BaseException, most: int) -> str:
    """What it says on one line; where it says more than ``most`` characters, that is seen."""
    text = " ".join(str(exc).split())
    return text if len(text) <= most else text[: most - 1] + "…"
