"""A model on its way to other processes: its files travel once, and each process opens it for itself."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fimaudit.errors import TargetError, UsageError
from fimaudit.foreign_errors import foreign
from fimaudit.models.classifier import Classifier
from fimaudit.models.links import Link
from fimaudit.models.opening import open_classifier
from fimaudit.models.python_targets import is_python_target

__all__ = ["ShippedModel", "ship_model"]


@dataclass(frozen=True)
class ShippedModel:
    """How to open a model elsewhere.

    Attributes:
        target: as for ``open_classifier``, a path where files are given; an object is pickled (bytes).
        link: likewise.
        options: likewise.
        files: path to the handle of its bytes (``ship_model``), its size and the first digits of its SHA-256.
        paths: where the driver finds modules; what of it exists elsewhere too is searched there.
    """

    target: Any
    link: Link
    options: Mapping[str, Any]
    files: Mapping[str, tuple[Any, int, str]]
    paths: tuple[str, ...]

    def open(self, fetch: Callable[[Any], bytes]) -> Classifier:
        """Open the model here; files that are not here under their own path are written to a temporary folder, once.

        A file counts as here when its path exists and has its size. An object is unpickled, which runs what it says.

        Args:
            fetch: from a handle to its bytes.

        Raises:
            TargetError: as ``open_classifier``, or the object does not unpickle here.
        """
        sys.path.extend(path for path in self.paths if path not in sys.path and os.path.exists(path))
        target, options = self.target, dict(self.options)
        if isinstance(target, bytes):
            target = _unpickled(target)
        if self.files and not all(_is_present(path, size) for path, (_, size, _) in self.files.items()):
            moved = self._unpacked(fetch)
            target = moved.get(str(target), target)
            if options.get("weights") is not None:
                options["weights"] = moved.get(str(options["weights"]), options["weights"])
        return open_classifier(target, self.link, **options)

    def _unpacked(self, fetch: Callable[[Any], bytes]) -> dict[str, str]:
        """Paths there to paths here; files of one folder stay together, as external weights need."""
        mark = hashlib.sha256("".join(digest for _, _, digest in self.files.values()).encode()).hexdigest()[:16]
        place = Path(tempfile.gettempdir()) / f"fimaudit-model-{mark}"
        base = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in self.files])
        out = {}
        for path, (handle, size, _) in self.files.items():
            copied = place / os.path.relpath(os.path.abspath(path), base)
            if not _is_present(str(copied), size):
                copied.parent.mkdir(parents=True, exist_ok=True)
                beside = copied.with_name(f"{copied.name}.{os.getpid()}.tmp")
                beside.write_bytes(fetch(handle))
                beside.replace(copied)
            out[path] = str(copied)
        return out


def ship_model(
    target: object, link: Link, options: Mapping[str, Any], put: Callable[[bytes], Any], external: Mapping[str, Any]
) -> ShippedModel:
    """Prepare a model for other processes: read its files, or pickle it.

    Args:
        target, link, options: as for ``open_classifier``.
        put: takes bytes and returns a small handle that pickles.
        external: names of files beside the model's own that it needs (an ONNX model's weights).

    Raises:
        UsageError: an object that cannot be sent to another process.
        ModuleNotFoundError: an object, and ray is not installed.
        OSError: a file that cannot be read.
    """
    target = os.fspath(target) if isinstance(target, os.PathLike) else target
    files: dict[str, tuple[Any, int, str]] = {}
    if isinstance(target, str):
        target = os.path.abspath(target) if is_python_target(target) and ".py:" in target else target
        folder = os.path.dirname(target)
        paths = [target, *(os.path.join(folder, name) for name in external)]
        paths += [os.fspath(options["weights"])] if options.get("weights") is not None else []
        for path in paths:
            if os.path.isfile(path):
                data = Path(path).read_bytes()
                files[path] = (put(data), len(data), hashlib.sha256(data).hexdigest()[:16])
    else:
        target = _pickled(target)
    return ShippedModel(target, link, dict(options), files, (os.getcwd(), *sys.path))


def _unpickled(data: bytes) -> object:
    try:
        return pickle.loads(data)
    except Exception as exc:
        raise TargetError(f"the model does not unpickle there ({foreign(exc)}); install its modules") from exc


def _pickled(target: object) -> bytes:
    try:
        data: bytes = importlib.import_module("ray.cloudpickle").dumps(target)
        return data
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError) as exc:
        raise UsageError(
            f"the model cannot be sent to other processes ({foreign(exc)}); with --engine ray give a file, "
            "package.module:factory or a URL"
        ) from exc


def _is_present(path: str, size: int) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) == size
