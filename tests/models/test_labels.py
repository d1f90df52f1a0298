"""Answers that are a class: whatever they are made of, one whole number for each input, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from fimaudit import audit, open_classifier
from fimaudit.errors import LinkError, OutputError, UsageError
from fimaudit.models.labels import LabelledAs, label_codes, text_code, top_classes


@pytest.mark.parametrize(
    ("output", "codes"),
    [
        ([3, 1], [3, 1]),
        (np.array([[3], [1]], dtype=np.uint8), [3, 1]),
        ([2.0, 0.0], [2, 0]),
        ([True, False], [1, 0]),
        ([[0, 1, 0], [1, 0, 0]], [1, 0]),
        ([[0.2, 0.7, 0.1], [-3.0, -5.0, 9.0]], [1, 2]),
        (np.zeros((2, 3, 1, 1)), [0, 0]),
        (["7", "12"], [7, 12]),
        (np.array([["cat", "dog"], ["dog", "cat"]]), [text_code("cat"), text_code("dog")]),
        (np.array([b"cat", b"3"], dtype=object), [text_code("cat"), 3]),
    ],
)
def test_what_names_a_class_is_one(output, codes):
    assert label_codes(output, 2).tolist() == [[float(code)] for code in codes]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ([0.3, 0.9], "a single column of scores is no class"),
        ([[3, 5], [1, 2]], "one-hot row"),
        ([1, 2, 3], "expected 2 labels for 2 inputs"),
        ([np.nan, 1.0], "not finite"),
        (np.zeros((2, 3, 4)), "choose one of several steps"),
        ([None, "cat"], "text or a whole number"),
    ],
)
def test_what_names_no_class_is_refused(output, sentence):
    with pytest.raises(OutputError, match=sentence):
        label_codes(output, 2)


def test_codes_of_texts_survive_being_read_again_and_differ():
    texts = [f"label {i}" for i in range(2000)]
    codes = label_codes(texts, 2000)
    assert len(np.unique(codes)) == 2000
    assert np.array_equal(label_codes(codes, 2000), codes)
    assert (codes == codes.astype(np.int64)).all()


def test_given_names_are_positions_and_others_are_refused():
    read = LabelledAs(["setosa", "versicolor"])
    assert read(["versicolor", "setosa"], 2).tolist() == [[1.0], [0.0]]
    assert read.texts == {0: "setosa", 1: "versicolor"}
    with pytest.raises(OutputError, match="not among the labels given"):
        read(["virginica"], 1)


def test_top_classes_of_both_kinds_of_answers():
    assert top_classes(np.array([[0.1, 0.9], [0.8, 0.2]])).tolist() == [1, 0]
    assert top_classes(np.array([[4.0], [2.0]])).tolist() == [4, 2]


def test_auto_that_meets_classes_names_the_flag():
    x = np.random.default_rng(0).standard_normal((4, 3))
    with pytest.raises(OutputError, match="link='labels'"):
        audit(lambda b: (b[:, 0] > 0).astype(int), x)
    with pytest.raises((OutputError, LinkError), match="link='labels'"):
        audit(lambda b: np.where(b[:, 0] > 0, "yes", "no"), x)
    report = audit(lambda b: np.eye(2)[(b[:, 0] > 0).astype(int)], x, queries=30)
    assert any("link='labels'" in sentence for sentence in report.warnings)


def test_estimators_answer_by_predict():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    for estimator in (LinearSVC().fit(x, names), DecisionTreeClassifier(random_state=0).fit(x, y)):
        classifier = open_classifier(estimator, "labels")
        assert classifier.info.labels_only
        assert top_classes(classifier.probabilities(x)).tolist() == estimator.decision_function(x).argmax(axis=1).tolist() \
            if hasattr(estimator, "decision_function") else y.tolist()  # fmt: skip
    with pytest.raises(UsageError, match="link='labels'"):
        open_classifier(LinearSVC().fit(x, y))


def test_modules_answer_by_their_largest_output_or_by_whole_numbers():
    torch.manual_seed(0)
    network = torch.nn.Linear(5, 4)

    class Top(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x).argmax(dim=1)

    x = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    scores, classes = (open_classifier(module.eval(), "labels").probabilities(x) for module in (network, Top()))
    assert np.array_equal(scores, classes)
    assert scores.shape == (7, 1)


@pytest.mark.parametrize(
    "given", [{"mode": "white-box"}, {"focus": "top:2"}, {"threshold": 1.0}, {"queries": 50}, {"profile": "full"}]
)
def test_what_needs_probabilities_is_refused_before_a_query(given):
    asked = []

    def model(batch):
        asked.append(len(batch))
        return (batch[:, 0] > 0).astype(int)

    with pytest.raises(UsageError):
        audit(model, np.random.default_rng(0).standard_normal((4, 3)), link="labels", **given)
    assert not asked


def test_smooth_wants_labels():
    with pytest.raises(UsageError, match="add link='labels'"):
        audit(lambda b: np.full((len(b), 2), 0.5), np.zeros((2, 3)), smooth=0.5)
    with pytest.raises(UsageError, match="give it with smooth="):
        audit(lambda b: np.zeros(len(b), int), np.zeros((2, 3)), link="labels", smooth_radius=0.5)
