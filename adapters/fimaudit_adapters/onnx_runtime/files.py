"""Reading an ONNX model: from a file, with its external data beside it, or from a ``ModelProto`` in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from fimaudit.errors import TargetError
from fimaudit.foreign_errors import one_line
from fimaudit_adapters.onnx_runtime.graph_facts import all_graphs
from fimaudit_adapters.options import file_fingerprint, require_file

__all__ = ["OnnxSource", "read_source", "serialised"]

#: The oldest operator set that onnxruntime has kernels for; older graphs are converted to it.
OLDEST_OPSET = 7
_EXTERNAL = 1  # TensorProto.EXTERNAL
LONGEST_LOCATION = 200


@dataclass(frozen=True)
class OnnxSource:
    """A model that was read and is a graph, not yet a session.

    Attributes:
        name: file name, or the graph's name.
        path: the file, ``None`` for a model in memory.
        proto: the ``onnx.ModelProto``; weights in external files are not loaded into it.
        sha256: of the file's bytes (of the serialised model when there is no file).
        external: SHA-256 of each external data file, by its name relative to the model's folder.
    """

    name: str
    path: str | None
    proto: Any
    sha256: str
    external: dict[str, str]

    @property
    def folder(self) -> str | None:
        """Where external data lie."""
        return None if self.path is None else os.path.dirname(os.path.abspath(self.path))

    @property
    def opset(self) -> int:
        """Version of the default operator set, 0 where the model names none."""
        return max((int(o.version) for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), default=0)


def read_source(target: Any) -> OnnxSource:
    """Read a path that ends in ``.onnx``, or take a ``ModelProto``.

    Raises:
        TargetError: missing, empty, truncated, a folder, not ONNX, or its external data are not there.
    """
    if not isinstance(target, (str, os.PathLike)):
        data = serialised(target, target.graph.name or "the model in memory")
        source = OnnxSource(target.graph.name or "onnx model", None, target, hashlib.sha256(data).hexdigest(), {})
        _require_graph(source)
        if next(_external_files(target), None) is not None:
            raise TargetError(
                "this ModelProto keeps its weights in external files, whose folder is unknown; pass the path of the model"
            )
        return source
    path = require_file(target, "an ONNX file")
    proto = _parsed(path)
    source = OnnxSource(os.path.basename(path), path, proto, file_fingerprint(path), {})
    _require_graph(source)
    for location in sorted(set(_external_files(proto))):
        source.external[location] = file_fingerprint(_external_path(source, location))
    return source


def serialised(proto: Any, name: str) -> bytes:
    """The bytes of a ``ModelProto``; protobuf stops at 2 GB."""
    try:
        return bytes(proto.SerializeToString())
    except Exception as exc:
        raise TargetError(
            f"{name} cannot be serialised ({one_line(exc, 300)}); above 2 GB, save it with external data and pass the path"
        ) from exc


def _parsed(path: str) -> Any:
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except Exception as exc:
        raise TargetError(
            f"{path!r} is no readable ONNX file: {_looks_like(path)} ({one_line(exc, 120)}); export or copy it again"
        ) from exc


def _require_graph(source: OnnxSource) -> None:
    graph = source.proto.graph
    if not source.proto.ir_version or not graph.output or not (graph.node or graph.initializer):
        what = "the model" if source.path is None else repr(source.path)
        guess = "" if source.path is None else f": {_looks_like(source.path)}"
        raise TargetError(f"{what} holds no ONNX graph{guess}; expected a model with at least one node and one output")


def _looks_like(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, fetch the model itself with git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "it looks like an HTML or XML page, as a failed download leaves it"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "it looks like a zip archive or a pickle, perhaps a torch or scikit-learn model"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "it looks like text"
    return "it is truncated, or of another format"


def _external_files(proto: Any) -> Iterator[str]:
    """Locations that the model's tensors point to, subgraphs and attributes included."""
    attributes = (a for graph in all_graphs(proto.graph) for node in graph.node for a in node.attribute)
    weights = (tensor for graph in all_graphs(proto.graph) for tensor in graph.initializer)
    for tensor in chain(weights, *([a.t, *a.tensors] for a in attributes)):
        if tensor.data_location == _EXTERNAL:
            said = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            yield said if isinstance(said, str) else ""  # bytes, where it is no UTF-8


def _external_path(source: OnnxSource, location: str) -> Path:
    # By name, not by where links lead: caches keep a model's files as links to one store.
    folder = Path(str(source.folder))
    path = Path(os.path.normpath(folder / location))
    if not location or not path.is_relative_to(folder):
        raise TargetError(f"{source.path!r} points to external data at {location!r}, outside its own folder; refused")
    if len(location) > LONGEST_LOCATION or not path.is_file():
        raise TargetError(
            f"{source.path!r} keeps weights in {location[:LONGEST_LOCATION]!r}, but {str(folder)!r} has no such file; "
            "put it beside the model"
        )
    return path
