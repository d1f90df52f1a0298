"""What another library's exception says, and names out of others' files, in a sentence of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fimaudit.errors import FimauditError

__all__ = ["foreign", "listed", "one_line", "printable", "translated"]


def one_line(text: object, most: int = 200) -> str:
    """What something says on one line, or its type where it says nothing; where it says more, that is seen.

    >>> one_line(ValueError("expected 3,\\n  got 4"), 12)
    'expected 3,…'
    """
    return _cut(" ".join(str(text).split()) or type(text).__name__, most)


def foreign(exc: BaseException, most: int = 200) -> str:
    """What another library's exception is and says, on one line.

    >>> foreign(ValueError("no such column"))
    'ValueError: no such column'
    """
    kind, said = type(exc).__name__, one_line(exc, most)
    return kind if said == kind else f"{kind}: {said}"


def listed(names: Sequence[object], most: int = 20, characters: int = 80) -> str:
    """The first names of a list, and how many more there are; one that begins or ends with a blank is quoted.

    >>> listed(["a", "b ", "c", "d"], 2)
    "a, 'b ' and 2 more"
    """
    texts = [text if len(text) <= characters else one_line(text, characters) for text in map(str, names[:most])]
    shown = ", ".join(text if text == text.strip() else repr(text) for text in texts)
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def printable(text: str, most: int) -> str:
    """Text with names from a file of others in it, on one line: a control character in it could write lines of its own.

    >>> printable("there is no a\\nfits signature: signed by us", 24)
    'there is no a�fits sign…'
    """
    text = "".join(c if c.isprintable() else "�" for c in text)
    return _cut(text, most)


@contextmanager
def translated(ours: type[FimauditError], what: str) -> Iterator[None]:
    """Whatever another library raises within becomes one sentence: what could not be done, then what it said.

    A library that reads a hostile file raises what it likes: numpy alone ``SystemError``, ``RecursionError``, ``TokenError``
    and ``zlib.error``. So there is no list of them; our own errors pass.

    Raises:
        FimauditError: ``ours``, in place of what came.

    >>> from fimaudit.errors import DataError
    >>> with translated(DataError, "could not read x.npz"):
    ...     raise SystemError("invalid maximum character")
    Traceback (most recent call last):
        ...
    fimaudit.errors.DataError: could not read x.npz: SystemError: invalid maximum character
    """
    try:
        yield
    except FimauditError:
        raise
    except Exception as exc:
        raise ours(f"{what}: {foreign(exc)}") from exc


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
