"""An ONNX file of a few hundred bytes that asks for terabytes, by a shape, an attribute or a tiny tensor, is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fimaudit.bounds.importers.onnx_file import graph_of_proto
from fimaudit.bounds.importers.onnx_folding import NotFolded, TimeLeft, fold
from fimaudit.errors import TargetError

HUGE = 2**31 - 1
#: What grows, or is huge already. Operator, what it reads beside the audited input, attributes, that input's shape, outputs.
GROWING: list[tuple[str, list[Any], dict[str, Any], tuple[int, ...], int]] = [
    ("Split", [], {"axis": 0}, (HUGE, 255), 2),
    ("Split", [[HUGE - 1, 1]], {"axis": 0}, (HUGE, 1), 2),
    ("Flatten", [], {}, (HUGE, 2, 2), 1),
    ("Reshape", [[-1]], {}, (HUGE, 255), 1),
    ("Transpose", [], {"perm": [1, 0]}, (HUGE, 255), 1),
    ("Slice", [[0], [1], [0]], {}, (HUGE, 255), 1),
    ("Expand", [[HUGE, 1, 3]], {}, (1, 3), 1),
    ("Tile", [[HUGE, HUGE]], {}, (1, 3), 1),
    ("Pad", [[0, HUGE, 0, HUGE]], {}, (1, 3), 1),
    ("Pad", [[0, HUGE, 0, HUGE]], {"mode": "edge"}, (1, 3), 1),
    ("Resize", [None, None, [1, 1, HUGE, 4]], {"mode": "nearest"}, (1, 1, 1, 4), 1),
    ("Upsample", [np.array([1, 1, 1e9, 1], np.float32)], {"mode": "nearest"}, (1, 1, 4, 4), 1),
    ("Gather", [np.zeros(2**13, np.int64)], {"axis": 0}, (2, 2**14), 1),
    ("GatherND", [np.zeros((9000, 1), np.int64)], {}, (2, 2**16), 1),
    ("GatherElements", [np.zeros((1, 2**16), np.int64)], {"axis": 1}, (2**16, 1), 1),
    ("Add", [np.zeros((2**16, 1), np.float32)], {}, (1, 2**16), 1),
    ("Mul", [np.ones((2**16, 1), np.float32)], {}, (1, 2**16), 1),
    ("MaxPool", [], {"kernel_shape": [1], "pads": [0, HUGE]}, (1, 1, 4), 1),
    ("AveragePool", [], {"kernel_shape": [2]}, (1, 1, HUGE), 1),
    ("InstanceNormalization", [[1.0], [0.0]], {}, (1, HUGE, 2), 1),
    ("LayerNormalization", [[1.0], [0.0]], {}, (1, HUGE), 1),
]


def _ones(shape: tuple[int, ...]) -> np.ndarray:
    """An array of ones in no memory."""
    return np.broadcast_to(np.float32(1), shape)


@pytest.mark.parametrize(("operator", "beside", "attributes", "shape", "outputs"), GROWING)
def test_what_moves_too_much_is_refused_before_anything_is_made(
    operator: str, beside: Sequence[Any], attributes: dict[str, Any], shape: tuple[int, ...], outputs: int
) -> None:
    model = _model(operator, beside, attributes, shape, outputs)
    with _nothing_made(), pytest.raises(TargetError, match="numbers that are moved to compute a bound"):
        graph_of_proto(model, None, 1.0, {})


def test_many_operators_that_each_make_little_are_refused() -> None:
    model = _model("Tile", [[1, 2**24]], {}, (1, 3), 1)
    model.graph.node.extend([model.graph.node[0]] * 100)
    with pytest.raises(TargetError, match="make and move more than"):
        graph_of_proto(model, None, 1.0, {})


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes", "why"),
    [
        ("ConstantOfShape", [np.array([HUGE, HUGE])], {}, "numbers of constants"),
        ("Expand", [np.ones(1), np.array([HUGE, HUGE])], {}, "numbers of constants"),
        ("Tile", [np.ones(1), np.array([2**40])], {}, "numbers of constants"),
        ("Range", [np.array(0), np.array(2**40), np.array(1)], {}, "numbers of constants"),
        ("Pad", [np.ones(1), np.array([0, 2**40])], {}, "numbers of constants"),
        ("EyeLike", [np.ones((2**15, 2**15), np.int8)], {}, "numbers of constants"),
        ("OneHot", [np.zeros(4, np.int64), np.array(2**40), np.array([0.0, 1.0])], {}, "constants"),
        ("Resize", [np.ones((1, 1, 2, 2), np.float32), np.ones(0, np.float32), np.array([1, 1, 2**13, 2**13], np.float32)],
         {"mode": "linear"}, "268,435,456 numbers of constants"),
        ("Resize", [_ones((1, 1, 1, 2**18)), np.ones(0, np.float32), np.array([1, 1, 2**18, 2**-18], np.float32)],
         {"mode": "linear"}, "68,719,476,736 numbers of constants"),
        ("Erf", [_ones((2**27,))], {}, "numbers of constants"),
        ("ScatterElements", [_ones((2**25,)), np.broadcast_to(np.int64(0), 2**25), _ones((2**25,))], {},
         "numbers of constants"),
        ("ScatterND", [_ones((1, 2**20)), np.zeros((2**14, 1), np.int64), _ones((2**14, 1))], {}, "numbers of constants"),
        ("ScatterND", [_ones((2**20,)), np.zeros((2**14, 0), np.int64), _ones((2**14,))], {}, "numbers of constants"),
        ("InstanceNormalization", [_ones((1, 1, 2**17)), *[_ones((2**17,))] * 2], {}, "17,179,869,184 numbers of constants"),
        ("LayerNormalization", [_ones((2**17, 1)), _ones((1, 2**17))], {}, "17,179,869,184 numbers of constants"),
        ("Einsum", [_ones((2**20,)), _ones((2**20,))], {"equation": "a,b->"}, "1,099,511,627,776 multiplications"),
        ("Einsum", [_ones((2**12,))] * 3, {"equation": "a,b,c->"}, "68,719,476,736 numbers of constants"),
        ("LSTM", [_ones((64, 64, 64)), _ones((1, 4, 64)), _ones((1, 4, 1))], {"hidden_size": 1}, "constants"),
        ("Conv", [np.zeros((1, 1, 64, 64), np.float32), np.zeros((64, 1, 32, 32), np.float32)], {}, "numbers of constants"),
    ],
)  # fmt: skip
def test_constants_that_grow_or_take_long_are_not_folded(
    operator: str, arrays: list[np.ndarray], attributes: dict[str, Any], why: str
) -> None:
    names = [f"c{i}" for i in range(len(arrays))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    with _nothing_made(), pytest.raises(NotFolded, match=why):
        fold(node, dict(zip(names, arrays, strict=True)), {"": 17}, TimeLeft())


def test_a_product_of_constants_that_takes_long_is_not_folded() -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    square = np.broadcast_to(np.float32(1), (2**13, 2**13))
    with pytest.raises(NotFolded, match="takes 549,755,813,888 multiplications"):
        fold(node, {"a": square, "b": square}, {"": 17}, TimeLeft())


def test_what_takes_long_in_many_operators_is_not_folded_either() -> None:
    node, numbers, left = helper.make_node("Erf", ["a"], ["y"]), np.zeros(2**16, np.float32), TimeLeft(0.05)
    fold(node, {"a": numbers}, {"": 17}, left)
    fold(node, {"a": numbers}, {"": 17}, left)
    with pytest.raises(NotFolded, match="65,536 numbers of constants, too much to compute when the file is read"):
        fold(node, {"a": numbers}, {"": 17}, left)


def test_a_refusal_to_compute_constants_does_not_call_the_file_malformed() -> None:
    model = _model("Add", [[1.0]], {}, (1, 3), 1)
    scales = numpy_helper.from_array(np.array([1, 1, 2**13, 2**13], np.float32), "scales")
    table = numpy_helper.from_array(np.ones((1, 1, 2, 2), np.float32), "table")
    model.graph.initializer.extend([scales, table])
    model.graph.node.insert(0, helper.make_node("Resize", ["table", "", "scales"], ["large"], mode="linear"))
    with pytest.raises(TargetError, match=r"operator Resize \(large\) is not folded: Resize makes .* too much to compute"):
        graph_of_proto(model, None, 1.0, {})


@contextmanager
def _nothing_made() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def _model(operator: str, beside: Sequence[Any], attributes: dict[str, Any], shape: tuple[int, ...], outputs: int) -> Any:
    weights = [numpy_helper.from_array(np.asarray(a), f"c{i}") for i, a in enumerate(beside) if a is not None]
    names = ["x", *("" if a is None else f"c{i}" for i, a in enumerate(beside))]
    made = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(operator, names, made, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=made[0])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9 if operator == "Upsample" else 17)])
