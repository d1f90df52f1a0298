"""Models that are named in Python code: ``package.module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from difflib import get_close_matches
from types import ModuleType
from typing import Any
from zlib import crc32

from fimaudit.errors import TargetError

__all__ = ["call_factory", "is_python_target", "named_object"]

SOURCE_SUFFIX = ".py"
#: Names of a module that are shown where the one asked for is not there.
SHOWN = 12


def is_python_target(target: str) -> bool:
    """Whether a target names something in a module or in a source file.

    >>> [is_python_target(t) for t in ("package.module:factory", "some/where/tiny.py:model", "model.onnx", "https://host/a")]
    [True, True, False, False]
    """
    module, _, attribute = target.rpartition(":")
    if module.endswith(SOURCE_SUFFIX) and "://" not in module:
        return attribute.isidentifier()
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def named_object(target: str) -> Any:
    """What a Python target names; its module is imported, from the current folder too, a file from where it lies.

    A file's own folder is searched for what it imports, as when Python runs it.

    Raises:
        TargetError: no such module, file or name, or importing it raised.
    """
    module_name, _, attribute = target.rpartition(":")
    is_file = module_name.endswith(SOURCE_SUFFIX)
    if is_file and not os.path.isfile(module_name):
        raise TargetError(f"expected Python source at {module_name!r}, but there is no such file; check the path")
    try:
        module = _from_file(module_name) if is_file else _from_name(module_name)
    except (Exception, SystemExit) as exc:
        what = "importable Python source at" if is_file else "an importable module"
        raise TargetError(f"expected {what} {module_name!r}, got {type(exc).__name__}: {exc}") from exc
    if not hasattr(module, attribute):
        own = [name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)]
        form = "path/to/file.py:name" if is_file else "package.module:factory"
        near = get_close_matches(attribute, own, 1)
        what = f"did you mean {near[0]!r}?" if near else f"write {form}"
        raise TargetError(
            f"module {module_name!r} has no attribute {attribute!r}, only {', '.join(own[:SHOWN]) or 'none'}; {what}"
        )
    return getattr(module, attribute)


def call_factory(made: Any, target: str) -> Any:
    """What a factory makes; a function that needs one argument is no factory but a model, which is asked with batches.

    Raises:
        TargetError: it raised.
    """
    if not isinstance(made, type) and _needs_one_argument(made):
        return made
    try:
        return made()
    except (Exception, SystemExit) as exc:
        raise TargetError(f"{target} was called without arguments and raised {type(exc).__name__}: {exc}") from exc


def _from_name(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _from_file(path: str) -> ModuleType:
    place = os.path.realpath(path)
    folder, name = os.path.dirname(os.path.abspath(path)), os.path.basename(path).removesuffix(SOURCE_SUFFIX)
    for known in (name, f"{name}_{crc32(place.encode())}"):  # another module may have the file's name already
        module = sys.modules.get(known)
        if module is None or os.path.realpath(getattr(module, "__file__", None) or "") == place:
            break
    if module is not None:
        return module
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(known, place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[known] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module


def _needs_one_argument(made: Any) -> bool:
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind()
    except TypeError:
        try:
            signature.bind(None)
        except TypeError:
            return False
        return True
    return False
