"""Labels mean classes by name: whatever an estimator, an ONNX file or a person calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fimaudit import audit
from fimaudit.errors import DataError, UsageError
from fimaudit.models.classes import ClassLabels, read_classes
from fimaudit.policy.gate import gate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
K = (X @ RNG.normal(size=(4, 3)) + 0.3 * RNG.normal(size=(200, 3))).argmax(axis=1)
SPELLED: dict[str, Any] = {
    "0 1 2": K,
    "1 2 3": K + 1,
    "-1 1": np.where(K == 0, -1, 1),
    "3 5 9": np.array([3, 5, 9])[K],
    "words": np.array(["benign", "other", "tumour"])[K],
    "truth": K == 0,
    "fractions that are whole": (K + 1).astype(float),
}


@pytest.mark.parametrize("spelled", SPELLED)
def test_accuracy_is_right_however_classes_are_spelled(spelled: str, tmp_path: Path) -> None:
    y = SPELLED[spelled]
    model = LogisticRegression(max_iter=1000).fit(X, y)
    report = audit(model, X[:30], y=y[:30], queries=12, profile="off", out=tmp_path / "run")
    accuracy = float(model.score(X[:30], y[:30]))
    assert np.mean([s.label == s.predicted_class for s in report.inputs]) == accuracy
    assert report.model["class_names"] == [str(c) for c in model.classes_]
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"rules:\n- {{rule: accuracy, at_least: {accuracy - 0.01}}}")
    assert gate(tmp_path / "run", policy).outcome == "pass"


@pytest.mark.parametrize(
    ("labels", "given", "words"),
    [
        ([1, 2], None, "the labels hold 2, which matches no class of the model: its 2 classes"),
        ([-1, 1], None, "hold -1"),
        (["a", "b"], None, "name them in order with classes="),
        ([0, None], None, "1 of 2 labels are missing"),
        (["a", "z"], "a,b", "the labels hold z, which matches no class of the model (a, b)"),
        ([0, 2], "a,b", "hold 2"),
        ([1.5, 0], None, "hold 1.5"),
    ],
)
def test_labels_that_match_no_class_are_refused(labels: list[Any], given: str | None, words: str) -> None:
    with pytest.raises(DataError) as refused:
        ClassLabels(names=read_classes(given), columns=2).positions(labels)
    assert words in str(refused.value)


def test_an_estimators_own_labels_are_not_taken_for_columns() -> None:
    model = LogisticRegression().fit(X, np.array(["no", "yes"])[(K > 0).astype(int)])
    with pytest.raises(DataError, match=r"the labels hold 0, 1, which matches no class of the model \(no, yes\)"):
        audit(model, X[:5], y=[0, 1, 0, 1, 1], queries=12)


def test_names_for_a_model_without_any() -> None:
    model = LogisticRegression().fit(X, K)
    plain = lambda rows: model.predict_proba(rows)  # noqa: E731
    y = np.array(["benign", "other", "tumour"])[K[:10]]
    report = audit(plain, X[:10], y=y, classes=["benign", "other", "tumour"], queries=12)
    assert [s.label for s in report.inputs] == K[:10].tolist()
    with pytest.raises(UsageError, match=r"2 classes are named .* but the model answers 3"):
        audit(plain, X[:10], classes="benign,other", queries=12)
    with pytest.raises(DataError, match="hold 7"):
        audit(plain, X[:10], y=[7] * 10, classes="a,b,c", queries=12)
    with pytest.raises(UsageError, match="the labels hold 3"):
        audit(plain, X[:10], y=[0, 1, 2, 3, 0, 0, 0, 0, 0, 0], queries=12)


def test_rows_with_a_single_1_each_are_one_hot_and_others_are_findings() -> None:
    with pytest.raises(DataError, match=r"single 1 each; give its place: y\.argmax\(1\)"):
        ClassLabels().positions([[0, 1], [1, 0]])
    with pytest.raises(DataError, match="choose one with finding=NAME"):
        ClassLabels().positions([[0, 1], [1, 1]])


def test_each_way_to_call_the_classes_has_a_name_for_every_column_that_is_shown() -> None:
    found = ClassLabels(values=(1, 2, 3), names=("a", "b"))
    with pytest.raises(UsageError, match=r"3 classes are named .* answers 2"):
        found.agree(2)
    hiding = ClassLabels(names=("a", "b"))
    hiding.agree(3, found=("a", "b", "(rest)"))
    with pytest.raises(UsageError, match=r"2 classes are named .* answers 3"):
        hiding.agree(3, found=("a", "c", "(rest)"))
