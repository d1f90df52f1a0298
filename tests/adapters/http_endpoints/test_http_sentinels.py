"""Sentinels and preprocessing: a model that changes under way is noticed, a steady or noisy one is not accused."""

from __future__ import annotations

import numpy as np

from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.runs.drift import Sentinels, judge
from fimaudit.runs.server_preprocessing import detect_preprocessing
from fimaudit.storage.ledger import open_ledger

JSON = {"binary": False, "dtype": "float64"}


def test_swapped_classes_end_as_drift(faults, digits, connect, tmp_path):
    model = connect(f"{faults.url}/v2/models/digits/infer", **JSON)
    book = open_ledger(tmp_path / "ledger.sqlite", model.fingerprint)
    meter = Meter(model, ledger=book)
    sentinels = Sentinels(digits.rows, meter, every=100)
    sentinels.begin()
    assert not sentinels.due()
    meter.ask([PlainRows(digits.rows[:100])])
    assert sentinels.due()
    assert sentinels.check([0, 1, 2]) is None
    faults.set(rate=1.0, kinds=["swap"])
    drift = sentinels.check([0, 1, 2, 3, 4])
    assert drift is not None
    assert (drift.kind, drift.inputs) == ("classes", (3, 4))
    assert "3, 4" in drift.sentence()
    faults.set(rate=0.0)
    again = Sentinels(digits.rows, meter, every=100)  # as after a resume
    again.begin()
    assert again.due()
    assert again.check([0, 1, 2, 3, 4, 5]) is None
    assert again.drifts == [drift]
    book.close()


def test_canary_traffic_is_intermittent(faults, digits, connect):
    meter = Meter(connect(f"{faults.url}/v2/models/digits/infer", **JSON))
    sentinels = Sentinels(digits.rows, meter)
    sentinels.begin()
    found = []
    faults.set(rate=0.5, kinds=["swap"], seed=1)
    for _ in range(12):
        found.append(sentinels.check([7]))
    kinds = {drift.kind for drift in found if drift is not None}
    assert "intermittent" in kinds
    assert None in found


def test_noise_is_no_drift(plain, digits, connect):
    meter = Meter(connect(plain.url + "/noisy", request={"x": "$rows"}, response="p", kind="probs"))
    sentinels = Sentinels(digits.rows, meter)
    sentinels.begin()
    assert sentinels.noise > 1e-4
    assert [sentinels.check([0]) for _ in range(20)] == [None] * 20


def test_judge_distinguishes_a_permutation_from_another_model():
    rng = np.random.default_rng(0)
    reference = rng.dirichlet(np.ones(6), 5)
    order = np.array([1, 2, 0, 3, 5, 4])
    assert judge(reference, reference + 1e-8, 1e-5)[0] == "same"
    assert judge(reference, reference[:, order], 1e-5)[0] == "classes"
    assert judge(reference, rng.dirichlet(np.ones(6), 5), 1e-5)[0] == "changed"
    assert judge(reference, reference[:, :4], 1e-5)[0] == "changed"


def test_preprocessing_on_the_servers_side_is_seen(plain, digits, connect):
    options = {"request": {"x": "$rows"}, "response": "p", "kind": "probs"}
    images = digits.rows[:20].reshape(-1, 8, 8) / 16.0
    meter = Meter(connect(plain.url + "/resized", input_shape=(64,), **options))
    found = detect_preprocessing(meter, images, "float64", 1.0)
    assert found.cast
    assert found.detail is not None
    assert found.detail < 1e-12
    assert len(found.warnings()) == 2
    assert found.rows == 12
    honest = Meter(connect(plain.url + "/sick", input_shape=(64,), **options))
    clean = detect_preprocessing(honest, images, "float64", 1.0)
    assert not clean.cast
    assert clean.warnings() == []
