"""An ONNX file of a feed-forward network as a torch module, so that attacks have its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

__all__ = ["OnnxNetwork"]


def _symmetric(pads: list[int] | None) -> list[int]:
    half = len(pads or []) // 2
    if pads and pads[:half] != pads[half:]:
        raise ValueError(f"an ONNX node pads {pads}; the same on both sides can be read")
    return (pads or [0])[: half or 1]


def _convolve(x: Any, weight: Any, bias: Any = None, **at: Any) -> Any:
    if at.get("auto_pad", b"NOTSET") in {b"SAME_UPPER", b"SAME_LOWER"}:
        return functional.conv2d(x, weight, bias, padding="same", dilation=at.get("dilations", 1), groups=at.get("group", 1))
    pads, strides, dilations = _symmetric(at.get("pads")), at.get("strides", 1), at.get("dilations", 1)
    return functional.conv2d(x, weight, bias, strides, pads, dilations, at.get("group", 1))


def _pool(x: Any, **at: Any) -> Any:
    return functional.max_pool2d(x, at["kernel_shape"], at.get("strides"), _symmetric(at.get("pads")))


def _gemm(a: Any, b: Any, c: Any = 0.0, **at: Any) -> Any:
    a, b = (a.T if at.get("transA") else a), (b.T if at.get("transB") else b)
    return at.get("alpha", 1.0) * (a @ b) + at.get("beta", 1.0) * c


#: What each operator does: its inputs, then its attributes by name.
OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Constant": lambda value: torch.from_numpy(np.array(onnx.numpy_helper.to_array(value))),
    "Conv": _convolve,
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "MaxPool": _pool,
    "Mul": lambda a, b: a * b,
    "Relu": lambda x: functional.relu(x),
    "Reshape": lambda x, shape, allowzero=0: x.reshape([size or x.shape[i] for i, size in enumerate(shape.tolist())]),
    "Sigmoid": lambda x: torch.sigmoid(x),
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "Sub": lambda a, b: a - b,
    "Transpose": lambda x, perm: x.permute(perm),
}


class OnnxNetwork(nn.Module):
    """The network of a file that knows the ``OPERATORS`` only, for any number of inputs.

    A file often fixes a batch of one, in its reshapes too: the graph is evaluated at one input and mapped over a batch.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.graph = onnx.load(path).graph
        unknown = {node.op_type for node in self.graph.node} - OPERATORS.keys()
        if unknown:
            raise ValueError(f"{path}: derivatives of {sorted(unknown)} are not known here; {sorted(OPERATORS)} are")
        self.constants = {
            kept.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(kept))) for kept in self.graph.initializer
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, classes) outputs of (n, *shape) inputs."""
        return torch.vmap(self._one)(x)

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        (given,) = [entry.name for entry in self.graph.input if entry.name not in self.constants]
        known: dict[str, Any] = {"": None, **self.constants, given: x[None]}
        for node in self.graph.node:
            at = {kept.name: onnx.helper.get_attribute_value(kept) for kept in node.attribute}
            known[node.output[0]] = OPERATORS[node.op_type](*(known[name] for name in node.input), **at)
        return known[self.graph.output[0].name][0]
