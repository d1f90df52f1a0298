"""JMESPath with what answers need beyond it: text within text, arithmetic, and rows that come in another order."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

import jmespath
import jmespath.exceptions
import jmespath.functions
import numpy as np

from fimaudit.errors import OutputError, TargetError
from fimaudit.foreign_errors import one_line
from fimaudit_adapters.http.protocols.base import Malformed, load_json

__all__ = ["by_number", "compile_path", "number", "numbers_of_bytes"]

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def number(text: str) -> float | None:
    """A number that is written as text, with or without a percent sign; ``None`` where it is none.

    >>> number("97.3 %"), number("1e-3"), number("cat")
    (97.3, 0.001, None)
    """
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        return None


def by_number(text: str) -> list[tuple[int, int | str]]:
    """A key that sorts text as people do: the numbers in it by their size.

    >>> sorted(["row-10", "row-9"], key=by_number)
    ['row-9', 'row-10']
    """
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text)]


def numbers_of_bytes(raw: bytes, kind: str) -> list[float]:
    """The numbers whose little-endian bytes these are; ``kind`` is ``float32`` or ``float64``."""
    one = np.dtype(kind).newbyteorder("<")
    if len(raw) % one.itemsize:
        raise Malformed(f"expected whole numbers of {one.itemsize} bytes, got {len(raw)} bytes")
    found: list[float] = np.frombuffer(raw, dtype=one).tolist()
    return found


def compile_path(path: str, setting: str) -> Callable[[object], Any]:
    """A JMESPath as a function of a document.

    Raises:
        TargetError: it is none; the function raises ``OutputError`` where it does not fit what it is given.
    """
    try:
        compiled = jmespath.compile(path)
    except jmespath.exceptions.JMESPathError as exc:
        raise TargetError(f"{setting} is not a JMESPath: {one_line(exc)}") from None
    for name in _called(compiled.parsed):
        if name not in _Functions.FUNCTION_TABLE:
            near = get_close_matches(name, _Functions.FUNCTION_TABLE, 1)
            raise TargetError(
                f"{setting}: no function is called {name}()" + (f"; did you mean {near[0]}()?" if near else "")
            )

    def search(document: object) -> Any:
        try:
            return compiled.search(document, options=_OPTIONS)
        except jmespath.exceptions.JMESPathError as exc:
            raise OutputError(f"the JMESPath {path!r} does not fit the answer: {one_line(exc, 120)}") from None
        except RecursionError:
            raise Malformed("expected JSON of a sane depth, got one nested too deeply") from None
        except (OverflowError, ZeroDivisionError):
            raise Malformed(f"expected finite numbers at {path!r}, got some that are not") from None

    return search


def _called(node: Any) -> Iterator[str]:
    """Names of the functions in a parsed path."""
    if node["type"] == "function_expression":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _called(child)


def _signature(*types: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The types of the arguments, one word each; ``any`` for all."""
    said = [{"types": [] if one == "any" else [one]} for one in types]
    made: Callable[[Callable[..., Any]], Callable[..., Any]] = jmespath.functions.signature(*said)
    return made


def _each(change: Callable[[float], float], value: Any) -> Any:
    """Numbers changed, in lists and maps of any depth."""
    if isinstance(value, list):
        return [_each(change, one) for one in value]
    if isinstance(value, dict):
        return {name: _each(change, one) for name, one in value.items()}
    found = number(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise OutputError(f"expected numbers to reckon with, got {type(value).__name__}")
    return change(float(found))


class _Functions(jmespath.functions.Functions):  # type: ignore[misc]
    @_signature("string")
    def _func_parse_json(self, text: str) -> Any:
        return load_json(text.encode(errors="replace"))

    @_signature("string")
    def _func_base64(self, text: str) -> str:
        return _decoded(text).decode("utf-8", "replace")

    @_signature("string", "string")
    def _func_floats(self, kind: str, text: str) -> list[float]:
        """Numbers that travel as base64 of their little-endian bytes."""
        if kind not in ("float32", "float64"):
            raise OutputError(f"expected floats('float32', ..) or floats('float64', ..), got {kind[:20]!r}")
        return numbers_of_bytes(_decoded(text), kind)

    @_signature("string")
    def _func_numbers(self, text: str) -> list[float]:
        """All numbers that stand in a text, in their order."""
        return [float(one) for one in _NUMBER.findall(text)]

    @_signature("string", "string")
    def _func_split(self, separator: str, text: str) -> list[str]:
        return [part.strip() for part in text.split(separator)] if separator.strip() else text.split()

    @_signature("string", "string", "string")
    def _func_replace(self, old: str, new: str, text: str) -> str:
        return text.replace(old, new)

    @_signature("object")
    def _func_items(self, mapping: dict[str, Any]) -> list[list[Any]]:
        return [[key, value] for key, value in mapping.items()]

    @_signature("array", "array")
    def _func_zip(self, first: list[Any], second: list[Any]) -> list[list[Any]]:
        if len(first) != len(second):
            raise OutputError(f"expected two lists of one length to zip, got {len(first)} and {len(second)} values")
        return [list(pair) for pair in zip(first, second, strict=True)]

    @_signature("number", "array")
    def _func_chunks(self, size: float, values: list[Any]) -> list[list[Any]]:
        """A flat list as rows of ``size``."""
        step = int(size)
        if step < 1 or step != size or len(values) % step:
            raise OutputError(f"expected rows of {size:g} values, got {len(values)} values")
        return [values[at : at + step] for at in range(0, len(values), step)]

    @_signature("array", "expref")
    def _func_sort_by(self, values: list[Any], key: Any) -> list[Any]:
        """As in JMESPath, but text is sorted by the numbers in it: row-9 comes before row-10."""
        keys = [key.visit(key.expression, value) for value in values]
        if not all(isinstance(one, str) for one in keys) and not all(isinstance(one, int | float) for one in keys):
            raise OutputError("expected numbers alone or text alone to sort by")
        if len({str(one) for one in keys}) < len(keys):
            raise OutputError("expected each value once to sort by, got one twice")
        order = sorted(range(len(keys)), key=lambda at: by_number(keys[at]) if isinstance(keys[at], str) else keys[at])
        return [values[at] for at in order]

    @_signature("number", "any")
    def _func_add(self, what: float, value: Any) -> Any:
        return _each(lambda one: one + what, value)

    @_signature("number", "any")
    def _func_multiply(self, what: float, value: Any) -> Any:
        return _each(lambda one: one * what, value)

    @_signature("any", "number")
    def _func_divide(self, value: Any, by: float) -> Any:
        return _each(lambda one: one / by, value)

    @_signature("number", "any")
    def _func_power(self, base: float, value: Any) -> Any:
        if base <= 0:
            raise OutputError(f"expected a base above 0 in power(base, ..), got {base:g}")
        return _each(lambda one: math.pow(base, one), value)

    @_signature("any")
    def _func_exp(self, value: Any) -> Any:
        return _each(math.exp, value)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"expected base64, got {len(text)} characters that are not") from None


_OPTIONS = jmespath.Options(custom_functions=_Functions())
