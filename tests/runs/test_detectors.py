"""A published detector of query attacks as the referee: what it sees of an audit in either order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmarks._detectors import Blacklight, PerceptualHash, flagged
from fimaudit import audit

IMAGES = np.kron(load_digits().images / 16.0, np.ones((3, 3)))  # 24 x 24
W = np.random.default_rng(0).normal(size=(576, 10)) / 12


def asked(order: Any) -> NDArray[Any]:
    """Rows of an audit of six digits, one a call, in their order."""
    rows: list[NDArray[Any]] = []

    def model(batch: Any) -> Any:
        rows.extend(np.asarray(batch))
        z = np.asarray(batch).reshape(len(batch), -1) @ W
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    audit(model, IMAGES[:6], lower=0.0, upper=1.0, queries=40, order=order, batch=1)
    return np.array(rows)


@pytest.mark.parametrize("detector", [Blacklight, PerceptualHash])
def test_near_duplicates_are_distinguished_from_other_images(detector: Any) -> None:
    made = Blacklight(576) if detector is Blacklight else PerceptualHash((24, 24))
    assert flagged(made, IMAGES[:60]).mean() <= 0.05
    near = IMAGES[:10] + np.random.default_rng(1).choice([-0.002, 0.002], size=(10, 24, 24))
    assert flagged(made, near).all()


def test_a_match_is_more_than_half_of_the_largest_hashes() -> None:
    made = Blacklight(576)
    one = made.fingerprint(IMAGES[0])
    assert len(one) == 50
    assert one == sorted(one, reverse=True)
    changed = IMAGES[0].copy()
    changed.ravel()[::20] = (changed.ravel()[::20] + 0.5) % 1  # one pixel of each window
    assert not set(made.fingerprint(changed)) & set(one)
    assert not made.matches(IMAGES[0])
    assert made.matches(IMAGES[0])
    short = Blacklight(576, memory=1)
    assert flagged(short, IMAGES[[0, 0, 1, 0]]).tolist() == [False, True, False, False]


def test_turns_hide_an_audit_from_a_short_memory_and_not_from_a_long_one() -> None:
    rows = {order: asked(order) for order in ("inputs", "interleaved")}
    assert sorted(row.tobytes() for row in rows["inputs"]) == sorted(row.tobytes() for row in rows["interleaved"])
    last, all_ = ({o: flagged(Blacklight(576, memory), r).mean() for o, r in rows.items()} for memory in (1, None))
    assert last["inputs"] > 2 * last["interleaved"]
    assert all_["interleaved"] == pytest.approx(all_["inputs"], abs=0.03)
    assert all_["inputs"] > 0.7
