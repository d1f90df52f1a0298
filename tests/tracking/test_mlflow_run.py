"""A run in MLflow: its numbers and its page in a real store, and what happens where none can be reached."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import made_run, picture_run
from typer.testing import CliRunner

from fimaudit.audit_report import Report
from fimaudit.cli import app
from fimaudit.errors import MissingExtraError, UsageError
from fimaudit.policy.formats import keep_verdict
from fimaudit.policy.gate import gate
from fimaudit.tracking.mlflow_run import log_to_mlflow, logged_metrics, logged_params

#: MLflow warns of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tracked")
    template = picture_run(place / "template", count=12, queries=30)
    made_run(place / "run", template, 80)
    (place / "policy.yaml").write_text(
        "rules:\n  - {rule: quantile, metric: margin_radius, statistic: median, at_least: 0.01}\n"
        "  - {rule: accuracy, at_least: 0.999}\n"
    )
    verdict = gate(place / "run", place / "policy.yaml")
    keep_verdict(place / "run", verdict, place / "policy.yaml", None)
    return place / "run"


@pytest.fixture(params=["files", "server"])
def mlflow(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow with its file store, and with its server where ``MLFLOW_SERVER`` names the program of the whole of MLflow."""
    found = pytest.importorskip("mlflow", reason="the extra mlflow")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "release")
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
        yield found
        return
    if "MLFLOW_SERVER" not in os.environ:
        pytest.skip("needs MLFLOW_SERVER, the path of the program mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    stores = ["--backend-store-uri", f"sqlite:///{tmp_path}/runs.db", "--artifacts-destination", str(tmp_path / "files")]
    command = [os.environ["MLFLOW_SERVER"], "server", "--host", "127.0.0.1", "--port", port, "--workers", "1", *stores]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as server:
        try:
            assert server.stderr is not None
            assert any("startup complete" in line for line in server.stderr)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            yield found
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def test_metrics_settings_and_page_are_in_the_run(folder: Path, mlflow: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(folder), "--mlflow", "--json"])
    assert done.exit_code == 0, done.output
    identity = json.loads(done.stdout)["mlflow_run"]
    client = mlflow.MlflowClient()
    run, report = client.get_run(identity), Report.read(folder)
    median, metrics = report.summary.margin_radius.median, run.data.metrics
    assert metrics["fimaudit/margin_radius.median"] == pytest.approx(median.value)
    assert metrics["fimaudit/margin_radius.median.lower"] == pytest.approx(median.lower)
    assert metrics["fimaudit/policy.pass"] == 0
    assert metrics["fimaudit/policy.rules_fail"] == 1
    assert run.data.params["fimaudit.queries"] == str(report.settings["queries"])
    assert run.data.tags["fimaudit.verdict"] == "fail"
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("fimaudit ")
    files = {item.path for item in client.list_artifacts(identity, "fimaudit")}
    assert {f"fimaudit/{name}" for name in ("report.html", "report.json", "verdict.json", "policy.yaml")} <= files
    page = client.download_artifacts(identity, "fimaudit/report.html", str(tmp_path))
    assert Path(page).read_bytes() == (folder / "report.html").read_bytes()


@pytest.mark.parametrize("mlflow", ["files"], indirect=True)
def test_a_run_that_is_going_on_is_used_and_stays_open(folder: Path, mlflow: Any) -> None:
    with mlflow.start_run() as run:
        assert log_to_mlflow(folder) == run.info.run_id
        assert mlflow.active_run() is not None


@pytest.mark.parametrize("mlflow", ["files"], indirect=True)
def test_a_server_that_does_not_answer_is_one_sentence_without_its_password(
    folder: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UsageError, match=r"MLflow at http://127\.0\.0\.1:9 did not take the run: ") as refused:
        log_to_mlflow(folder)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_without_mlflow_the_sentence_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fimaudit\[mlflow\]'"):
        log_to_mlflow(folder)


def test_what_is_not_measured_is_no_metric(folder: Path) -> None:
    report = Report.read(folder)
    metrics = logged_metrics(report)
    assert "fimaudit/policy.pass" not in metrics
    assert all(isinstance(value, float) for value in metrics.values())
    long = report.model_copy(update={"model": {**report.model, "name": "m" * 1000}})
    assert max(map(len, logged_params(long).values())) == 250
