"""The features that carry it: exact where every feature is measured, silent about noise where directions are random. 5 s."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.estimation.attribution import feature_shares
from fimaudit.storage.run_folder import read_run
from fimaudit.storage.tables import INPUTS_FILE, read_inputs_table

pytestmark = pytest.mark.usefixtures("one_thread")


def logistic(gradient: np.ndarray) -> Any:
    """Two classes whose log odds are linear, so that every input has the same shares."""

    def model(batch: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-0.3 * (batch - 0.5) @ gradient))
        return np.stack([1 - p, p], axis=1)

    return model


def test_whole_jacobian_gives_the_shares(tmp_path: Path) -> None:
    gradient = np.array([3.0, 0.0, -2.0, 1.0, 0.5, 0.1, 0.05])
    x = np.random.default_rng(0).random((5, 7))
    report = audit(logistic(gradient), x, queries=60, frozen=["1"], out=tmp_path / "run")
    shares = gradient**2 / (gradient**2).sum()
    for s in report.inputs:
        assert [c.feature for c in s.carried_by] == [0, 2, 3, 4]  # shares below 1 % are not worth a line
        for c in s.carried_by:
            assert c.share == pytest.approx(shares[c.feature], rel=5e-3, abs=1e-4)
    assert read_inputs_table(tmp_path / "run" / INPUTS_FILE) == report.inputs == list(read_run(tmp_path / "run").inputs)


def test_scale_decides_what_counts_as_the_same_change() -> None:
    gradient = np.array([1.0, 1.0, 1.0])
    report = audit(logistic(gradient), np.random.default_rng(0).random((2, 3)), queries=40, scale=np.array([1.0, 2.0, 4.0]))
    assert [c.share for c in report.inputs[0].carried_by] == pytest.approx([16 / 21, 4 / 21, 1 / 21], abs=2e-3)


@pytest.mark.parametrize("features", [250, 450])
def test_random_directions_name_what_stands_above_their_noise(features: int) -> None:
    rng = np.random.default_rng(1)
    gradient = 0.05 * rng.normal(size=features)
    gradient[[3, 77, 200]] = 3.0, -2.0, 1.2
    shares = gradient**2 / (gradient**2).sum()
    inputs = audit(logistic(gradient), rng.random((40, features)), queries=165, lower=0.0, upper=1.0).inputs
    assert {s.method for s in inputs} <= {"orthonormal", "rademacher"}
    named = Counter(c.feature for s in inputs for c in s.carried_by)
    assert named[3] == named[77] == 40
    assert sum(n for feature, n in named.items() if feature not in (3, 77, 200)) <= 40 * 0.05 + 4
    for feature in (3, 77):
        found = np.mean([c.share for s in inputs for c in s.carried_by if c.feature == feature])
        assert found == pytest.approx(shares[feature], abs=0.03)


def test_independent_directions_take_their_noise_off() -> None:
    rng = np.random.default_rng(2)
    gradient = np.zeros(300)
    gradient[:2] = 2.0, 1.0
    found = []
    for _ in range(200):
        v = rng.choice([-1.0, 1.0], (100, 300))
        found.append({c.feature: c.share for c in feature_shares(v.T @ (v @ gradient) / 100, np.arange(300), 100)})
    assert np.mean([f.get(0, 0) for f in found]) == pytest.approx(0.8, abs=0.03)
    assert sum(any(k > 1 for k in f) for f in found) <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05)


def test_pictures_and_long_inputs_name_no_features() -> None:
    pictures = audit(
        logistic(np.ones(16)), np.random.default_rng(0).random((2, 1, 4, 4)).reshape(2, 16)[:, None], queries=60
    )
    assert pictures.inputs[0].carried_by == []
    nothing = feature_shares(np.zeros(3), np.arange(3), None)
    assert nothing == []


def test_witness_of_an_input_that_stopped_early() -> None:
    """Fewer rows are asked than were drawn: the slope is that of the asked ones."""
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"queries": 200, "lower": 0.0, "upper": 1.0, "precision": 0.3, "witness": True}
    report: Report = audit(logistic(rng.normal(size=300)), rng.random((4, 300)), **options)
    assert all(s.status == "ok" and s.queries < 150 for s in report.inputs)
    assert all(s.witness is not None for s in report.inputs)


def test_derivatives_name_them_too() -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Linear(4, 2).double()
    with torch.no_grad():
        network.weight[:] = torch.tensor([[2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    report = audit(network, np.random.default_rng(0).random((3, 4)), link="softmax")
    assert report.settings["mode"] == "white-box"
    assert [(c.feature, round(c.share, 3)) for c in report.inputs[0].carried_by] == [(0, 0.8), (2, 0.2)]
