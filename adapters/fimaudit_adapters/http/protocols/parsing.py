"""An answer's bytes as a document that paths can be asked of, whatever it is written in."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import Any

import msgpack
import numpy as np
from defusedxml.ElementTree import fromstring

from fimaudit_adapters.http.protocols.answer_functions import number, numbers_of_bytes
from fimaudit_adapters.http.protocols.base import Malformed, distinct, load_json

__all__ = ["parse"]


def parse(content: bytes, how: str, rows: int, separator: str = ",") -> Any:
    """The answer as a document that a JMESPath can be asked of.

    Args:
        content: the body.
        how: as ``answer:`` of an endpoint file says.
        rows: asked for; a CSV of one line more has a header.
        separator: between the cells of a CSV.

    Raises:
        Malformed: it is not written so.
    """
    if how == "json":
        return load_json(content)
    if how == "npy":
        return _array(content)
    if how in ("float32", "float64"):
        return numbers_of_bytes(content, how)
    if how == "msgpack":
        return _message(content)
    if how == "xml":
        return _xml(content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Malformed(f"expected text in UTF-8, got {len(content)} bytes that are not") from None
    if how == "ndjson":
        return [load_json(line.encode()) for line in text.splitlines() if line.strip()]
    if how == "csv":
        return _table(text, rows, separator)
    if how == "events":
        return _events(text)
    return _cell(text.strip())


def _table(text: str, rows: int, separator: str) -> list[Any]:
    """Lines of cells; with a header, of text or of whole numbers that all differ, one map a line."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if line]
    except csv.Error as exc:
        raise Malformed(f"expected CSV, got something else ({exc})") from None
    if len(lines) == rows + 1:
        names = [name.strip() for name in lines[0]]
        if len(set(names)) == len(names) and (all(n.isdecimal() for n in names) or all(number(n) is None for n in names)):
            if any(len(line) != len(names) for line in lines[1:]):
                raise Malformed(f"expected CSV with {len(names)} cells a line, as many as in its header")
            # A column without a name counts the rows.
            return [{n: _cell(cell) for n, cell in zip(names, line, strict=True) if n} for line in lines[1:]]
    return [[_cell(cell) for cell in line] for line in lines]


def _cell(text: str) -> float | str:
    found = None if text.rstrip().endswith("%") else number(text)
    return text.strip() if found is None else found


def _array(content: bytes) -> Any:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # numpy reads the header as Python, with every error of that
        found = None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise Malformed(f"expected an array of numbers in NumPy's format, got {len(content)} bytes that are none")
    return found.tolist()


def _message(content: bytes) -> Any:
    try:
        return msgpack.unpackb(content, strict_map_key=False, object_pairs_hook=distinct)
    except Exception:  # of msgpack, and of dates beyond Python's
        raise Malformed(f"expected MessagePack, got {len(content)} bytes that are none") from None


def _xml(content: bytes) -> dict[str, Any]:
    """Elements as maps: attributes as ``@name``, text as ``text``, children by name, a list of those that share one."""
    try:
        root = fromstring(content, forbid_dtd=True)
        return {_local(root.tag): _element(root)}
    except Exception:  # of expat, of defusedxml, and of encodings
        raise Malformed("expected plain XML (no document type, a sane depth), got something else") from None


def _element(element: Any) -> Any:
    found: dict[str, Any] = {f"@{_local(name)}": value for name, value in element.attrib.items()}
    children: dict[str, list[Any]] = {}
    for child in element:
        children.setdefault(_local(child.tag), []).append(_element(child))
    found |= {name: values[0] if len(values) == 1 else values for name, values in children.items()}
    text = _cell(element.text or "")
    if not found:
        return text
    return found | ({"text": text} if text != "" else {})


def _local(name: str) -> str:
    """Without its namespace."""
    return name.rpartition("}")[2]


def _events(text: str) -> list[dict[str, Any]]:
    """Server-sent events as ``{event, data}``, data parsed where it is JSON."""
    out = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields: dict[str, Any] = {"event": "message", "data": ""}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            if name == "data":
                fields["data"] = f"{fields['data']}\n{value.removeprefix(' ')}".lstrip("\n")
            elif name == "event":
                fields["event"] = value.strip()
        if fields["data"]:
            with contextlib.suppress(ValueError, RecursionError):
                fields["data"] = json.loads(fields["data"], object_pairs_hook=distinct)
            out.append(fields)
    return out
