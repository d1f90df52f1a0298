"""Endpoints that answer with a class and nothing else: audited within a budget, killed and resumed, in every manner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fimaudit import Report, audit, open_classifier
from fimaudit.errors import OutputError, TargetError
from tests.adapters.http_endpoints.conftest import SERVERS
from tests.servers import manager
from tests.servers.label_server import WEIGHTS, WORDS
from tests.servers.manager import Server

X = np.random.default_rng(1).standard_normal((6, 6))
TRUTH = (X @ WEIGHTS.T).argmax(axis=1)
JSON = {"protocol": "json", "request": {"rows": "$rows"}, "response": "results"}
MANNERS = {
    "open_inference": ("/v2/models/m/infer", {}),
    "open_inference json": ("/v2/models/m/infer", {"binary": False}),
    "mlflow": ("/invocations", {"protocol": "mlflow"}),
    "mlflow text": ("/invocations?text", {"protocol": "mlflow"}),
    "tensorflow_serving": ("/v1/models/m:predict", {"protocol": "tensorflow_serving"}),
    "json label": ("/classify", JSON),
    "json list": ("/top", JSON),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = manager.free_port()
    log = tmp_path_factory.mktemp("labels") / "server.log"
    started = manager.start([sys.executable, str(SERVERS / "label_server.py"), str(port)], port, log, ready="/ready")
    yield started
    started.stop()


def status_of(server: Server, what: str) -> dict[str, int]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/__{what}") as answer:
        found: dict[str, int] = json.load(answer)
        return found


def asked(server: Server) -> int:
    return status_of(server, "asked__")["asked"]


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


def command(server: Server, out: Path, data: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "fimaudit", "audit", server.url + "/v2/models/m/infer", "--data", str(data),
        "--link", "labels", "--out", str(out), "--queries", "300", "--set", "binary=false", "--yes", *more,
    ]  # fmt: skip


def test_a_budget_a_kill_and_a_resume_ask_no_row_twice(server, tmp_path):
    data, env = tmp_path / "x.npy", {**os.environ, "NO_PROXY": "127.0.0.1"}
    np.save(data, X)
    whole = tmp_path / "whole"
    before = asked(server)
    done = subprocess.run(command(server, whole, data), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    cost = asked(server) - before
    report = Report.read(whole)
    assert report.summary.queries == cost
    for s, truth in zip(report.inputs, distances(X), strict=True):
        assert s.method == "labels"
        assert s.margin_radius.lower <= truth <= s.margin_radius.upper * (1 + 1e-9)
        assert abs(s.margin_radius.value / truth - 1) < 0.25

    before, out = asked(server), tmp_path / "cut"
    short = subprocess.run(command(server, out, data, "--budget", "700"), capture_output=True, text=True, env=env)
    assert short.returncode == 3, short.stderr
    assert asked(server) - before <= 700

    status_of(server, "hold__/200")
    process = subprocess.Popen(command(server, out, data, "--resume"), env=env, start_new_session=True)
    try:
        assert status_of(server, "held__")["held"]
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        status_of(server, "release__")

    done = subprocess.run(command(server, out, data, "--resume"), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    resumed = Report.read(out)
    assert [s.margin_radius for s in resumed.inputs] == [s.margin_radius for s in report.inputs]
    assert resumed.summary.queries <= cost + 100  # requests in flight at the kill, and sentinels after each start
