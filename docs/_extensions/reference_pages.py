"""Reference pages that are read off the program: commands and flags, fields of report.json, exit codes, flags of inputs.

A page holds a comment, ``<!-- commands -->`` (or ``report``, ``exit codes``, ``input flags``, ``endpoints``,
``glossary``), and gets
Markdown in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from sphinx.application import Sphinx

KINDS = {int: "whole number", float: "number", Path: "path"}
PLACE = re.compile(r"^<!-- (commands|report|exit codes|input flags|endpoints|glossary) -->$", re.MULTILINE)


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put in what the program says of itself."""
    source[0] = PLACE.sub(lambda found: "\n".join(WRITERS[found[1]]()), source[0])


def commands() -> Iterator[str]:
    """Each command: what it does, how it is called, its arguments and flags."""
    from fimaudit.cli import COMMANDS, load_command

    yield from _commands_of({name: load_command(name) for name in COMMANDS}, "fimaudit")


def _commands_of(commands: dict[str, Any], called: str) -> Iterator[str]:
    for name, command in commands.items():
        full = f"{called} {name}"
        if hasattr(command, "commands"):
            yield from _commands_of(command.commands, full)
            continue
        usage = " ".join([full, *(_usage(p) for p in command.params if not _is_flag(p)), "[OPTIONS]"])
        yield from ("", f"## {full}", "", _prose(command.help), "", "```text", usage, "```")
        yield from _table([p for p in command.params if not _is_flag(p)], "argument")
        flags = [p for p in command.params if _is_flag(p)]
        for panel in dict.fromkeys(getattr(p, "rich_help_panel", None) for p in flags):
            if panel is not None:
                yield from ("", f"*{panel}*")
            yield from _table([p for p in flags if getattr(p, "rich_help_panel", None) == panel], "flag")


def _is_flag(parameter: Any) -> bool:
    return any(name.startswith("-") for name in parameter.opts)


def _usage(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return f"{name}{'...' if parameter.nargs == -1 else ''}"


def _table(parameters: list[Any], what: str) -> Iterator[str]:
    if not parameters:
        return
    yield from ("", f"| {what} | takes | default | meaning |", "|---|---|---|---|")
    for p in parameters:
        names = [*p.opts, *getattr(p, "secondary_opts", ())] if _is_flag(p) else [_usage(p)]
        takes = "" if getattr(p, "is_flag", False) else _kind(p)
        shown = "" if p.default in (None, (), []) or callable(p.default) else f"`{_plain(p.default)}`"
        if getattr(p, "is_flag", False) and p.default is False:
            shown = ""
        yield f"| {', '.join(f'`{n}`' for n in names)} | {takes} | {'required' if p.required else shown} | {_cell(p.help)} |"


def _kind(parameter: Any) -> str:
    """What a flag takes: its choices, or a word for its type."""
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", str)
    choices = [
        choice for kind in (annotation, *get_args(annotation)) for choice in get_args(kind) if isinstance(choice, str)
    ]
    if choices or (get_args(annotation) and isinstance(get_args(annotation)[0], str)):
        return ", ".join(f"`{choice}`" for choice in choices or get_args(annotation))
    return KINDS.get(annotation, "text")


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _cell(text: str | None) -> str:
    return _prose(text).replace("|", "\\|").replace("\n", " ")


def _prose(text: str | None) -> str:
    """Help as Markdown: what looks like markup is text."""
    found = re.sub(r"\\(?=\[)", "", text or "")
    return re.sub(r"([<>*_\[\]])", r"\\\1", " ".join(found.split()))


def report() -> Iterator[str]:
    """Each object of report.json with its fields."""
    from fimaudit.audit_report import json_schema

    schema = json_schema()
    yield from _object("Report", schema)
    for name, part in schema["$defs"].items():
        yield from _object(name, part)


def _object(name: str, part: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"## {name}", "")
    yield _docstring(part.get("description", ""))
    yield from ("", "| field | type |", "|---|---|")
    for field, about in part["properties"].items():
        yield f"| `{field}` | {_type(about)} |"


def _docstring(text: str) -> str:
    """A docstring's sentences and its list of attributes as Markdown."""
    out = []
    for line in text.splitlines():
        if re.match(r"^\s+[a-z_, ]+: ", line):
            names, _, meaning = line.strip().partition(": ")
            out.append(f"- `{names}`: {meaning}")
        elif line.strip() == "Attributes:":
            out.append("")
        else:
            out.append(line.strip() if not line.startswith("     ") else f"  {line.strip()}")
    return "\n".join(out).replace("``", "`")


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in about:
        return " or ".join(_type(one) for one in about["anyOf"])
    if "enum" in about:
        return ", ".join(f"`{one}`" for one in about["enum"])
    if "const" in about:
        return f"`{about['const']}`"
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}))}"
    if about.get("type") == "object" and isinstance(about.get("additionalProperties"), dict):
        return f"object of {_type(about['additionalProperties'])}"
    return str(about.get("type", "any"))


def exit_codes() -> Iterator[str]:
    """The tree of errors, each with the code that a command ends with."""
    from fimaudit import errors

    yield from ("| exit code | error | when |", "|---|---|---|")
    for name in errors.__all__:
        error = getattr(errors, name)
        first = (error.__doc__ or "").splitlines()[0]
        yield f"| {error.exit_code} | `{name}` | {_cell(first)} |"


def input_flags() -> Iterator[str]:
    """What a flag, and a status, of an input means."""
    from fimaudit.report.wording import STATUS_WORDS
    from fimaudit.results import FLAG_WORDS

    yield from ("| status | meaning |", "|---|---|")
    yield from (f"| `{name}` | {words} |" for name, words in STATUS_WORDS.items())
    yield from ("", "| flag | meaning |", "|---|---|")
    yield from (f"| `{name}` | {words} |" for name, words in FLAG_WORDS.items())


def endpoints() -> Iterator[str]:
    """The services that there is an endpoint file for."""
    from fimaudit_adapters.http.shelf import presets

    yield from ("| name | what it is |", "|---|---|")
    yield from (f"| `{one.name}` | {_cell(one.about)} |" for one in presets())


def glossary() -> Iterator[str]:
    """The words that a report's page explains."""
    from fimaudit.report.glossary import GLOSSARY

    yield "```{glossary}"
    for term, words in sorted(GLOSSARY.items()):
        yield from (term, f"    {words}", "")
    yield "```"


WRITERS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "report": report,
    "exit codes": exit_codes,
    "input flags": input_flags,
    "endpoints": endpoints,
    "glossary": glossary,
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
