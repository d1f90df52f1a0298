"""Models that chance moves call by call, all rows of a call alike: a comparison within a call does not show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fimaudit import audit
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.runs.preflight import look

Array = np.ndarray[Any, np.dtype[np.float64]]
INPUTS = 12


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def two_classes() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((20, 2)), np.zeros(2), 0.6 * rng.standard_normal((INPUTS, 20))


def wine(c: float = 1.0) -> tuple[Array, Array, Array]:
    x, y = load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    model = LogisticRegression(C=c, max_iter=3000).fit(x, y)
    return model.coef_.T, model.intercept_, x[np.random.default_rng(0).permutation(len(x))[:INPUTS]]


def sure() -> tuple[Array, Array, Array]:
    """Of answers that are 0 and 1 to nine digits chance moves the small one."""
    return wine(1e6)


def radii(weights: Array, offset: Array, x: Array) -> Array:
    """(n,) of a linear model, to which the first order is exact."""
    z, out = x @ weights + offset, []
    for row in z:
        top = int(row.argmax())
        others = [k for k in range(len(row)) if k != top]
        out.append(min((row[top] - row[k]) / np.linalg.norm(weights[:, top] - weights[:, k]) for k in others))
    return np.array(out)


def moving(weights: Array, offset: Array, of_inputs: float, of_logits: float, seed: int) -> Callable[[Any], Array]:
    """Inputs or logits of a call are moved by one random vector."""
    rng = np.random.default_rng(seed)

    def answer(rows: Any) -> Array:
        shifted = np.asarray(rows) + of_inputs * rng.standard_normal(len(weights))
        return softmax(shifted @ weights + offset + of_logits * rng.standard_normal(len(offset)))

    return answer


@pytest.mark.parametrize(("of_inputs", "of_logits"), [(0.02, 0.0), (0.0, 0.03)])
@pytest.mark.parametrize("subject", [two_classes, wine, sure])
def test_radii_of_a_model_that_moves_hold_and_nobody_is_accused(
    subject: Callable[[], tuple[Array, Array, Array]], of_inputs: float, of_logits: float
) -> None:
    """Seen while rows shared calls: 208 of 437 radii above their upper limit; of two classes 4 of 20 runs contradicted,
    and of sure answers, which were taken for deterministic, 3 of 10 (by ``slope``)."""
    weights, offset, x = subject()
    truth, asked, missed = radii(weights, offset, x), 0, 0
    for seed in range(6):
        report = audit(moving(weights, offset, of_inputs, of_logits, seed), x, queries=200, seed=seed, integrity=True)
        assert not report.contradicted
        for s in report.inputs:
            radius = s.margin_radius
            if radius.value is not None:
                asked += 1
                missed += not (radius.lower or 0.0) <= truth[s.index] <= (np.inf if radius.upper is None else radius.upper)
    assert asked >= 16 or (subject is sure and of_inputs)  # of which too little is left to be measured
    assert stats.binom.sf(missed - 1, asked, 0.05) > 0.001
    assert any("all rows of a call alike" in sentence for sentence in report.warnings)


def looked_at(per_row: bool, classes: int, seed: int) -> bool:
    """Whether a preflight of a model with random logits asks each row alone."""
    rng, weights = np.random.default_rng(seed), np.random.default_rng(0).standard_normal((6, classes))

    def answer(rows: Any) -> Array:
        return softmax(np.asarray(rows) @ weights + 0.03 * rng.standard_normal((len(rows) if per_row else 1, classes)))

    meter = Meter(open_classifier(answer, "identity"))
    found = look(meter, np.random.default_rng(1).standard_normal((10, 6)), "float64")
    assert found.random
    assert found.row_by_row == (meter.batch == 1)
    return found.row_by_row


@pytest.mark.parametrize(("classes", "most"), [(2, 0.15), (3, 0.06), (10, 0.01)])
def test_noise_of_its_own_for_every_row_is_asked_in_calls_as_before(classes: int, most: float) -> None:
    """Asking each row alone is right for it too, only slower; so now and then it may."""
    assert all(looked_at(False, classes, seed) for seed in range(20))
    alone = sum(looked_at(True, classes, seed) for seed in range(200))
    assert stats.binom.sf(alone - 1, 200, most) > 0.001
