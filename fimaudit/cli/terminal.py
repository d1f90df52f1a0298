"""The console that commands print to: text from files and servers cannot move the cursor, retitle the window or hide."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["Terminal"]

#: Control characters, and those that turn the direction of text; a line's end stays.
_HIDDEN = dict.fromkeys((*range(10), *range(11, 32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�")


class Terminal(Console):
    """As rich's, with every piece of text free of control characters; colours are rich's own.

    >>> Terminal(width=20).print("a\\x1b]0;title\\x7fb", markup=False)
    a�]0;title�b
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See ``Console``."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(segment.text.translate(_HIDDEN), segment.style)
