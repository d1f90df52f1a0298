"""Endpoints on the command line: the shelf, one row tried, settings, plans, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from fimaudit.cli.plan import asked_of
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.runs.drift import Sentinels
from fimaudit.runs.preflight import look
from tests.command_line import run_command
from tests.servers import vendors

ROWS = np.random.default_rng(4).standard_normal((3, vendors.FEATURES)).round(3)


@pytest.fixture
def csv(tmp_path):
    lines = [",".join(f"f{i}" for i in range(4)), *(",".join(map(str, row)) for row in ROWS)]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "x.csv"


def test_from_nothing_to_a_report_in_three_commands(tmp_path, csv):
    with vendors.serving({"predict": vendors.SERVICES["fastapi"][0]}) as server:
        new = run_command("endpoint", "new", "fastapi", cwd=tmp_path)
        assert new.returncode == 0
        (tmp_path / "e.yaml").write_text(new.stdout.replace("http://<host>:8000", server.url) + "trust_env: false\n")
        tried = run_command("endpoint", "try", "e.yaml", "--data", csv, cwd=tmp_path)
        assert tried.returncode == 0, tried.stderr
        assert len(server.asked) == 1
        for said in ('"f0":', "response: probabilities", "cat: 0.", "one row was sent"):
            assert said in tried.stdout
        words = ["audit", "e.yaml", "--data", str(csv), "--out", "run", "--queries", "40", "--verbose", "--set", "batch=20",
                 "--set", "concurrency=2", "--columns", "f0,f1,f2,f3", "--profile", "off"]  # fmt: skip
        # As a program of its own, which sets up logging.
        command = [sys.executable, "-m", "fimaudit", *words]
        audit = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert audit.returncode == 0, audit.stderr
    assert not server.errors
    assert "fimaudit.http: request 1: 1 rows, ok" in audit.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for row, found in zip(ROWS, report["inputs"], strict=True):
        assert found["spectral_norm"]["value"] == pytest.approx(vendors.exact(vendors.TABLE, row), rel=0.01)


def test_inspect_sends_a_tables_names_as_an_audit_does(tmp_path, csv):
    """Seen: rows without the names that the file's request wants, refused."""
    with vendors.serving({"predict": vendors.SERVICES["fastapi"][0]}) as server:
        text = run_command("endpoint", "new", "fastapi", cwd=tmp_path).stdout.replace("http://<host>:8000", server.url)
        (tmp_path / "e.yaml").write_text(f"{text}trust_env: false\n")
        seen = run_command("inspect", "e.yaml", "--data", csv, cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    assert not server.errors
    assert "the model's features f0, f1, f2, f3" in " ".join(seen.stdout.split())


def test_a_mistake_costs_one_row(tmp_path, csv):
    with vendors.serving({"predict": vendors.SERVICES["fastapi"][0]}) as server:
        text = run_command("endpoint", "new", "fastapi", cwd=tmp_path).stdout.replace("http://<host>:8000", server.url)
        (tmp_path / "e.yaml").write_text(text.replace("response: probabilities", "response: probs"))
        tried = run_command("endpoint", "try", "e.yaml", "--data", csv, "--set", "trust_env=false", cwd=tmp_path)
    assert tried.returncode == 2
    assert len(server.asked) == 1
    assert '{"probabilities":' in tried.stdout
    assert "response: probs\n  gives null" in tried.stdout
    assert "leads nowhere" in tried.stderr
    assert "Traceback" not in tried.stderr


@pytest.mark.parametrize(
    "setting", ["batch=20", "input=a", "output=b", "link=softmax", "queries=3", "endpoint=x", "x=[", "rate=fast"]
)
def test_no_setting_ends_in_a_traceback(setting, tmp_path, csv):
    found = run_command("audit", "http://127.0.0.1:9/v2/models/m/infer", "--data", csv, "--out", "run", "--set", setting,
                "--set", "attempts=1", "--patience", 0, "--set", "trust_env=false", cwd=tmp_path)  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr


def test_plans_reckon_with_the_endpoint_file(tmp_path, csv):
    path = tmp_path / "e.yaml"
    path.write_text(
        "url: https://host.example/p\nrequest: {a: $row}\nresponse: p\nkind: probs\nrate: 60/min\npatience: 2m\n"
    )
    facts = asked_of(str(path), {}, None)
    assert (facts.batch, facts.rate, facts.patience) == (1, 1.0, 120.0)
    planned = run_command("plan", path, "--data", csv, "--queries", 40, "--json", cwd=tmp_path)
    cost = json.loads(planned.stdout)["cost"]
    assert cost["requests"] == cost["rows"] == cost["seconds"]
    assert 3 * 40 <= cost["expected"] < cost["rows"]
    path.write_text("url: https://host.example/p\nrequest: {a: $rows}\nresponse: p\nkind: probs\nbatch: 50\n")
    assert asked_of(str(path), {"endpoint": [{"batch": 7}]}, None).batch == 7
    assert asked_of(str(path), {}, 9).batch == 9


def test_batch_reaches_an_endpoint_file(tmp_path, csv):
    sizes = []

    def service(asked):
        sizes.append(len(asked.json["a"]))
        return {"p": vendors.table(asked.json["a"])}

    with vendors.serving({"m": service}) as server:
        (tmp_path / "e.yaml").write_text(
            f"url: {server.url}/m\nrequest: {{a: $rows}}\nresponse: p\nkind: probs\ntrust_env: false\n"
        )
        found = run_command("audit", "e.yaml", "--data", csv, "--out", "run", "--queries", 40, "--batch", 5, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert max(sizes) == 5


def test_ones_own_content_type_is_the_only_one(tmp_path):
    kinds = []

    def service(asked):
        kinds.append(asked.headers["content-type"])
        return {"p": vendors.table(asked.json["a"])}

    options = {"request": {"a": "$rows"}, "response": "p", "kind": "probs", "trust_env": False}
    with vendors.serving({"m": service}) as server:
        model = open_classifier(f"{server.url}/m", headers={"Content-Type": "application/vnd.x+json"}, **options)
        model.probabilities(ROWS)
        model.close()
    assert set(kinds) == {"application/vnd.x+json"}


def test_a_run_with_unanswered_inputs_exits_3_and_says_how_to_go_on(tmp_path, csv):
    ill = set()

    def service(asked):
        rows = np.array(asked.json["a"])
        if len(rows) > 8 and np.abs(rows - ROWS[1]).max() < 0.1:
            ill.add(rows[4].tobytes())
        if ill & {row.tobytes() for row in rows}:
            return vendors.Said({"error": "x"}, 500)
        return {"p": vendors.table(rows)}

    with vendors.serving({"m": service}) as server:
        (tmp_path / "e.yaml").write_text(
            f"url: {server.url}/m\nrequest: {{a: $rows}}\nresponse: p\nkind: probs\ntrust_env: false\n"
        )
        found = run_command("audit", "e.yaml", "--data", csv, "--out", "run", "--queries", 40, cwd=tmp_path)
    assert found.returncode == 3, found.stderr
    assert "1 inputs are missing because the server did not answer them: 1" in " ".join(found.stdout.split())
    assert "resume with: " in found.stderr


@pytest.mark.parametrize("change_at", [3, 5, 6])
def test_a_version_that_changes_within_the_first_requests_is_said(change_at):
    asked = []

    def service(request):
        asked.append(1)
        rows = np.array(request.json["a"])
        return {"p": vendors.table(rows if len(asked) > change_at else 0.5 * rows)}

    options = {"request": {"a": "$rows"}, "response": "p", "kind": "probs", "trust_env": False}
    with vendors.serving({"m": service}) as server:
        model = open_classifier(f"{server.url}/m", **options)
        meter = Meter(model)
        seen = look(meter, ROWS, "float64")
        sentinels = Sentinels(ROWS, meter)
        sentinels.begin(seen.first)
        model.close()
    assert sentinels.drifts or seen.random
    assert sentinels.tolerance < 1e-4


def test_a_run_is_not_resumed_on_another_model(tmp_path):
    x = np.random.default_rng(6).standard_normal((6, vendors.FEATURES))
    np.save(tmp_path / "x.npy", x)
    swapped, rows = [], []

    def service(asked):
        sent = np.array(asked.json["a"])
        rows.append(len(sent))
        return {"p": vendors.table(0.5 * sent if swapped else sent)}

    with vendors.serving({"m": service}) as server:
        (tmp_path / "e.yaml").write_text(
            f"url: {server.url}/m\nrequest: {{a: $rows}}\nresponse: p\nkind: probs\ntrust_env: false\n"
        )
        command = ("audit", "e.yaml", "--data", "x.npy", "--queries", 40, "--profile", "off")
        first = run_command(*command, "--out", "run", "--budget", 150, cwd=tmp_path)
        assert first.returncode == 3, first.stderr
        measured = [one["index"] for one in json.loads((tmp_path / "run" / "report.json").read_text())["inputs"]]
        assert 0 < len(measured) < 6
        swapped.append(True)
        rows.clear()
        second = run_command(*command, "--out", "run", "--resume", cwd=tmp_path)
        assert second.returncode == 3, second.stderr
        assert sum(rows) == 8  # the sentinels, twice; nothing is measured
        report = json.loads((tmp_path / "run" / "report.json").read_text())
        assert [one["index"] for one in report["inputs"]] == measured
        said = " ".join(second.stdout.split())
        assert said.count("another model answers than at the start") == 1
        assert "--overwrite measures all of the model that answers now, --resume goes on once the first one is back" in said
        swapped.clear()
        third = run_command(*command, "--out", "run", "--resume", cwd=tmp_path)
        assert third.returncode == 0, third.stderr
        whole = json.loads((tmp_path / "run" / "report.json").read_text())
        for row, found in zip(x, whole["inputs"], strict=True):
            assert found["spectral_norm"]["value"] == pytest.approx(vendors.exact(vendors.TABLE, row), rel=0.02)
        swapped.append(True)
        rows.clear()
        assert run_command(*command, "--out", "run", "--resume", cwd=tmp_path).returncode == 0
        assert sum(rows) == 0  # nothing is left to measure
        assert run_command(*command, "--out", "run", "--overwrite", cwd=tmp_path).returncode == 0
    replaced = json.loads((tmp_path / "run" / "report.json").read_text())
    for row, found in zip(x, replaced["inputs"], strict=True):
        assert found["spectral_norm"]["value"] == pytest.approx(vendors.exact(0.5 * vendors.TABLE, row), rel=0.02)
