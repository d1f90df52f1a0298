"""Opening a ``.pt2`` archive without running code that lies in it: torch's own reader unpickles, and evaluates text."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fimaudit.errors import UntrustedPickleError

__all__ = ["load_exported"]

#: Makes every ``torch.load`` below refuse all but tensors and plain containers, whatever its arguments are.
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
#: What expressions of sizes are made of, as torch writes them with ``sympy.srepr``; they are evaluated as Python.
_KNOWN = frozenset(
    re.findall(
        r"\w+",
        """
    Symbol Integer Rational Float Mul Add Pow Mod Max Min Abs Not And Or Equality Unequality StrictLessThan
    LessThan StrictGreaterThan GreaterThan Eq Ne Lt Le Gt Ge Piecewise ExprCondPair FloorDiv ModularIndexing
    PythonMod CleanDiv CeilDiv CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat
    IntTrueDiv FloatTrueDiv PowByNatural FloatPow LShift RShift BitwiseFn_bitwise_and BitwiseFn_bitwise_or Where
    Identity OpaqueUnaryFn_sqrt ceiling floor true false True False None integer positive nonnegative nonzero
    finite real precision oo int_oo zoo nan I pi E
    """,
    )
)
_SYMBOL = re.compile(r"[a-z]{1,5}\d+")
_TOKEN = re.compile(r"\s+|[()+\-*/%,=<>!&|~]|\d+(?:\.\d+)?(?:e[+-]?\d+)?|'(\w+)'|(\w+)")
_LOADING = threading.Lock()


def load_exported(path: str, trust: bool) -> Any:
    """The program in an archive of ``torch.export.save``.

    Pickles are read as tensors and plain containers only, texts that would be evaluated must be expressions of sizes, and
    the guards, which torch compiles as Python, are left out: callers check the shapes themselves.

    Args:
        path: the file.
        trust: read it as torch does.

    Raises:
        UntrustedPickleError: it holds more than that, and nobody trusts it.
        Exception: torch cannot read it.
    """
    if trust:
        return torch.export.load(path)
    odd = next((text for text in _evaluated(path) if not _is_size(text)), None)
    if odd is not None:
        raise _untrusted(path, f"an expression that may be code ({odd[:60]!r})")
    try:
        with _tensors_only():
            program = torch.export.load(path)
    except pickle.UnpicklingError as exc:
        raise _untrusted(path, "pickles of more than tensors") from exc
    if hasattr(program, "_guards_code"):
        program._guards_code = []
    return program


def _untrusted(path: str, what: str) -> UntrustedPickleError:
    return UntrustedPickleError(
        f"{path!r} holds {what}, and opening it can run any code; if you trust where it comes from, pass --trust-pickle"
    )


def _evaluated(path: str) -> Iterator[str]:
    """Every text in the archive that torch hands to sympy."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".json"):
                yield from _expressions(json.loads(archive.read(info)))


def _expressions(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "expr_str":
                yield str(value)
            else:
                yield from _expressions(value)
    elif isinstance(document, list):
        for value in document:
            yield from _expressions(value)


def _is_size(text: str) -> bool:
    """Whether an expression holds numbers, symbols and known operators only.

    >>> _is_size("Mul(Integer(2), Symbol('s77', positive=True, integer=True))"), _is_size("open('s77', 'w')")
    (True, False)
    """
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return False
        quoted, word = found.groups()
        if quoted is not None and not _SYMBOL.fullmatch(quoted) and not quoted.isdecimal():
            return False
        if word is not None and word not in _KNOWN and not _SYMBOL.fullmatch(word):
            return False
        at = found.end()
    return True


@contextmanager
def _tensors_only() -> Iterator[None]:
    with _LOADING:
        before = os.environ.get(FORCED)
        os.environ[FORCED] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[FORCED]
            else:
                os.environ[FORCED] = before
