"""The same model behind each protocol and in process: the audit's estimates agree."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.errors import UsageError
from fimaudit.runs.cost import cost_of
from tests.servers import vendors

INPUTS, QUERIES = 6, 60


@pytest.fixture(scope="module")
def in_process(cancer):
    def probabilities(batch):
        return cancer.truth(np.asarray(batch))

    return audit(probabilities, cancer.rows[:INPUTS], queries=QUERIES, link="identity")


def estimates(report):
    return np.array([[s.spectral_norm.value, s.margin_radius.value, s.peak_spectral_norm.value] for s in report.inputs])


def agrees(url, in_process, cancer, tolerance, refused=0, **options):
    report = audit(url, cancer.rows[:INPUTS], queries=QUERIES, trust_env=False, **options)
    assert report.inputs[0].status == in_process.inputs[0].status == "ok"
    assert np.allclose(estimates(report), estimates(in_process), rtol=tolerance)
    assert report.summary.queries == pytest.approx(in_process.summary.queries, rel=0.5)
    planned = cost_of(INPUTS, QUERIES, features=30, classes=2)
    assert report.summary.queries <= planned.rows + refused
    assert report.summary.requests <= planned.requests


@pytest.mark.parametrize(
    ("path", "options", "tolerance"),
    [
        ("/v2/models/cancer/infer", {"binary": False, "dtype": "float64"}, 1e-6),
        ("/v1/models/cancer:predict", {}, 1e-6),
        ("/v2/models/cancer/infer", {"binary": True}, 2e-2),  # float32 inputs: displacements differ by their rounding
    ],
)
def test_kserve(kserve, in_process, cancer, path, options, tolerance):
    agrees(kserve.url + path, in_process, cancer, tolerance, **options)


def test_triton(triton, in_process, cancer):
    # It takes 64 rows at most, and refuses the first full batch.
    agrees(triton.url + "/v2/models/cancer/infer", in_process, cancer, 2e-2, refused=100)


def test_mlflow(mlflow, in_process, cancer):
    agrees(mlflow.url, in_process, cancer, 1e-6)


def test_top_k_answers_give_a_lower_bound(plain, digits):
    rows = digits.rows[:6]

    def probabilities(batch):
        return digits.truth(np.asarray(batch))

    whole = audit(probabilities, rows, queries=QUERIES, link="identity")
    top = audit(plain.url + "/classify", rows, queries=QUERIES, trust_env=False, protocol="label_scores", top_k=5)
    for full, part in zip(whole.inputs, top.inputs, strict=True):
        assert part.kind == "lower_bound"
        assert part.spectral_norm.lower <= full.spectral_norm.upper
        assert part.spectral_norm.value <= full.spectral_norm.value * 1.1
    assert top.model["details"]["top_k"] == 5
    assert set(top.model["details"]["labels"]) == {"", "(rest)", *(f"LABEL_{k}" for k in range(10))}


NAMES = ["cat", "dog", "eel"]


def top_two(asked):
    """Of three classes the two likelier ones."""
    scores = np.exp(np.array(asked.json["x"]) @ np.arange(-4.0, 5.0).reshape(3, 3).T / 5)
    shares = scores / scores.sum(axis=1, keepdims=True)
    return [[{"label": NAMES[k], "score": row[k]} for k in np.argsort(-row)[:2]] for row in shares]


def top_two_audited(names, answered=top_two, **settings):
    x = np.random.default_rng(0).normal(size=(4, 3))
    with vendors.serving({"s": answered}) as server:
        endpoint = {"request": {"x": "$rows"}, "response": "@", "kind": "probs", "trust_env": False, **settings}
        return audit(f"{server.url}/s", x, y=names, queries=40, endpoint=endpoint)


@pytest.mark.parametrize(
    "hides", [{"top_k": 2}, {"hidden_below": 0.02}, {}, {"other_labels": "rest"}], ids=["top_k", "hidden", "unsaid", "rest"]
)
def test_declared_labels_name_the_classes_of_answers_that_hide_some(hides):
    """The answers have a column more than ``labels``: what is hidden."""
    report = top_two_audited(np.array(["eel", "cat", "dog", "cat"]), labels=NAMES, **hides)
    assert report.model["class_names"] == [*NAMES, "(rest)"]
    assert [one.label for one in report.inputs] == [2, 0, 1, 0]
    assert {one.status for one in report.inputs} == {"ok"}


@pytest.mark.parametrize(("kind", "named"), [("logits", True), ("probs", False)])
def test_other_labels_beside_answers_that_hide_none(kind, named):
    """Logits, and plain numbers, have no column for what is hidden: the run was refused after its first answers."""

    def answered(asked):
        scores = np.array(asked.json["x"]) @ np.arange(-4.0, 5.0).reshape(3, 3).T / 5
        if named:
            return [[{"label": name, "score": one} for name, one in zip(NAMES, row, strict=True)] for row in scores]
        return (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).tolist()

    report = top_two_audited(np.array(["eel", "cat", "dog", "cat"]), answered, labels=NAMES, other_labels="rest", kind=kind)
    assert report.model["class_names"] == NAMES
    assert [one.label for one in report.inputs] == [2, 0, 1, 0]


def test_numbers_are_no_labels_of_classes_that_got_columns_as_they_appeared():
    with pytest.raises(UsageError, match=r"calls its classes .*cat.* say so with labels"):
        top_two_audited(np.array([0, 1, 2, 0]), top_k=2)
