"""A second input of the model with a value for each audited input: every audit beside the one by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from fimaudit import audit
from fimaudit.errors import DataError, TargetError

RNG = np.random.default_rng(0)
IMAGES = RNG.random((5, 1, 4, 4), dtype=np.float32)
META = RNG.normal(size=(5, 2)).astype(np.float32)
MASK = RNG.integers(0, 2, (5, 16))


class Two(nn.Module):
    """An image, the patient's numbers, and a mask of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.meta, self.out = nn.Linear(16, 8), nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, image: torch.Tensor, meta: torch.Tensor, mask: torch.Tensor) -> Any:
        assert mask.dtype == torch.int64
        return self.out(torch.tanh(self.image(image.flatten(1) * mask) + 2 * self.meta(meta))) * 3


@pytest.mark.parametrize("mode", ["white-box", "black-box"])
def test_each_input_beside_its_own_values(mode: Any) -> None:
    network = Two().eval()
    alone = [
        audit(network, IMAGES[i : i + 1], link="softmax", mode=mode, input="image", hold={"meta": META[i], "mask": MASK[i]})
        for i in range(5)
    ]
    report = audit(network, IMAGES, link="softmax", mode=mode, input="image", hold={"meta": META, "mask": MASK})
    assert report.data["held_by_input"] == ["meta", "mask"]
    assert report.data["shape"] == [1, 4, 4]
    assert report.domain["features"] == 16
    assert report.domain["frozen"] == []
    for i, one in enumerate(alone):
        first, apart = one.inputs[0], 1e-3 if mode == "white-box" else 0.5
        assert report.inputs[i].probability == pytest.approx(first.probability)
        assert report.inputs[i].spectral_norm.value == pytest.approx(first.spectral_norm.value, rel=apart)


def test_one_value_each_or_one_for_all_is_asked_back() -> None:
    with pytest.raises(DataError, match="one for each, or the same for all"):
        audit(Two().eval(), IMAGES, link="softmax", input="image", hold={"meta": np.zeros(5), "mask": MASK[0]})
    with pytest.raises(DataError, match="got NaN"):
        audit(Two().eval(), IMAGES, link="softmax", input="image", hold={"meta": META * np.nan, "mask": MASK})
    with pytest.raises(TargetError, match="forward has no argument 'metta'"):
        audit(Two().eval(), IMAGES, link="softmax", input="image", hold={"metta": META, "meta": META[0], "mask": MASK[0]})


class Pictured(nn.Module):
    """A colour image and the patient's numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.meta, self.out = nn.Linear(48, 8), nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> Any:
        return self.out(torch.tanh(self.image(image.flatten(1)) + 2 * self.meta(meta))) * 3


def test_images_in_memory_and_in_files_beside_their_own_values(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    for place, picture in enumerate(pictures):
        picture.save(tmp_path / f"{place}.png")
    arrays = np.moveaxis(pixels, -1, 1).astype(np.float32) / 255
    options: dict[str, Any] = {"link": "softmax", "input": "image", "hold": {"meta": META}, "lower": 0, "upper": 1}
    first = audit(Pictured().eval(), arrays, **options)
    for x in (pictures, str(tmp_path / "*.png")):
        report = audit(Pictured().eval(), x, **options)
        assert report.inputs == first.inputs
        assert report.domain == first.domain
        assert report.data["held_by_input"] == ["meta"]


def test_columns_and_arrays_beside_a_table_in_parts(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [0.0, 0.5, 1.0, 0.3], "sex": ["m", "m", "f", "m"], "b": [0.2, 0.1, 0.9, 0.4]})
    for k in range(2):
        table[2 * k : 2 * k + 2].to_csv(tmp_path / f"{k}.csv", index=False)
    options: dict[str, Any] = {"link": "softmax", "scale": "raw", "input": "x", "queries": 16}
    first = audit(two_inputs(), table, hold={"s": "column:sex"}, **options)
    parts = audit(two_inputs(), str(tmp_path / "*.csv"), hold={"s": "column:sex"}, out=tmp_path / "run", **options)
    assert [s.model_dump() for s in parts.inputs] == [s.model_dump() for s in first.inputs]
    assert parts.data["feature_names"] == first.data["feature_names"] == ["a", "b"]
    sexes = table[["sex"]].to_numpy(dtype=str)
    apart = audit(two_inputs(), table[["a", "b"]].to_numpy(), hold={"s": sexes}, **options)
    assert [s.probability for s in apart.inputs] == [s.probability for s in first.inputs]
    (tmp_path / "1.csv").write_text("a,sex,b\n1.0,,0.9\n0.3,m,0.4\n")
    gaps = audit(two_inputs(), str(tmp_path / "*.csv"), hold={"s": "column:sex"}, **options)
    assert {s.index: s.reason for s in gaps.inputs if s.status == "failed"} == {
        2: "a value to hold beside this input is missing or infinite"
    }
    with pytest.raises(DataError, match="the column 'gender', but the data has a, sex, b"):
        audit(two_inputs(), str(tmp_path / "*.csv"), hold={"s": "column:gender"}, **options)


def two_inputs() -> onnx.ModelProto:
    """p = softmax(x W + 3 s), s a string input looked up as 0 or 1."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node(
            "LabelEncoder", ["s"], ["k"], domain="ai.onnx.ml", keys_strings=["f", "m"], values_floats=[0.0, 1.0]
        ),
        helper.make_node("MatMul", ["x", "W"], ["z"]),
        helper.make_node("Mul", ["k", "b"], ["kb"]),
        helper.make_node("Add", ["z", "kb"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), "W"),
        numpy_helper.from_array(np.array([[3.0, 0.0]], np.float32), "b"),
    ]
    inputs = [value("x", TensorProto.FLOAT, ["N", 2]), value("s", TensorProto.STRING, ["N", 1])]
    graph = helper.make_graph(nodes, "two", inputs, [value("y", TensorProto.FLOAT, ["N", 2])], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_a_column_of_the_table_held_by_an_onnx_model() -> None:
    table = pd.DataFrame({"a": [0.0, 0.5, 1.0], "sex": ["f", "m", "f"], "b": [0.2, 0.1, 0.9]})
    report = audit(two_inputs(), table, link="softmax", scale="raw", input="x", hold={"s": "column:sex"}, queries=16)
    z = table[["a", "b"]].to_numpy() + np.array([[3.0, 0.0]]) * (table.sex == "m").to_numpy()[:, None]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert [s.probability for s in report.inputs] == pytest.approx(p.max(axis=1).tolist(), rel=1e-5)
    with pytest.raises(DataError, match="the column 'gender', but the data has a, sex, b"):
        audit(two_inputs(), table, link="softmax", input="x", hold={"s": "column:gender"})


def test_a_state_whose_batch_is_not_its_first_axis() -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceSum", ["state", "axes"], ["s"], keepdims=0),
        helper.make_node("MatMul", ["x", "W"], ["z"]),
        helper.make_node("Add", ["z", "s"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.eye(3, dtype=np.float32), "W"),
        numpy_helper.from_array(np.array([0], np.int64), "axes"),
    ]
    inputs = [value("x", TensorProto.FLOAT, ["N", 3]), value("state", TensorProto.FLOAT, [2, "N", 3])]
    graph = helper.make_graph(nodes, "state", inputs, [value("y", TensorProto.FLOAT, ["N", 3])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x, state = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=(2, 1, 3)).astype(np.float32)
    z = x + state.sum(axis=0)
    top = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).max(axis=1)
    report = audit(model, x, link="softmax", input="x", hold={"state": state}, queries=16)
    assert [s.probability for s in report.inputs] == pytest.approx(top.tolist(), rel=1e-5)
    assert report.model["details"]["batch"] == "dynamic"


def test_one_input_a_column(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pd.DataFrame({"age": RNG.normal(50, 9, 80), "sex": RNG.choice(["f", "m"], 80), "dose": RNG.normal(1, 0.2, 80)})
    y = np.array([3, 9])[((table.age > 50) ^ (table.sex == "m")).astype(int)]
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("n", StandardScaler(), ["age", "dose"]), ("w", words, ["sex"])])
    model = make_pipeline(columns, LogisticRegression()).fit(table, y)
    kinds = [("age", FloatTensorType([None, 1])), ("sex", StringTensorType([None, 1])), ("dose", FloatTensorType([None, 1]))]
    exported = to_onnx(model, initial_types=kinds, options={"zipmap": False})
    asked = table[["dose", "sex", "age"]][:6]
    plain = audit(model, asked, y=y[:6], scale="std", queries=40)
    report = audit(exported, asked, y=y[:6], scale="std", queries=40)
    assert report.model["class_names"] == plain.model["class_names"] == ["3", "9"]
    for a, b in zip(plain.inputs, report.inputs, strict=True):
        assert (a.label, a.predicted_class) == (b.label, b.predicted_class)
        assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=2e-2)


def test_a_column_of_whole_numbers_takes_no_fraction_and_no_gap() -> None:
    nodes = [
        helper.make_node("Cast", ["stage"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["age", "number"], ["both"], axis=1),
        helper.make_node("Softmax", ["both"], ["p"]),
    ]
    kinds = {"age": TensorProto.FLOAT, "stage": TensorProto.INT64}
    ports = [helper.make_tensor_value_info(name, kind, ["N", 1]) for name, kind in kinds.items()]
    answer = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", ports, [answer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    table = pd.DataFrame({"age": RNG.normal(size=5), "stage": np.arange(5.0)})
    assert audit(model, table, queries=16, scale="raw").domain["frozen"] == [1]
    gap = audit(model, table.assign(stage=[0.0, np.nan, 2, 3, 4]), queries=16, scale="raw").inputs[1]
    assert gap.status == "failed"
    assert "int64 in column 'stage', in which nothing can be missing" in str(gap.reason)
    with pytest.raises(TargetError, match=r"in which 0\.5 has no place"):
        audit(model, table.assign(stage=table.stage + 0.5), queries=16, scale="raw")
    with pytest.raises(DataError, match="takes int64 in column 'stage', but the data has text"):
        audit(model, table.assign(stage=list("abcde")), queries=16, scale="raw")
