"""Answers that are not one plain distribution: masked classes, independent findings, votes, positions in a table."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from torch import nn

from fimaudit import audit, open_classifier
from fimaudit.errors import LinkError, OutputError, TargetError
from fimaudit.models.links import to_probabilities

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6)).astype(np.float32)


class Masked(nn.Module):
    """Five classes, the last of which does not apply."""

    def __init__(self, *, inside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.inside = nn.Linear(6, 5), inside

    def forward(self, x: torch.Tensor) -> Any:
        z = self.linear(x).masked_fill(torch.tensor([False] * 4 + [True]), float("-inf"))
        return torch.softmax(z, 1) if self.inside else z


@pytest.mark.parametrize("mode", ["white-box", "black-box"])
def test_a_masked_class_has_no_probability(mode: Any) -> None:
    inside = audit(Masked(inside=True).eval(), X, link="identity", mode=mode)
    outside = audit(Masked(inside=False).eval(), X, link="softmax", mode=mode)
    for a, b in zip(inside.inputs, outside.inputs, strict=True):
        assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=1e-3)
        assert a.peak_spectral_norm.value == pytest.approx(b.peak_spectral_norm.value, rel=1e-2)


def test_what_no_mask_can_be_is_refused() -> None:
    for row in ([np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]):
        with pytest.raises(OutputError, match="expected finite numbers"):
            to_probabilities(np.array([row]), "softmax", rows=1)


class Findings(nn.Module):
    """Four findings that do not exclude each other, as logits or as probabilities."""

    def __init__(self, *, logits: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.logits = nn.Linear(6, 4), logits

    def forward(self, x: torch.Tensor) -> Any:
        z = self.linear(x)
        return z if self.logits else torch.sigmoid(z)


@pytest.mark.parametrize("mode", ["white-box", "black-box"])
def test_one_finding_against_its_complement(mode: Any) -> None:
    truth = nn.Linear(6, 1)
    with torch.no_grad():
        truth.weight[:], truth.bias[:] = Findings(logits=True).linear.weight[2:3], Findings(logits=True).linear.bias[2:3]
    wanted = audit(truth.eval(), X, link="sigmoid", mode=mode)
    names = ["cardiomegaly", "edema", "mass", "nodule"]
    for network, link in ((Findings(logits=True), "sigmoid"), (Findings(logits=False), "identity")):
        found = audit(network.eval(), X, link=link, mode=mode, finding="mass", classes=names, y=["mass"] * 5)
        assert found.model["class_names"] == ["not mass", "mass"]
        for a, b in zip(wanted.inputs, found.inputs, strict=True):
            assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=1e-2)
            assert b.label == 1


def test_findings_are_no_distribution_and_softmax_is_no_way_out() -> None:
    with pytest.raises(LinkError, match=r"multi-label\) are no distribution; .* finding=NAME") as refused:
        audit(Findings(logits=False).eval(), X)
    assert "softmax" not in str(refused.value)
    report = audit(Findings(logits=False).eval(), X, link="softmax")
    assert any("as probabilities do and logits hardly ever" in warning for warning in report.warnings)
    with pytest.raises(TargetError, match="expected finding= with a position"):
        audit(Findings(logits=True).eval(), X, link="sigmoid", finding="mass")
    with pytest.raises(OutputError, match="several columns to take finding=9 of"):
        audit(Findings(logits=True).eval(), X, link="sigmoid", finding=9)


def test_an_estimator_of_several_labels() -> None:
    x = RNG.normal(size=(80, 4))
    y = (x @ RNG.normal(size=(4, 3)) > 0).astype(int)
    model = OneVsRestClassifier(LogisticRegression()).fit(x, y)
    with pytest.raises(TargetError, match="choose one label with finding=NAME"):
        audit(model, x[:5])
    report = audit(model, x[:5], finding=1)
    alone = audit(model.estimators_[1], x[:5])
    assert [s.probability for s in report.inputs] == pytest.approx([s.probability for s in alone.inputs])


@pytest.mark.parametrize("trees", [10, 100])
def test_votes_are_no_rounding(trees: int) -> None:
    x = RNG.normal(size=(200, 5))
    model = RandomForestClassifier(trees, random_state=0).fit(x, x[:, 0] + x[:, 1] > 0)
    report = audit(model, x[:6], queries=60)
    assert report.model["preflight"]["output_quantum"] == 0
    assert not any("rounded" in warning for warning in report.warnings)
    assert not any("rounding" in (s.reason or "") for s in report.inputs)


def token_model() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0),
    ]
    table = numpy_helper.from_array(RNG.normal(size=(50, 3)).astype(np.float32), "table")
    inputs = [value("input_ids", TensorProto.INT32, ["N", 4])]
    graph = helper.make_graph(nodes, "text", inputs, [value("y", TensorProto.FLOAT, ["N", 3])], [table])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_token_ids_are_refused() -> None:
    ids = RNG.integers(0, 50, (4, 4))
    with pytest.raises(TargetError, match="positions in a table"):
        audit(token_model(), ids, link="softmax")
    text = nn.Sequential(nn.Embedding(50, 3), nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(TargetError, match="positions in a table"):
        audit(text, ids, link="softmax")


def test_a_cache_keeps_a_model_as_links_to_one_store(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])], "linear",
        [value("x", TensorProto.FLOAT, ["N", 6])], [value("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(RNG.normal(size=(6, 3)).astype(np.float32), "W")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    flat, store, snapshot = (tmp_path / name for name in ("flat", "blobs", "snapshot"))
    for folder in (flat, store, snapshot):
        folder.mkdir()
    onnx.save_model(model, flat / "m.onnx", save_as_external_data=True, location="m.onnx_data", size_threshold=0)
    for name in ("m.onnx", "m.onnx_data"):
        data = (flat / name).read_bytes()
        blob = store / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).symlink_to(Path("..") / "blobs" / blob.name)
    linked, plain = (open_classifier(str(folder / "m.onnx"), "softmax") for folder in (snapshot, flat))
    np.testing.assert_array_equal(linked.probabilities(X), plain.probabilities(X))


def test_a_program_for_a_range_of_rows_has_no_fixed_batch() -> None:
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(nn.Linear(6, 3).eval(), (torch.zeros(8, 6),), dynamic_shapes=({0: rows},))
    assert open_classifier(program, "softmax").info.notes == ()
