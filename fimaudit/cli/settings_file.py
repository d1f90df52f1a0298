"""A command's settings in a file: ``--config`` reads one, ``--save-config`` writes one; its keys are the flags' names."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fimaudit.cli.flag_blocks import FlagBlock
from fimaudit.errors import UsageError
from fimaudit.storage.yaml_files import nearest, parse_mapping, read_text

__all__ = ["SettingsFileFlags", "read_settings", "save_settings"]

#: Of one call, not of a run: a file that brought these along would do more than its reader expects.
OF_ONE_CALL = ("config", "save_config", "resume", "overwrite")
#: Left out of a saved file too.
NOT_SAVED = (*OF_ONE_CALL, "yes", "json", "quiet", "verbose")
#: Where a value comes from when somebody gave it.
GIVEN = ("COMMANDLINE", "DEFAULT_MAP")


def _fill(context: typer.Context, path: Path | None) -> Path | None:
    """The file's settings become the defaults, so that a flag on the command line goes before them."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_settings(path, context.command)}
    return path


@dataclass(frozen=True)
class SettingsFileFlags(FlagBlock):
    """Settings from a file and into one."""

    panel = "Settings file"

    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            callback=_fill,
            is_eager=True,
            help="YAML file with settings: each flag by its name (queries: 400), target among them. Flags go before it.",
        ),
    ] = None
    save_config: Annotated[
        Path | None, typer.Option("--save-config", help="Write the settings of this call to such a file, and go on.")
    ] = None


def read_settings(path: Path, command: Any) -> dict[str, Any]:
    """The settings of a file, by parameter, as the words that a command line would hold.

    Args:
        path: YAML file, a mapping of flags' names without their dashes.
        command: whose flags they are.

    Raises:
        UsageError: no such file, no mapping, a word that is no flag of the command, or a value that cannot be one.
    """
    parameters = {_key(p): p for p in command.params if p.name not in OF_ONE_CALL}
    found: dict[str, Any] = {}
    for name, value in parse_mapping(read_text(path, "settings file"), str(path), "settings").items():
        key = str(name).replace("_", "-")
        if key.replace("-", "_") in OF_ONE_CALL:
            raise UsageError(f"{path}: --{key} belongs to one call, not to a file of settings; give it on the command line")
        if key not in parameters:
            help = nearest(key, parameters, f"fimaudit {command.name} --help lists the known ones")
            raise UsageError(f"{path}: unknown setting {str(name)!r}; {help}")
        if value is not None:
            found[parameters[key].name] = _words(parameters[key], value, f"{path}: {key}")
    return found


def save_settings(context: typer.Context, path: Path | None) -> None:
    """Write what was given to this call, on its command line or by a file; nothing where ``path`` is ``None``.

    Raises:
        UsageError: another file lies there, or it cannot be written.
    """
    if path is None:
        return
    given: dict[str, Any] = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in NOT_SAVED and source is not None and source.name in GIVEN:
            given[_key(parameter)] = _saved(context.params[name])
    command = f"fimaudit {context.command.name} --config {path}"
    body = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=10_000)
    text = f"# Run with: {command}\n# Paths are relative to the folder that it runs in.\n{body}"
    try:
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UsageError(f"--save-config finds another file at {path}; name one that is not there yet")
        path.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot write the settings to {path}: {exc}") from exc


def _key(parameter: Any) -> str:
    """The name of a flag without its dashes; of an argument, its own."""
    flags: list[str] = [name for name in parameter.opts if name.startswith("--")]
    return flags[0].removeprefix("--") if flags else str(parameter.name)


def _words(parameter: Any, value: Any, where: str) -> Any:
    """A value as the command line would give it."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{where} is a switch; expected true or false, got {value!r}")
        return value
    if getattr(parameter, "multiple", False):
        if isinstance(value, Mapping):
            return [f"{name}={_word(item)}" for name, item in value.items()]
        return [_word(item) for item in value] if isinstance(value, list) else [_word(value)]
    if isinstance(value, Mapping):
        raise UsageError(f"{where}: expected one value, got a mapping")
    if isinstance(value, bool):
        return "on" if value else "off"  # how YAML reads these two words
    return ",".join(map(_word, value)) if isinstance(value, list) else _word(value)


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


def _saved(value: Any) -> Any:
    """What YAML holds without a type of ours."""
    if isinstance(value, list | tuple):
        return [_saved(item) for item in value]
    if isinstance(value, str):
        return _number(value)
    return value if isinstance(value, bool | int | float) else str(value)


def _number(word: str) -> str | int | float:
    """A number that was written as it is read back is one in the file too."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if str(kind(word)) == word and math.isfinite(kind(word)):
                return kind(word)
    return word
