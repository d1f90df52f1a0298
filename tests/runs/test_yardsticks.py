"""What the headlines are compared with: true to the data, free of queries, and refused before the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_runs import pictures, softmax_model, table

from fimaudit import Report, audit
from fimaudit.audit_report import Yardstick
from fimaudit.data.arrays import Inputs
from fimaudit.errors import UsageError

NETWORK = softmax_model(0, 144, 5)
BOX: dict[str, Any] = {"lower": 0.0, "upper": 1.0, "unit": "full grey range", "queries": 30}


def named(report: Report) -> dict[str, Yardstick]:
    return {y.name: y for y in report.yardsticks}


def test_found_in_the_data_and_free(tmp_path: Path) -> None:
    data = pictures(40)
    x = data.x.reshape(40, -1).astype(float)
    assert data.y is not None
    report = audit(NETWORK, data, out=tmp_path / "run", **BOX)
    found = named(report)
    assert set(found) == {"another_class", "most_common_class"}
    apart = np.linalg.norm(x[:, None] - x[None], axis=2)
    apart[data.y[:, None] == data.y[None]] = np.inf
    assert found["another_class"].distance == pytest.approx(np.median(apart.min(axis=1)))
    counts = np.bincount(data.y)
    assert found["most_common_class"].accuracy == counts.max() / 40
    assert found["most_common_class"].words == f"always answering class {counts.argmax()}"
    right = NETWORK(data.x).argmax(axis=1) == data.y
    assert report.accuracy is not None
    assert report.accuracy.value == right.mean()
    kept = Report.read(tmp_path / "run")
    assert kept == report
    assert kept.environment["folder"] == (tmp_path / "run").as_posix()
    asked = audit(NETWORK, data, noise=0.02, linear_model=True, baseline=tmp_path / "run", **BOX)
    assert asked.summary == report.summary  # not one query more, and the same numbers


def test_answers_stand_for_classes_without_labels() -> None:
    data = pictures(30)
    found = named(audit(NETWORK, data.x, **BOX))
    assert set(found) == {"another_class"}
    assert found["another_class"].words == "the nearest input of another answer in this data"
    assert audit(NETWORK, data.x, **BOX).accuracy is None


def test_asked_for(tmp_path: Path) -> None:
    data = pictures(40)
    first = audit(NETWORK, data, out=tmp_path / "first", **BOX)
    softer = softmax_model(0, 144, 5, sharpness=0.5)
    report = audit(softer, data, noise=0.02, linear_model=True, baseline=tmp_path / "first", **BOX)
    found = named(report)
    assert [y.name for y in report.yardsticks][:3] == ["baseline", "noise", "linear_model"]
    assert first.accuracy is not None
    assert found["baseline"].distance == first.summary.margin_radius.median.value
    assert found["baseline"].accuracy == first.accuracy.value
    assert found["noise"].distance == pytest.approx(0.02)
    assert 0 < (found["linear_model"].distance or 0) < 5
    assert found["linear_model"].inputs == 40


def test_held_features_and_scale_count() -> None:
    data = table(60)
    spread = data.x.std(axis=0)
    network = softmax_model(1, 10, 2)
    held = [0, 3]
    options: dict[str, Any] = {"scale": "std", "queries": 30, "frozen": held, "noise": spread * np.arange(1, 11)}
    found = named(audit(lambda b: network(b / spread), data, **options))
    free = np.delete(np.arange(10), held)
    u = (data.x / spread)[:, free]
    apart = np.linalg.norm(u[:, None] - u[None], axis=2)
    assert data.y is not None
    apart[data.y[:, None] == data.y[None]] = np.inf
    assert found["another_class"].distance == pytest.approx(np.median(apart.min(axis=1)))
    assert found["noise"].distance == pytest.approx(10.0)  # the largest deviation, in units


class Asked(Exception):
    pass


def refuses(batch: np.ndarray) -> np.ndarray:
    raise Asked


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"linear_model": True}, "the data has none; give an array or column 'y'"),
        ({"noise": -1.0}, "expected noise= as standard deviations"),
        ({"noise": [1.0, 2.0]}, "one for each of 144 features, got 2"),
        ({"baseline": "nowhere"}, "no such run folder: nowhere"),
    ],
)
def test_refused_before_the_first_query(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        audit(refuses, pictures(6).x, classes=5, **options, **BOX)


def test_a_baseline_in_another_unit_is_refused(tmp_path: Path) -> None:
    data = pictures(8)
    audit(NETWORK, data, out=tmp_path / "other", **{**BOX, "unit": "volts"})
    with pytest.raises(UsageError, match="the domain's unit differs"):
        audit(refuses, Inputs(data.x), baseline=tmp_path / "other", classes=5, **BOX)
