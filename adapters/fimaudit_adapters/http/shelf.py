"""Endpoint files of known services, to copy and fill in."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files

from fimaudit.errors import TargetError

__all__ = ["Preset", "preset", "presets"]

FOLDER = files("fimaudit_adapters.http") / "presets"


@dataclass(frozen=True)
class Preset:
    """One endpoint file of the shelf.

    Attributes:
        name: of the file.
        text: of the file: a comment of what it is, its page and what to fill in, then the settings.
    """

    name: str
    text: str

    @property
    def about(self) -> str:
        """The first line of its comment."""
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def page(self) -> str:
        """The public page that describes the format."""
        return self._comment("Page")

    @property
    def checked(self) -> str:
        """What the format was compared with."""
        return self._comment("Checked")

    def _comment(self, word: str) -> str:
        return next(line.partition(": ")[2] for line in self.text.splitlines() if line.startswith(f"# {word}: "))


def presets() -> list[Preset]:
    """All of the shelf, by name."""
    found = (entry for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))
    made = (Preset(entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")) for entry in found)
    return sorted(made, key=lambda one: one.name)


def preset(name: str) -> Preset:
    """The one of that name.

    Raises:
        TargetError: there is none; with the nearest name.
    """
    known = {one.name: one for one in presets()}
    if name not in known:
        near = get_close_matches(name, known, 1, 0.4)
        help = f"did you mean {near[0]}?" if near else "fimaudit endpoint list names them all"
        raise TargetError(f"no preset {name!r}; {help}")
    return known[name]
