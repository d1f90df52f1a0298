"""Operators on constants of the size that exporters leave in a file are computed when it is read, not refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fimaudit.bounds.importers.onnx_cost import products_of_einsum
from fimaudit.bounds.importers.onnx_file import graph_of_proto
from fimaudit.bounds.importers.onnx_folding import TimeLeft, fold

NUMBERS = np.random.default_rng(0).uniform(0.1, 1.0, (200, 200)).astype(np.float32)
SIGMOID = 1 / (1 + np.exp(-NUMBERS))
ROWS, NOWHERE = np.arange(200)[::-1, None], np.ones(0, np.float32)
TABLE = np.ones((1, 768, 14, 14), np.float32)
DEEP = NUMBERS[:, :180].reshape(1, 4, 90, 100)

#: Operator, what it reads, attributes, what it makes: all above the 2**14 numbers that were once computed.
HONEST: list[tuple[str, Sequence[np.ndarray], dict[str, Any], np.ndarray]] = [
    ("Sigmoid", [NUMBERS], {}, SIGMOID),
    ("Softplus", [NUMBERS], {}, np.log1p(np.exp(NUMBERS))),
    ("LeakyRelu", [-NUMBERS], {"alpha": 0.5}, -NUMBERS / 2),
    ("Erf", [NUMBERS * 0], {}, NUMBERS * 0),
    ("IsNaN", [NUMBERS], {}, np.zeros((200, 200), bool)),
    ("ArgMax", [NUMBERS], {"keepdims": 0}, NUMBERS.argmax(0)),
    ("LogSoftmax", [NUMBERS], {}, NUMBERS - np.log(np.exp(NUMBERS).sum(1, keepdims=True))),
    ("Hardmax", [NUMBERS], {}, NUMBERS.max(1, keepdims=True) == NUMBERS),
    ("ReduceSumSquare", [NUMBERS], {"axes": [1], "keepdims": 0}, (NUMBERS**2).sum(1)),
    ("ReduceLogSumExp", [NUMBERS], {"axes": [1], "keepdims": 0}, np.log(np.exp(NUMBERS).sum(1))),
    ("LpNormalization", [NUMBERS], {}, NUMBERS / np.linalg.norm(NUMBERS, axis=1, keepdims=True)),
    ("Einsum", [NUMBERS, NUMBERS], {"equation": "ij,kj->ik"}, NUMBERS @ NUMBERS.T),
    ("GatherND", [NUMBERS, ROWS], {}, NUMBERS[::-1]),
    ("GatherElements", [NUMBERS, np.repeat(ROWS, 200, 1)], {"axis": 0}, NUMBERS[::-1]),
    ("GatherElements", [NUMBERS, np.full((200, 3), -1)], {"axis": 1}, np.repeat(NUMBERS[:, -1:], 3, 1)),
    ("ScatterND", [NUMBERS, ROWS, NUMBERS], {}, NUMBERS[::-1]),
    ("ScatterElements", [NUMBERS, np.repeat(ROWS, 200, 1), NUMBERS], {"axis": 0}, NUMBERS[::-1]),
    ("DepthToSpace", [DEEP], {"blocksize": 2}, DEEP.reshape(2, 2, 90, 100).transpose(2, 0, 3, 1).reshape(1, 1, 180, 200)),
    ("Resize", [TABLE, NOWHERE, np.array([1, 1, 1, 1], np.float32)], {"mode": "linear"}, TABLE),
    ("Resize", [TABLE, NOWHERE, np.array([1, 1, 2, 2], np.float32)], {"mode": "cubic"}, np.ones((1, 768, 28, 28))),
    ("BatchNormalization", [NUMBERS[None], *[np.full(200, v, np.float32) for v in (1, 0, 0.5, 1)]], {}, NUMBERS[None] - 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "arrays", "attributes", "truth"), HONEST, ids=[case[0] for case in HONEST])
def test_constants_of_honest_files_are_computed(
    operator: str, arrays: Sequence[np.ndarray], attributes: dict[str, Any], truth: np.ndarray
) -> None:
    names = [f"c{i}" for i in range(len(arrays))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    made = fold(node, dict(zip(names, arrays, strict=True)), {"": 17}, TimeLeft())[0]
    assert np.allclose(np.asarray(made, float), truth, atol=2e-5)


def test_weights_standardised_by_a_batch_norm_are_read() -> None:
    # as timm's StdConv2d is exported
    weights = {
        "w": np.random.default_rng(0).random((1, 64, 576)).astype(np.float32),
        "one": np.ones(64, np.float32),
        "zero": np.zeros(64, np.float32),
        "shape": np.array([64, 64, 3, 3]),
    }
    nodes = [
        helper.make_node("BatchNormalization", ["w", "one", "zero", "zero", "one"], ["even"]),
        helper.make_node("Reshape", ["even", "shape"], ["kernel"]),
        helper.make_node("Conv", ["x", "kernel"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 14, 14])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    node = graph_of_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), None, 1.0, {})
    assert (node.op, node.shape) == ("conv", (1, 64, 12, 12))


@pytest.mark.parametrize(
    ("equation", "shapes", "products"),
    [("ij,jk->ik", [(2, 3), (3, 5)], 30), ("...ij, ...jk -> ...ik", [(7, 2, 3), (1, 3, 5)], 210), ("ii", [(4, 4)], 4)],
)
def test_multiplications_of_an_einsum(equation: str, shapes: list[tuple[int, ...]], products: int) -> None:
    names = [f"c{i}" for i in range(len(shapes))]
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    assert products_of_einsum(node, [np.ones(shape) for shape in shapes]) == products
