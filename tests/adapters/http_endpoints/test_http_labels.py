"""Endpoints that answer with a class and nothing else: audited within a budget, killed and resumed, in every manner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fimaudit import Report, audit, open_classifier
from fimaudit.errors import OutputError, TargetError
from tests.command_line import run_command
from tests.servers import vendors
from tests.servers.label_server import WEIGHTS, WORDS, LabelService

X = np.random.default_rng(1).standard_normal((6, 6))
TRUTH = (X @ WEIGHTS.T).argmax(axis=1)
JSON = {"protocol": "json", "request": {"rows": "$rows"}, "response": "results"}
MANNERS = {
    "open_inference": ("/v2/models/m/infer", {}),
    "open_inference json": ("/v2/models/m/infer", {"binary": False}),
    "mlflow": ("/invocations", {"protocol": "mlflow"}),
    "mlflow text": ("/invocations?words=1", {"protocol": "mlflow"}),
    "tensorflow_serving": ("/v1/models/m:predict", {"protocol": "tensorflow_serving"}),
    "json label": ("/classify", JSON),
    "json list": ("/top", JSON),
}


@pytest.fixture(scope="module")
def service() -> LabelService:
    return LabelService()


@pytest.fixture(scope="module")
def server(service: LabelService) -> Iterator[vendors.LoopbackServer]:
    with vendors.serving(service.services) as running:
        yield running


def distances(x: np.ndarray) -> np.ndarray:
    out = []
    for z in x @ WEIGHTS.T:
        top = z.argmax()
        out.append(min((z[top] - z[k]) / np.linalg.norm(WEIGHTS[top] - WEIGHTS[k]) for k in range(3) if k != top))
    return np.array(out)


@pytest.mark.parametrize("manner", MANNERS)
def test_every_manner_of_saying_a_class_is_read(server, manner):
    path, settings = MANNERS[manner]
    classifier = open_classifier(server.url + path, "labels", adapter="http", trust_env=False, **settings)
    try:
        codes = classifier.probabilities(X)
        assert codes.shape == (6, 1)
        assert len(np.unique(codes)) == len(np.unique(TRUTH))
        texts = classifier.info.details["label_texts"]
        names = [texts.get(int(code), int(code)) for code in codes[:, 0]]
        words = manner in ("mlflow text", "json label", "json list")
        assert names == [WORDS[k] if words else int(k) for k in TRUTH]
    finally:
        classifier.close()


def test_without_the_flag_it_is_named(server):
    for path, settings in (MANNERS["open_inference"], MANNERS["mlflow text"], MANNERS["tensorflow_serving"]):
        with pytest.raises(OutputError, match="link='labels'"):
            audit(server.url + path, X, trust_env=False, **settings)


def test_settings_that_contradict_labels_are_refused(server):
    with pytest.raises(TargetError, match="kind: logits"):
        open_classifier(server.url + "/invocations", "labels", protocol="mlflow", kind="logits")


def words(url: str, out: Path, data: Path) -> list[str]:
    return [
        "audit", f"{url}/v2/models/m/infer", "--data", str(data), "--link", "labels", "--out", str(out), "--queries", "300",
        "--set", "binary=false", "--yes",
    ]  # fmt: skip


def test_a_budget_a_kill_and_a_resume_ask_no_row_twice(service, server, tmp_path):
    data, before = tmp_path / "x.npy", service.asked
    np.save(data, X[:3])
    whole = tmp_path / "whole"
    done = run_command(*words(server.url, whole, data))
    assert done.returncode == 0, done.stderr
    cost = service.asked - before
    report = Report.read(whole)
    assert report.summary.queries == cost
    for s, truth in zip(report.inputs, distances(X[:3]), strict=True):
        assert s.method == "labels"
        assert s.margin_radius.lower <= truth <= s.margin_radius.upper * (1 + 1e-9)
        assert abs(s.margin_radius.value / truth - 1) < 0.25

    before, out = service.asked, tmp_path / "cut"
    again = words(server.url, out, data)
    short = run_command(*again, "--budget", 350)
    assert short.returncode == 3, short.stderr
    assert service.asked - before <= 350

    service.hold(100)
    env = {**os.environ, "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen([sys.executable, "-m", "fimaudit", *again, "--resume"], env=env, start_new_session=True)
    try:
        assert service.held.wait(120)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        service.release()

    done = run_command(*again, "--resume")
    assert done.returncode == 0, done.stderr
    resumed = Report.read(out)
    assert [s.margin_radius for s in resumed.inputs] == [s.margin_radius for s in report.inputs]
    assert resumed.summary.queries <= cost + 100  # requests in flight at the kill, and sentinels after each start
