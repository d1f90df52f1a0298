"""Faults that a gateway does not make, hostile answers, kills, budgets: the answers stay those of the undisturbed run."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest

from fimaudit.errors import BudgetExhausted, FimauditError, InputFailed, ModelFailure
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.storage.ledger import open_ledger

JSON = {"binary": False, "dtype": "float64"}


def target(faults, model="cancer"):
    return f"{faults.url}/v2/models/{model}/infer"


@pytest.mark.parametrize("kind", ["garbage", "half", "reset", "nan", "rows", "503", "429"])
def test_each_fault_alone(faults, cancer, connect, kind):
    model = connect(target(faults), batch=10, **JSON)
    faults.set(rate=0.3, kinds=[kind], seed=3)
    got = model.probabilities(cancer.rows[:200])
    assert np.array_equal(got, connect(target(faults), batch=10, **JSON).probabilities(cancer.rows[:200]))
    assert faults.counts()["counts"][kind] > 2


def test_slow_drip_is_cut_by_the_deadline_of_a_request(faults, cancer, connect):
    model = connect(target(faults), batch=20, timeout=1.0, **JSON)
    faults.set(rate=1.0, kinds=["drip"], most=1)
    assert np.allclose(model.probabilities(cancer.rows[:100]), cancer.truth(cancer.rows[:100]), atol=1e-12)
    assert faults.counts()["counts"]["drip"] == 1


WORKER = """
    import sys, numpy as np
    from fimaudit.models.opening import open_classifier
    from fimaudit.perturbations.rows import PlainRows
    from fimaudit.storage.ledger import open_ledger
    from fimaudit.models.meter import Meter
    url, rows, ledger, out = sys.argv[1:5]
    model = open_classifier(url, adapter="http", trust_env=False, batch=10, binary=False, dtype="float64",
                            concurrency=4)
    book = open_ledger(ledger, model.info.details["fingerprint"], resume=True)
    meter = Meter(model, ledger=book, budget=4000)
    x = np.load(rows)
    answers = [meter.ask([PlainRows(x[i : i + 100]), PlainRows(x[i + 100 : i + 200])]) for i in range(0, len(x), 200)]
    np.save(out, np.concatenate([a for pair in answers for a in pair]))
    model.close(); book.close()
"""


def test_killed_and_resumed_is_the_undisturbed_run(faults, cancer, connect, tmp_path):
    rows = cancer.rows[:400]
    np.save(tmp_path / "rows.npy", rows)
    undisturbed = connect(target(faults), batch=10, **JSON).probabilities(rows)
    script, ledger, out = tmp_path / "worker.py", tmp_path / "ledger.sqlite", tmp_path / "out.npy"
    script.write_text(textwrap.dedent(WORKER))
    command = [sys.executable, str(script), target(faults), str(tmp_path / "rows.npy"), str(ledger), str(out)]
    faults.set(rate=0.2, seed=11)
    faults.kill_after(25, command)
    assert not out.exists()
    assert subprocess.run(command).returncode == 0
    assert np.array_equal(np.load(out), undisturbed)
    found = faults.counts()
    assert sum(n for kind, n in found["counts"].items() if kind != "none") > 4
    # An answered body may come twice only where a kill fell between the answer and its commit, or the preflight repeats it.
    repeats = Counter(Counter(found["answered"]).values())
    assert sum(n for times, n in repeats.items() if times > 1) <= 4 + 1
    fingerprint = connect(target(faults), batch=10, concurrency=4, **JSON).fingerprint
    book = open_ledger(ledger, fingerprint, resume=True)
    sent = book.requests()
    # The proxy does not see every send: one can be counted and killed before it leaves.
    assert sum(found["counts"].values()) <= len(sent) <= sum(found["counts"].values()) + 4
    assert book.usage().rows + book.usage().refused == sum(r.rows for r in sent) <= 4000
    unanswered = [r for r in sent if r.status is None]
    assert len(unanswered) <= 4
    assert book.starts == 3
    book.close()
    whole = b"".join(p.read_bytes() for p in tmp_path.glob("ledger.sqlite*"))
    assert b"oops" not in whole


def test_budget_is_never_exceeded_under_concurrency_and_faults(faults, cancer, connect):
    model = connect(target(faults), batch=10, concurrency=8, **JSON)
    faults.set(rate=0.2, seed=5, kinds=["garbage", "reset", "503"])
    meter = Meter(model, budget=137)
    with pytest.raises(BudgetExhausted, match=r"137 rows is spent.*resume=True"):
        meter.ask([PlainRows(cancer.rows[:400])])
    assert meter.usage.rows <= 137
    counts = faults.counts()["counts"]
    assert sum(counts.values()) <= meter.usage.requests


def test_what_was_answered_before_the_budget_ended_is_kept(kserve, cancer, connect, tmp_path):
    rows = cancer.rows[:100]
    model = connect(f"{kserve.url}/v2/models/cancer/infer", batch=10, **JSON)
    book = open_ledger(tmp_path / "ledger.sqlite", model.fingerprint)
    with pytest.raises(BudgetExhausted):
        Meter(model, budget=61, ledger=book).ask([PlainRows(rows)])
    assert all(r.status == "ok" for r in book.requests())
    again = connect(f"{kserve.url}/v2/models/cancer/infer", batch=10, **JSON)
    book.close()
    book = open_ledger(tmp_path / "ledger.sqlite", again.fingerprint, resume=True)
    meter = Meter(again, budget=101, ledger=book)
    assert meter.usage.rows == 61
    (got,) = meter.ask([PlainRows(rows)])
    assert np.allclose(got, cancer.truth(rows), atol=1e-12)
    assert meter.usage.rows == 101
    book.close()


def test_one_sick_row_fails_alone(plain, digits, connect):
    model = connect(plain.url + "/sick", request={"x": "$rows"}, response="p", kind="probs", attempts=3, batch=16)
    meter = Meter(model)
    x = digits.rows[:64].copy()
    x[21, 0] = 99
    blocks = [PlainRows(x[i : i + 8]) for i in range(0, 64, 8)]
    answers = meter.ask_each(blocks)
    assert "does not answer this row" in str(answers[2])
    assert "secret" not in str(answers[2])
    for i, answer in enumerate(answers):
        assert isinstance(answer, InputFailed) == (i == 2)
        if i != 2:
            assert np.allclose(answer, digits.truth(x[8 * i : 8 * i + 8]), atol=1e-9)


def test_a_sick_first_row_hides_neither_the_endpoint_nor_its_batch(plain, digits, connect):
    model = connect(plain.url + "/sick", request={"x": "$rows"}, response="p", kind="probs", attempts=2, batch=16)
    x = digits.rows[:64].copy()
    x[0, 0] = 99
    answers = Meter(model).ask_each([PlainRows(x[i : i + 8]) for i in range(0, 64, 8)])
    assert [isinstance(answer, InputFailed) for answer in answers] == [True] + 7 * [False]
    assert model.info.preferred_batch == 16


def test_an_endpoint_that_dies_ends_the_run(faults, cancer, connect):
    model = connect(target(faults), batch=5, attempts=2, patience=0, **JSON)
    model.probabilities(cancer.rows[:20])
    faults.set(rate=1.0, kinds=["503"])
    with pytest.raises(ModelFailure, match=r"in a row were given up.*503") as raised:
        model.probabilities(cancer.rows[:300])
    assert raised.value.exit_code == 3
    assert sum(faults.counts()["counts"].values()) < 80


@pytest.mark.parametrize("kind", ["endless", "deep", "bomb", "huge", "digits"])
def test_hostile_answers(faults, cancer, connect, kind):
    model = connect(target(faults), attempts=2, max_response=4 * 2**20, **JSON)
    faults.set(rate=1.0, kinds=[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFailure) as raised:
        model.probabilities(cancer.rows[:3])
    assert raised.value.exit_code == 3
    assert len(str(raised.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
    expected = {"endless": "exceeds", "bomb": "exceeds", "deep": "depth", "huge": "finite", "digits": "thousands of digits"}
    assert expected[kind] in str(raised.value)


def test_html_in_labels_stays_text(faults, cancer, connect):
    model = connect(faults.url + "/v1/models/cancer:predict", protocol="label_scores")
    faults.set(rate=1.0, kinds=["html"])
    model.probabilities(cancer.rows[:1])
    labels = model.info.details["labels"]
    assert all(label.isprintable() for label in labels)
    assert "<script>alert(1)</script>" in labels[0]


def test_swapped_classes_are_not_masked(faults, cancer, connect):
    """The adapter cannot know; the sentinels do (tests of ``fimaudit.runs.drift``)."""
    model = connect(target(faults), batch=10, **JSON)
    first = model.probabilities(cancer.rows[:10])
    faults.set(rate=1.0, kinds=["swap"])
    assert np.allclose(model.probabilities(cancer.rows[:10]), first[:, ::-1])


def test_errors_leave_no_temporary_state(faults, cancer, connect):
    model = connect(target(faults), **JSON, attempts=1)
    faults.set(rate=1.0, kinds=["garbage"])
    with pytest.raises(FimauditError):
        model.probabilities(cancer.rows[:3])
    faults.set(rate=0.0)
    assert model.probabilities(cancer.rows[:3]).shape == (3, 2)
