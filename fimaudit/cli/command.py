"""How a command reads its words: an unknown flag or choice is refused in one sentence."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand

from fimaudit.errors import UsageError
from fimaudit.option_names import flags_in_messages
from fimaudit.runs.options import choice_sentence

__all__ = ["Command"]


class Command(TyperCommand):
    """A command that refuses an unknown flag, or a value that is no choice, in one sentence, and speaks of flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See ``TyperCommand``."""
        try:
            with flags_in_messages():
                return super().parse_args(ctx, args)
        except Exception as error:  # which class typer's errors are differs from version to version
            refused = _refusal(self, error)
            if refused is None:
                raise
            with flags_in_messages():
                raise UsageError(refused) from None

    def invoke(self, ctx: Any) -> Any:
        """See ``TyperCommand``."""
        with flags_in_messages():
            return super().invoke(ctx)


def _refusal(command: TyperCommand, error: Exception) -> str | None:
    flags = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
    if type(error).__name__ == "NoSuchOption":
        flag = str(getattr(error, "option_name", ""))
        near = get_close_matches(flag, flags, 1)
        return f"no such option {flag}; " + (f"did you mean {near[0]}?" if near else "--help lists the known ones")
    choice = re.search(r"'([^']*)' is not one of (.+)\.$", getattr(error, "message", ""))
    parameter = getattr(error, "param", None)
    if choice is None or parameter is None:
        return None
    return choice_sentence(parameter.opts[0], re.findall(r"'([^']*)'", choice[2]), choice[1])
