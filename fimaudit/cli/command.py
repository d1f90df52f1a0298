"""How a command reads its words: an unknown flag or choice is refused in one sentence."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand, TyperGroup

from fimaudit.errors import UsageError
from fimaudit.errors.option_names import flags_in_messages
from fimaudit.runs.options import choice_sentence

__all__ = ["Command", "refusal"]

#: What a value is not, as typer says it, and what was expected.
KINDS = {"valid integer": "a whole number", "valid number": "a number"}


class Command(TyperCommand):
    """A command that refuses an unknown flag, or a value that is no choice, in one sentence that names flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See ``TyperCommand``."""
        try:
            with flags_in_messages():
                return super().parse_args(ctx, args)
        except Exception as error:  # which class typer's errors are differs from version to version
            refused = refusal(self, error)
            if refused is None:
                raise
            with flags_in_messages():
                raise UsageError(refused) from None

    def invoke(self, ctx: Any) -> Any:
        """See ``TyperCommand``."""
        with flags_in_messages():
            return super().invoke(ctx)


def refusal(command: TyperCommand | TyperGroup, error: Exception) -> str | None:
    """What typer says in a box, as one sentence of ours; ``None`` where it refuses no words: a page of help, say."""
    flags = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
    if type(error).__name__ == "NoSuchOption":
        flag = str(getattr(error, "option_name", ""))
        alike = get_close_matches(flag.lstrip("-"), [name.lstrip("-") for name in flags], 1)
        near = [name for name in flags if name.startswith(flag)] or [f"--{name}" for name in alike]
        return f"no such option {flag}; " + (f"did you mean {near[0]}?" if near else "--help lists the known ones")
    choice = re.search(r"'([^']*)' is not one of (.+)\.$", getattr(error, "message", ""))
    parameter = getattr(error, "param", None)
    if choice is not None and parameter is not None:
        return choice_sentence(parameter.opts[0], re.findall(r"'([^']*)'", choice[2]), choice[1])
    if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
        return None
    if type(error).__name__ == "MissingParameter" and parameter is not None:
        wanted = parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.name).upper()
        return f"expected {wanted}, which is missing; --help says what it is"
    for sort, words in KINDS.items():
        if parameter is not None and sort in getattr(error, "message", ""):
            return f"expected {parameter.opts[0]} as {words}; --help says what it is"
    said = str(error.format_message()).strip().rstrip(".").replace(". Did", "; did")
    return f"{said[:1].lower()}{said[1:]}" + ("" if said.endswith("?") else "; --help lists what there is")
