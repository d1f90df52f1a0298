"""What a model's making says of its jumps: operators of an ONNX graph, classes of estimators, parts of torch modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from fimaudit import audit
from fimaudit.cli import app
from fimaudit.errors import TargetError
from fimaudit.models.opening import open_classifier

FEATURES, HIDDEN, CLASSES = 12, 16, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, FEATURES)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)


def graph(*between: Any, tail: Any = (), outputs: Any = ("p",)) -> Any:
    """x, the nodes in between (x to a), a dense layer, softmax p; further nodes and outputs."""
    weights = [
        numpy_helper.from_array(RNG.normal(size=(FEATURES, CLASSES)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    nodes = [*between, helper.make_node("MatMul", ["a", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    kinds = {"p": TensorProto.FLOAT, "label": TensorProto.INT64}
    made = helper.make_graph(
        [*nodes, *tail],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info(name, kinds[name], ["n", CLASSES] if name == "p" else ["n"]) for name in outputs],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


PLAIN = helper.make_node("Identity", ["x"], ["a"])
ROUGH = {
    "rounding": ((helper.make_node("Round", ["x"], ["a"]),), "rounded inside"),
    "quantised activations": (
        (
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        ),
        "few levels",
    ),
    "whole numbers": (
        (
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            helper.make_node("Cast", ["i"], ["a"], to=TensorProto.FLOAT),
        ),
        "whole numbers",
    ),
}


@pytest.mark.parametrize("name", ROUGH)
def test_a_graph_that_rounds_says_so(name: str) -> None:
    nodes, words = ROUGH[name]
    report = audit(graph(*nodes), X[:4], queries=30)
    assert words in str(report.model["not_smooth"])
    assert any(words in sentence and "answers jump" in sentence for sentence in report.warnings)


def test_what_is_not_on_the_way_to_the_answer_does_not_count() -> None:
    """A label beside the probabilities, and arithmetic on shapes."""
    label = helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0)
    model = graph(PLAIN, tail=(label,), outputs=("p", "label"))
    assert open_classifier(model, output="p").info.not_smooth is None
    assert open_classifier(graph(PLAIN)).info.not_smooth is None


ESTIMATORS: dict[str, tuple[Any, str | None]] = {
    "forest": (RandomForestClassifier(3), "piecewise constant"),
    "boosting": (HistGradientBoostingClassifier(max_iter=3), "piecewise constant"),
    "bagged trees": (BaggingClassifier(n_estimators=2), "piecewise constant"),
    "a tree in a vote": (
        VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())], voting="soft"),
        "piecewise constant",
    ),
    "neighbours in a pipeline": (make_pipeline(StandardScaler(), KNeighborsClassifier()), "neighbours"),
    "bagged regressions": (BaggingClassifier(LogisticRegression(), n_estimators=2), None),
    "regression": (LogisticRegression(), None),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_say_so_by_their_class(name: str) -> None:
    estimator, words = ESTIMATORS[name]
    said = open_classifier(estimator.fit(X, Y)).info.not_smooth
    assert said is None if words is None else words in str(said)


def quantised_weights(path: Path) -> Path:
    """Int8 weights behind DequantizeLinear, float activations: smooth as it is."""
    nodes, weights = [], []
    for name, shape in (("v", (FEATURES, HIDDEN)), ("w", (HIDDEN, CLASSES))):
        real = RNG.normal(size=shape) / 2
        scale = np.abs(real).max() / 127
        weights += [
            numpy_helper.from_array(np.round(real / scale).astype(np.int8), f"{name}_q"),
            numpy_helper.from_array(np.array(scale, np.float32), f"{name}_s"),
            numpy_helper.from_array(np.array(0, np.int8), f"{name}_z"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [name]))
    nodes += [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", CLASSES])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_inspect_tries_both_optimisations_of_quantised_weights(tmp_path: Path) -> None:
    path = quantised_weights(tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    shown = CliRunner().invoke(app, ["inspect", str(path), "--data", str(tmp_path / "x.npz"), "--json"])
    notes = json.loads(shown.stdout)["notes"]
    assert any("optimisation=off" in note for note in notes)
    plain = ["inspect", str(path), "--data", str(tmp_path / "x.npz"), "--json", "--set", "optimisation=off"]
    facts = json.loads(CliRunner().invoke(app, plain).stdout)
    assert facts["notes"] == []
    assert facts["details"]["optimisation"] == "off"


def test_the_optimisation_is_chosen_by_an_option(tmp_path: Path) -> None:
    path = str(quantised_weights(tmp_path / "m.onnx"))
    smooth = audit(path, X[:5], optimisation="off", queries=60)
    assert all(one.status == "ok" and one.kind == "local" for one in smooth.inputs)
    with pytest.raises(TargetError, match="optimisation among all, extended, basic, off"):
        open_classifier(path, optimisation="none")
