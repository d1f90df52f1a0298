"""What a reader is told of inputs that have no radius from their labels: the reason, and no reason that is not theirs."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

from fimaudit import Report, audit
from fimaudit.report.answer import answer_of
from fimaudit.report.page import page_html
from fimaudit.results import Interval
from fimaudit.storage.run_folder import read_run

#: Said of answers that do not change; labels that are random change all the time.
UNCHANGED = re.compile("did not change measurably|no answer changed", re.IGNORECASE)


def random_labels(share: float, features: int = 8) -> object:
    coins = np.random.default_rng(0)

    def model(rows: np.ndarray) -> np.ndarray:
        labels = (rows.sum(axis=1) > 0).astype(int)
        return np.where(coins.random(len(rows)) < share, 1 - labels, labels)

    return model


def page_text(folder: Path) -> str:
    """What the page says before its glossary."""
    text = page_html(read_run(folder))
    text = re.sub(r"<(script|style|svg).*?</\1>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", text)).rsplit("Glossary", 1)[0]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Labels too random for a radius at any input."""
    x = np.random.default_rng(1).standard_normal((6, 8))
    return audit(random_labels(0.3), x, link="labels", queries=300, out=tmp_path_factory.mktemp("labels") / "run")


def test_random_labels_are_not_said_to_be_unchanged(refused: Report) -> None:
    assert refused.summary.statuses == {"below_detection": 6}
    assert all(s.margin_radius == Interval() for s in refused.inputs)
    page = page_text(refused.folder)
    for said in (str(refused), page, " ".join(answer_of(refused).unmeasured)):
        said = " ".join(said.split())
        assert "6 of 6 inputs: below detection" in said
        assert not UNCHANGED.search(said)
        assert "too random for a radius" in said
    assert "no words are known" not in page
    assert "the random choice of directions" not in page
    assert "first-order" not in page


def test_random_labels_are_warned_of_by_the_votes_that_are_asked(refused: Report) -> None:
    assert any("asks its rows five times" in sentence for sentence in refused.warnings)


def test_limits_and_none_have_a_reason_each(refused: Report) -> None:
    limited = refused.inputs[3].model_copy(
        update={"margin_radius": Interval(upper=2.0), "reason": "the way to the decision boundary took all labels"}
    )
    report = refused.model_copy(update={"inputs": [*refused.inputs[:3], limited, *refused.inputs[4:]]})
    said = [one for one in answer_of(report).unmeasured if "is below detection" in one]
    assert [one.split()[1] for one in said] == ["0", "3"]
    assert said[1].endswith("took all labels")


def test_a_page_of_labels_explains_their_numbers(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal(6)
    x = np.random.default_rng(1).standard_normal((5, 6))
    audit(lambda rows: (rows @ w > 0).astype(int), x, link="labels", queries=300, out=tmp_path / "run")
    page = " ".join(page_text(tmp_path / "run").split())
    assert "by the plane that touches the decision boundary" in page
    assert "covers the sampling of labels" in page
    assert "first order" not in page
    assert "The measured quantity is the spectral norm" not in page


def test_a_page_of_certificates_claims_nothing_of_the_model(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal(6)
    x = np.random.default_rng(1).standard_normal((5, 6))
    model = lambda rows: (rows @ w > 0).astype(int)  # noqa: E731
    audit(model, x, link="labels", smooth=0.5, queries=300, out=tmp_path / "run")
    page = " ".join(page_text(tmp_path / "run").split())
    assert "not of the model itself" in page
    assert "plane that touches" not in page
