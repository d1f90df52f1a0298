"""How ``fimaudit`` itself reads its words: an unknown command is refused in one sentence. Loads nothing slow."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["Group"]


class Group(TyperGroup):
    """A group of commands that refuses a word that it does not know in one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See ``TyperGroup``."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if not hasattr(error, "format_message"):  # no refusal: the end of a page of help, say
                raise
            raise _refused(self, error) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See ``TyperGroup``."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if not hasattr(error, "format_message"):  # no refusal: the end of a page of help, say
                raise
            raise _refused(self, error) from None


def _refused(group: TyperGroup, error: Exception) -> Exception:
    from fimaudit.cli.command import refusal
    from fimaudit.errors import UsageError
    from fimaudit.option_names import flags_in_messages

    with flags_in_messages():
        said = refusal(group, error)
        return error if said is None else UsageError(said)
