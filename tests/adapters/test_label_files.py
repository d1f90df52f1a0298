"""Files whose answer is a class: ONNX outputs of whole numbers and of text, beside probabilities or alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from fimaudit import audit, open_classifier
from fimaudit.errors import TargetError
from fimaudit.models.labels import top_classes

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])


@pytest.mark.parametrize("labels", [Y, NAMES[Y]], ids=["numbers", "text"])
def test_estimators_saved_as_onnx_answer_with_their_label(labels, tmp_path):
    model = LogisticRegression(max_iter=500).fit(X, labels)
    path = tmp_path / "iris.onnx"
    path.write_bytes(to_onnx(model, X[:1], options={"zipmap": False}).SerializeToString())
    classifier = open_classifier(str(path), "labels")
    codes = top_classes(classifier.probabilities(X))
    texts = classifier.info.details["label_texts"]
    assert classifier.info.details["output"] == "label"
    assert [texts.get(int(code), int(code)) for code in codes] == model.predict(X).tolist()
    report = audit(str(path), X[::30], link="labels", queries=200)
    assert all(s.status == "ok" for s in report.inputs)


def only_labels(path: Path) -> str:
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("ArgMax", ["z"], ["k"], axis=1, keepdims=0)],
        "top",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("k", TensorProto.INT64, ["n"])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def test_a_graph_that_ends_in_argmax_is_audited_and_names_the_flag_otherwise(tmp_path):
    path = only_labels(tmp_path / "top.onnx")
    with pytest.raises(TargetError, match="link='labels'"):
        open_classifier(path)
    report = audit(path, X[::30], link="labels", queries=200)
    assert {s.method for s in report.inputs} == {"labels"}
