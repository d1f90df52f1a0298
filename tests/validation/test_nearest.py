"""What radii from labels are compared with: an ONNX file's derivatives, and the nearest counterexample that they lead to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx import numpy_helper as numbers
from torch import nn

from benchmarks._ddn import ddn
from benchmarks._nearest import nearest_counterexamples
from benchmarks._onnx_network import OnnxNetwork

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def saved(path: Path) -> Path:
    """A small network of one input at a time, as others export theirs."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numbers.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Constant", [], ["shape"], value=numbers.from_array(np.array([1, -1]), "shape")),
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "kernel", "bias"], ["maps"], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Relu", ["maps"], ["kinked"]),
        helper.make_node("MaxPool", ["kinked"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "second"], ["again"], auto_pad="SAME_UPPER"),
        helper.make_node("Transpose", ["again"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["turned", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "offset"], ["y"], transB=1, alpha=0.5),
    ]
    kept = [
        constant("scale", 1), constant("kernel", 3, 2, 3, 3), constant("bias", 3), constant("second", 2, 3, 3, 3),
        constant("weights", 4, 18), constant("offset", 4),
    ]  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 2, 6, 6]), ("y", [1, 4]))
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), path)
    return path


def test_a_file_answers_as_onnx_runtime_and_has_derivatives(tmp_path: Path) -> None:
    path = saved(tmp_path / "small.onnx")
    x = np.random.default_rng(1).random((5, 2, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(path)
    expected = np.concatenate([session.run(None, {"x": one[None]})[0] for one in x])
    at = torch.tensor(x, requires_grad=True)
    found = OnnxNetwork(path)(at)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), at)
    assert slope.shape == x.shape
    assert bool((slope != 0).any())


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Erf", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "one", ends[:1], ends[1:])), tmp_path / "erf.onnx")
    with pytest.raises(ValueError, match="Erf"):
        OnnxNetwork(tmp_path / "erf.onnx")


class Flat(nn.Module):
    """Another class beyond x_0 = 0.6, in steep steps of width 0.01 that are flat elsewhere: no gradient at the inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 2) outputs."""
        beyond = torch.relu(x[:, 0] - 0.55) - 0.05
        return torch.stack([torch.zeros_like(beyond), 10 * beyond], dim=1)


def test_the_search_comes_back_from_other_inputs_where_gradients_vanish() -> None:
    x = np.random.default_rng(0).random((8, 3)).astype(np.float32)
    x[:4, 0], x[4:, 0] = 0.2, 0.9
    assert np.isinf(ddn(Flat(), x[:4], 0.0, 1.0)).all()
    np.testing.assert_allclose(nearest_counterexamples(Flat(), x), abs(x[:, 0] - 0.6), rtol=0.03)


def test_the_nearest_of_many_planes_is_found() -> None:
    torch.manual_seed(0)
    network = nn.Linear(20, 4).requires_grad_(False)
    network.bias.copy_(-0.5 * network.weight.sum(dim=1))  # all planes near the middle of the box
    x = (0.5 + 0.05 * np.random.default_rng(2).standard_normal((6, 20))).astype(np.float32)
    with torch.no_grad():
        scores = network(torch.tensor(x)).numpy()
    top, weights = scores.argmax(1), network.weight.numpy()
    gaps = scores[np.arange(6), top][:, None] - scores
    apart = np.linalg.norm(weights[top][:, None] - weights, axis=2)
    radii = np.where(apart > 0, gaps / np.where(apart > 0, apart, 1), np.inf).min(axis=1)
    assert radii.max() < 0.3  # no box in the way
    np.testing.assert_allclose(nearest_counterexamples(network, x), radii, rtol=0.02)
