"""How ``fimaudit`` itself reads its words: an unknown command is refused in one sentence. Loads nothing slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

__all__ = ["Group"]


class Group(TyperGroup):
    """A group of commands that refuses a word that it does not know in one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See ``TyperGroup``."""
        with _refusing(self):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See ``TyperGroup``."""
        with _refusing(self):
            return super().resolve_command(ctx, args)


@contextmanager
def _refusing(group: TyperGroup) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not hasattr(error, "format_message"):  # no refusal: the end of a page of help, say
            raise
        from fimaudit.cli.command import refusal
        from fimaudit.errors import UsageError
        from fimaudit.errors.option_names import flags_in_messages

        with flags_in_messages():
            sentence = refusal(group, error)
            raise error if sentence is None else UsageError(sentence) from None
