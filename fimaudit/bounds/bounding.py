"""``lipschitz_bound``: from a module, an exported program or an ONNX file to a certified constant."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fimaudit.bounds.graph.ir import Node
from fimaudit.bounds.result import LipschitzBound, bound_of
from fimaudit.errors import MissingExtraError, TargetError, UsageError

__all__ = ["lipschitz_bound"]


def lipschitz_bound(
    model: Any,
    *,
    input_shape: Sequence[int] | None = None,
    input_bound: float | None = None,
    hold: Mapping[str, Any] | None = None,
) -> LipschitzBound:
    """Certified upper bound L_z on the Lipschitz constant of a classifier's logits, from its weights alone.

    ||z(x) - z(y)||_2 <= L_z ||x - y||_2, hence lambda_max(F(x)) <= c(p) L_z^2 <= L_z^2 / 2 for the input-space Fisher
    information F,
    by one recursion over the graph: linear = its norm times the input's constant, add = sum, concat = root of the sum
    of squares. A final softmax (or sigmoid of one logit) is left off.

    Args:
        model: a torch module, a ``torch.export`` program, or a path to a .onnx or .pt2 file.
        input_shape: of one input, without the batch axis. A module needs it unless its first layer is dense or it has an
            attribute ``input_shape``; files usually hold it.
        input_bound: the largest ``|feature|`` of an input, where the network multiplies or attends to tensors that no
            norm bounds; the result then holds for such inputs only and says so.
        hold: values of further ONNX inputs that are held constant, by name.

    Returns:
        The bound with its table of layers. Norms carry an outward factor of 1e-6 against rounding.

    Raises:
        UnknownOperatorError: no constant is known for an operator; see ``register_operator``.
        UnboundedError: no global constant exists or follows.
        TargetError: not a model, not readable, or not traceable.
        MissingExtraError: torch or onnx is not installed.
        UsageError: the input's shape or bound is missing or impossible.

    Assumes the network in evaluation mode, and inputs that reach it through nothing but a fixed preprocessing.

    Source: one constant an operator, docs/bounds.md lists them with their sources; recursion as in arXiv 2606.04767.

    >>> import torch
    >>> net = torch.nn.Linear(2, 2, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> round(lipschitz_bound(net).lipschitz, 3)
    4.0
    """
    if input_bound is not None and not (0 <= input_bound < math.inf):
        raise UsageError(f"expected a finite bound on |input|, got {input_bound}")
    if input_shape is not None and not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise UsageError(f"expected an input shape of positive whole numbers, got {tuple(input_shape)}")
    started = time.perf_counter()
    peak = math.inf if input_bound is None else float(input_bound)
    output = _graph(model, input_shape, peak, hold or {})
    scope = "global" if input_bound is None else f"inputs with every |feature| <= {input_bound:g}"
    notes = [] if input_bound is None else [f"The bound is local: it holds for {scope}."]
    return replace(bound_of(output, scope, notes), seconds=time.perf_counter() - started)


def _graph(model: Any, shape: Sequence[int] | None, peak: float, hold: Mapping[str, Any]) -> Node:
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if isinstance(model, str):
        return _graph_of_file(model, shape, peak, hold)
    if type(model).__name__ == "ExportedProgram":
        from fimaudit.bounds.importers.torch_export import graph_of_program

        return graph_of_program(model, peak, shape)
    if hasattr(model, "SerializeToString") and hasattr(model, "graph"):
        from fimaudit.bounds.importers.onnx_file import graph_of_proto

        return graph_of_proto(model, shape, peak, hold)
    if hasattr(model, "named_parameters") and callable(model):
        from fimaudit.bounds.importers.torch_export import graph_of_module

        return graph_of_module(model, _shape_of_module(model) if shape is None else shape, peak)
    raise TargetError(f"expected a torch module or a path to a .onnx or .pt2 file, got {type(model).__name__}")


def _graph_of_file(path: str, shape: Sequence[int] | None, peak: float, hold: Mapping[str, Any]) -> Node:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".onnx", ".pt2"):
        raise TargetError(
            f"expected a .onnx or .pt2 file, got {path!r}: bounds need the graph and its weights, "
            "which torch.export.save and torch.onnx.export write"
        )
    if not os.path.isfile(path):
        raise TargetError(f"expected a file, but there is none at {path!r}")
    if suffix == ".pt2":
        from fimaudit.bounds.importers.torch_export import graph_of_program, load_program

        return graph_of_program(load_program(path), peak, shape)
    try:
        import onnx  # noqa: F401
    except ImportError as exc:
        raise MissingExtraError("an .onnx target", "onnx", "onnx") from exc
    from fimaudit.bounds.importers.onnx_file import graph_of_file

    return graph_of_file(path, shape, peak, hold)


def _shape_of_module(module: Any) -> tuple[int, ...]:
    declared = getattr(module, "input_shape", None)
    if declared is not None:
        return tuple(int(n) for n in declared)
    for part in module.modules():
        if next(part.children(), None) is None and next(part.parameters(), None) is not None:
            if type(part).__name__ == "Linear":
                return (int(part.in_features),)
            break
    raise UsageError(
        f"expected the shape of one input for {type(module).__name__}: say it with --input-shape, three numbers for pictures"
    )
