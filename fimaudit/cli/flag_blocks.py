"""Blocks of flags that a command takes as one parameter."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

__all__ = ["FlagBlock", "as_words", "in_blocks"]


class FlagBlock:
    """Flags that belong together: a dataclass that a command takes as one parameter; help shows them in a panel.

    Attributes:
        panel: title of the panel.
    """

    panel: ClassVar[str]


def in_blocks(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the flags of its blocks one by one, as typer reads them from a signature."""
    hints = get_type_hints(command, include_extras=True)
    blocks = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, FlagBlock)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in blocks:
            parameters += _flags_of(blocks[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        made = {name: block(**{f: values.pop(f) for f in _names(block) if f in values}) for name, block in blocks.items()}
        command(**values, **made)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def as_words(block: FlagBlock) -> list[str]:
    """The flags of a block that were given, as they are typed."""
    hints, words = get_type_hints(type(block), include_extras=True), []
    for field in dataclasses.fields(block):  # type: ignore[arg-type]
        value = getattr(block, field.name)
        if value == field.default:
            continue
        flag = get_args(hints[field.name])[1]  # within Annotated the first word stands where the default did
        spelled = flag.default if isinstance(flag.default, str) else f"--{field.name.replace('_', '-')}"
        yes, _, no = spelled.partition("/")
        if isinstance(value, bool):
            words.append(yes if value else no)
        else:
            words += [word for one in (value if isinstance(value, list) else [value]) for word in (yes, str(one))]
    return words


def _flags_of(block: Any) -> list[inspect.Parameter]:
    out = []
    hints = get_type_hints(block, include_extras=True)
    for field in dataclasses.fields(block):
        kind, flag = get_args(hints[field.name])
        flag = copy(flag)
        flag.rich_help_panel = block.panel
        annotation: Any = Annotated[kind, flag]
        out.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
        )
    return out


def _names(block: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(block)]
