"""What a command prints: words for people, one JSON document, or nothing."""

from __future__ import annotations

import json as json_text
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from fimaudit.cli.flag_blocks import FlagBlock
from fimaudit.cli.terminal import Terminal
from fimaudit.errors import FimauditError

__all__ = ["OutputFlags", "print_command", "print_failure", "print_line"]


@dataclass(frozen=True)
class OutputFlags(FlagBlock):
    """How a command shows what it found; the exit code says it too."""

    panel = "What is printed"

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of words.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors; no progress bar.")] = False

    @property
    def silent(self) -> bool:
        """Whether nothing beside the result may stand on the terminal."""
        return self.quiet or self.json

    def write(self, facts: Callable[[], Any], show: Callable[[], None], *, product: bool = False) -> None:
        """Print the facts as JSON, or show them to people, or neither.

        Args:
            facts: plain data, or a model whose ``to_json`` says it as its file does.
            show: prints words.
            product: the words are what the command is for (a file to redirect), so ``--quiet`` keeps them.
        """
        if self.json:
            found = facts()
            text = found.to_json() if hasattr(found, "to_json") else json_text.dumps(_plain(found), indent=1, default=str)
            print(text.rstrip("\n"))
        elif product or not self.quiet:
            show()


def _plain(value: Any) -> Any:
    """Models inside mappings and lists as what JSON holds, which knows no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def print_line(console: Console, text: str | Text, style: str = "", *, indent: int = 0) -> None:
    """A sentence: on a terminal broken between words and never within one, elsewhere on one line.

    Args:
        indent: columns by which its further lines are moved to the right.
    """
    shown = Text(text, style) if isinstance(text, str) else text.copy()
    if console.is_terminal:
        # Of the same length, so that styles stay where they are.
        shown.plain = _broken(shown.plain, max(20, console.width - indent))
        shown = Text("\n" + " " * indent).join(shown.split("\n"))
    console.print(shown, soft_wrap=True)


def _broken(text: str, width: int) -> str:
    """The text with line breaks in place of blanks, so that no line is wider than it must be."""
    characters, start, blank = list(text), 0, -1
    for place, character in enumerate(text):
        if character == "\n":
            start, blank = place + 1, -1
        elif character == " ":
            blank = place
        if place - start >= width and blank >= 0:
            characters[blank] = "\n"
            start, blank = blank + 1, -1
    return "".join(characters)


def print_command(console: Console, said: str, command: str, after: str = "") -> None:
    r"""A command to paste: on a terminal broken between its words, each line but the last ending in ``\``."""
    text = f"{said}{command}{after}"
    if console.is_terminal and len(text) > console.width:
        text = _folded(said, command, after, console.width)
    console.print(Text(text), soft_wrap=True)


def _folded(said: str, command: str, after: str, width: int) -> str:
    lines = [said.rstrip()]
    for word in map(shlex.quote, shlex.split(command)):
        if len(lines) > 1 and len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if len(lines) == 1 else f"    {word}")
    text = lines[0] + "\n" + " \\\n".join(lines[1:])
    return f"{text}\n{after.strip()}" if after else text


def print_failure(error: FimauditError) -> None:
    """One sentence on stderr, then what to type where the error says it."""
    console = Terminal(stderr=True, highlight=False)
    print_line(console, f"fimaudit: {' '.join(str(error).split())}")
    for note in getattr(error, "__notes__", ()):
        said, found, command = note.partition("fimaudit ")
        print_command(console, said, found + command) if found else print_line(console, note)
