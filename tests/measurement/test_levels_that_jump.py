"""Inputs on levels, many of them at the edge of the box: trees, roundings and noise are not local there, networks are."""

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.neural_network import MLPClassifier

import fimaudit

Array = np.ndarray


@cache
def pictures() -> tuple[Array, Array, Array]:
    """Bytes with a background of zeros: to fit, their labels, to ask."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    fine = np.clip(np.round(x * 14.4 + rng.integers(0, 13, x.shape) * (x > 0)), 0, 255)
    return fine[:600], y[:600], fine[900:908].astype(np.uint8)


@cache
def network() -> MLPClassifier:
    fit, labels, _ = pictures()
    return MLPClassifier((32,), activation="tanh", alpha=1e-2, max_iter=1000, random_state=0).fit(fit / 255, labels)


def trees(kind: type) -> Callable[[Array], Array]:
    fit, labels, _ = pictures()
    made = kind(100, random_state=0).fit(fit, labels)
    return lambda rows: made.predict_proba(rows.astype(float))


def noisy(rows: Array) -> Array:
    """Noise of a tenth in log p, chosen by a hash of the row."""
    logs = np.log(network().predict_proba(rows / 255) + 1e-12)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(rows)]
    seeds = [int.from_bytes(digest, "big") for digest in digests]
    logs += 0.1 * np.stack([np.random.default_rng(seed).standard_normal(logs.shape[1]) for seed in seeds])
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def local(answer: Callable[[Array], Array], queries: int, seed: int) -> int:
    """How many of the inputs are local."""
    report = fimaudit.audit(
        answer, pictures()[2], lower=0, upper=255, quantum=1, queries=queries, seed=seed, mode="black-box", integrity=False
    )
    return sum(one.status == "ok" and one.kind == "local" for one in report.inputs)


JUMPING: dict[str, Callable[[], Callable[[Array], Array]]] = {
    "forest": lambda: trees(RandomForestClassifier),
    "extra trees": lambda: trees(ExtraTreesClassifier),
    "rounded to 32 levels": lambda: lambda rows: network().predict_proba(np.round(rows / 255 * 31) / 31),
    "noise by a hash": lambda: noisy,
}


@pytest.mark.parametrize("name", JUMPING)
def test_answers_that_jump_between_levels_are_hardly_ever_local(name: str) -> None:
    answer = JUMPING[name]()
    assert sum(local(answer, 50, seed) for seed in range(2)) <= 2  # of 16: few rows show a flat stretch by chance


def test_a_network_is_local_between_levels() -> None:
    def answer(rows: Array) -> Array:
        return network().predict_proba(rows / 255)

    assert [local(answer, 50, seed) for seed in range(2)] == [8, 8]
