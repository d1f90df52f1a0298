"""A second version that answers a few per cent of the rows, chosen by a hash of the row: what one input's rows miss."""

import hashlib

import numpy as np
import pytest

import fimaudit


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def routed(share: float):
    """Two smooth networks, of which the second answers so many rows."""
    rng = np.random.default_rng(0)
    first, hidden, second = (rng.standard_normal(shape) / 6 for shape in ((40, 16), (16, 3), (40, 3)))

    def answer(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float64)
        digests = [hashlib.blake2b(row.tobytes(), digest_size=4).digest() for row in rows]
        other = np.array([int.from_bytes(digest, "big") for digest in digests]) < share * 2**32
        return np.where(other[:, None], softmax(rows @ second), softmax(3 * np.tanh(rows @ first) @ hidden))

    return answer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inputs_whose_rows_missed_the_second_version_are_not_local_beside_those_that_met_it(seed: int) -> None:
    x = np.random.default_rng(1).standard_normal((12, 40))
    for share, local in ((0.03, 0), (0.0, 12)):
        report = fimaudit.audit(routed(share), x, queries=50, seed=seed)
        assert sum(one.kind == "local" for one in report.inputs) == local


def test_few_queries_are_for_the_norm_first() -> None:
    """The walk along the slope checks the radius; the profile's rungs come once the norm has its rows."""
    x = np.random.default_rng(1).standard_normal((12, 40))
    few, more = (fimaudit.audit(routed(0.0), x, queries=queries) for queries in (50, 200))
    assert all(one.queries >= 38 and not one.profile for one in few.inputs)
    assert all(one.profile for one in more.inputs)
    assert not any("radius_not_checked" in one.flags for one in few.inputs)
