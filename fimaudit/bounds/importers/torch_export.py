"""From a torch module, or an exported program, to the small graph: torch.export, then one builder an ATen operator."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fimaudit.bounds.graph.ir import Node
from fimaudit.bounds.importers import aten_layers, aten_shapes
from fimaudit.bounds.importers.aten_registry import BUILDERS, AtenCall
from fimaudit.errors import MissingExtraError, TargetError, UntrustedPickleError

__all__ = ["graph_of_module", "graph_of_program", "load_program"]

OPERATOR_FILES = (aten_layers, aten_shapes)  # importing them fills BUILDERS


def graph_of_module(module: Any, input_shape: Sequence[int], peak: float) -> Node:
    """Export a module in evaluation mode on one input of this shape (without the batch axis) and read its graph."""
    import torch

    training = [part for part in module.modules() if part.training]
    first = next(module.parameters(), None)
    dtype = first.dtype if first is not None and first.dtype.is_floating_point else torch.float32
    device = first.device if first is not None else "cpu"
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros(1, *input_shape, dtype=dtype, device=device)
            program = torch.export.export(module, (example,), strict=False)
            program = _functional(program)
    except TargetError:
        raise
    except Exception as exc:
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise TargetError(
            f"torch.export could not trace {type(module).__name__} on inputs of shape {tuple(input_shape)}: {reason}"
        ) from exc
    finally:
        for part in training:
            part.training = True
    return graph_of_program(program, peak)


def load_program(path: str) -> Any:
    """Read a .pt2 file."""
    try:
        from fimaudit.bounds.importers.torch_archive import load_exported
    except ImportError as exc:
        raise MissingExtraError("a .pt2 target", "torch", "torch") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _functional(load_exported(path, trust=False))
    except UntrustedPickleError:
        raise
    except Exception as exc:
        raise TargetError(f"expected a torch.export program in {path!r}, got a file that torch cannot load") from exc


def graph_of_program(program: Any, peak: float, input_shape: Sequence[int] | None = None) -> Node:
    """Read an exported program's graph; its first output is taken."""
    reader = _Reader(program, peak, input_shape)
    for fx_node in program.graph.nodes:
        if fx_node.op == "placeholder":
            reader.placeholder(fx_node)
        elif fx_node.op == "call_function":
            reader.values[fx_node] = reader.call(fx_node)
        elif fx_node.op == "get_attr":
            reader.values[fx_node] = getattr(program.graph_module, fx_node.target)
        elif fx_node.op == "output":
            results = reader.read(fx_node.args[0])
            while isinstance(results, list | tuple):
                results = next((item for item in results if isinstance(item, Node | list | tuple)), None)
            if results is None:
                raise TargetError("the output of this network does not depend on its input")
            made: Node = results
            return made
    raise TargetError("this exported program has no output")


def _functional(program: Any) -> Any:
    """Replace in-place operators, whose results other nodes would read under the old name."""
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    mutable = any(getattr(getattr(target, "_schema", None), "is_mutable", False) for target in targets)
    return program.run_decompositions({}) if mutable else program


class _Reader:
    """Values of the graph's nodes so far: small-graph nodes where they depend on the input, tensors and numbers
    elsewhere."""

    def __init__(self, program: Any, peak: float, input_shape: Sequence[int] | None) -> None:
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.names |= getattr(signature, "inputs_to_lifted_tensor_constants", {})
        self.user_inputs = list(signature.user_inputs)
        self.stored = {**program.constants, **program.state_dict}
        self.peak, self.input_shape = peak, input_shape
        self.values: dict[Any, Any] = {}
        self.audited = False

    def placeholder(self, fx_node: Any) -> None:
        """A parameter, a buffer, the audited input, or another input."""
        if fx_node.name in self.names:
            self.values[fx_node] = self.stored[self.names[fx_node.name]]
            return
        meta = fx_node.meta["val"]
        if not hasattr(meta, "shape"):
            self.values[fx_node] = meta
            return
        shape = tuple(_number(n) for n in meta.shape)
        if self.audited:
            self.values[fx_node] = Node("held", (), shape, {}, fx_node.name)
            return
        self.audited = True
        if self.input_shape is not None:
            shape = (shape[0], *self.input_shape)
        self.values[fx_node] = Node("input", (), shape, {"peak": self.peak}, fx_node.name)

    def read(self, argument: Any) -> Any:
        """Replace the graph's nodes inside an argument by their values."""
        if isinstance(argument, list | tuple):
            return type(argument)(self.read(item) for item in argument)
        return self.values[argument] if type(argument).__name__ == "Node" and hasattr(argument, "graph") else argument

    def call(self, fx_node: Any) -> Any:
        """Run an operator on constants, or build its node."""
        import torch

        args, kwargs = self.read(fx_node.args), {key: self.read(value) for key, value in fx_node.kwargs.items()}
        if not any(_depends(item) for item in (*args, *kwargs.values())):
            with torch.no_grad():
                return fx_node.target(*args, **kwargs)
        if fx_node.target is operator.getitem:
            return args[0][args[1]]
        schema = getattr(fx_node.target, "_schema", None)
        if schema is None:
            raise TargetError(f"expected ATen operators in the exported graph, got {fx_node.target!r}")
        name = schema.name.split("::")[-1]
        named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        named |= dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        call = AtenCall(
            name, {key: _plain(value) for key, value in named.items()}, self.layer(fx_node), fx_node.meta.get("val")
        )
        if name == "size" or name == "sym_size":
            sizes = call["self"].shape
            return sizes if call.get("dim") is None else sizes[call["dim"]]
        builder = BUILDERS.get(name)
        made = builder(call) if builder is not None else call.unknown()
        return torch.as_tensor(made) if isinstance(made, np.ndarray) else made

    def layer(self, fx_node: Any) -> str:
        """The name of the layer: that of its weight, else of its module, else of the node."""
        for argument in fx_node.all_input_nodes:
            full = self.names.get(argument.name)
            if full is not None:
                return str(full.rpartition(".")[0] or full)
        stack = fx_node.meta.get("nn_module_stack") or {}
        last = list(stack.values())[-1][0] if stack else ""
        return str(last) or str(fx_node.name)


def _depends(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_depends(item) for item in value)
    return isinstance(value, Node)


def _plain(value: Any) -> Any:
    """Tensors as numpy arrays, symbolic numbers as numbers."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        return np.asarray(tensor.double() if tensor.is_floating_point() else tensor)
    return value


def _number(size: Any) -> int:
    """A dimension, or the example's value of a free one."""
    hint = getattr(getattr(size, "node", None), "hint", None)
    return int(size if isinstance(size, int) else hint if hint is not None else 1)
