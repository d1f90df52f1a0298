"""``fimaudit audit URL`` as a user meets it: refusals lose nothing, failures say how to go on, secrets stay; about 10 s."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import fimaudit.cli
from fimaudit.audit_report import Report

KEY = "sk-test-12345678"
INFER = "/v2/models/cancer/infer"


@dataclass
class Ended:
    returncode: int
    stderr: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line in this process: importing everything anew takes seconds."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["fimaudit", *map(str, arguments)])
        capfd.readouterr()
        try:
            fimaudit.cli.main()
        except SystemExit as stop:
            return Ended(int(stop.code or 0), capfd.readouterr().err)
        return Ended(0, capfd.readouterr().err)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def rows(cancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "rows.npy"
    np.save(path, cancer.rows[:34])  # two blocks of inputs
    return path


def test_a_refusal_in_the_preflight_leaves_the_earlier_run_alone(command, kserve, gateway, cancer, rows, tmp_path):
    out = tmp_path / "run"
    done = command("audit", kserve.url + INFER, "--data", rows, "--out", out, "--queries", 12, "--set", "binary=false")
    assert done.returncode == 0, done.stderr
    before = contents(out)
    assert "ledger.sqlite" in before
    np.save(tmp_path / "narrow.npy", cancer.rows[:3, :7])
    refused = {
        "HTTP 401": (f"{gateway.url}/401/v1/models/cancer:predict", rows, "--protocol", "tensorflow_serving"),
        "HTTP 404": (kserve.url + "/v2/models/nobody/infer", rows, "--set", "binary=false"),
        "--link softmax": (kserve.url + "/v2/models/cancer_logits/infer", rows),
        "rows 0 to 0": (kserve.url + INFER, tmp_path / "narrow.npy", "--set", "attempts=1"),
    }
    for says, (target, data, *flags) in refused.items():
        ended = command("audit", target, "--data", data, "--out", out, "--queries", 12, "--overwrite", *flags)
        assert says in ended.stderr
        if ended.returncode == 2:
            assert contents(out) == before, says
        else:  # KServe answers a wrong width with 500: the endpoint's failure, which may pass
            assert ended.returncode == 3
            assert contents(out / "replaced-run") == before
            assert "the run to be replaced lies in" in ended.stderr


def test_the_command_that_is_shown_resumes(command, faults, rows, tmp_path):
    out = tmp_path / "a run"
    faults.set(rate=1.0, kinds=["503"], after=14)
    flags = (
        "--data",
        rows,
        "--out",
        out,
        "--queries",
        60,
        "--batch",
        50,
        "--set",
        "attempts=2",
        "--rate",
        "200/s",
        "--patience",
        "0",
    )
    failed = command("audit", faults.url + INFER, *flags, "--overwrite")
    assert failed.returncode == 3
    assert "Traceback" not in failed.stderr
    assert "in a row were given up; the last: request" in failed.stderr
    assert "HTTP 503: busy" in failed.stderr
    shown = failed.stderr.splitlines()[-1]
    assert shown.startswith("resume with: fimaudit audit ")
    faults.set(rate=0.0)
    words = shlex.split(shown.removeprefix("resume with: fimaudit "))
    assert "--overwrite" not in words
    resumed = command(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert len(Report.read(out).inputs) == 34


def test_what_the_server_said_is_for_the_terminal_and_not_for_the_report(command, faults, cancer, tmp_path, caplog):
    np.save(tmp_path / "rows.npy", cancer.rows[:70])  # three blocks, of about 130 requests each
    faults.set(rate=1.0, kinds=["503"], after=200)
    flags = ("--data", tmp_path / "rows.npy", "--out", tmp_path / "run", "--queries", 60, "--batch", 50, "--patience", "0")
    failed = command("audit", faults.url + INFER, *flags, "--set", "attempts=2", "--set", "binary=false")
    assert failed.returncode == 3
    assert "HTTP 503: busy" in caplog.text  # on stderr, where nobody has set up logging
    assert "resume with: fimaudit audit" in failed.stderr
    report = Report.read(tmp_path / "run")
    assert 0 < len(report.inputs) < 70
    text = report.to_json()
    assert "in a row were given up; the last: request" in text
    assert "HTTP 503" in text
    assert "busy" not in text


def test_a_spent_budget_shows_how_to_go_on(command, kserve, rows, tmp_path):
    flags = ("--data", rows, "--out", tmp_path / "run", "--queries", 30, "--set", "binary=false")
    partial = command("audit", kserve.url + INFER, *flags, "--budget", 400)
    assert partial.returncode == 3
    assert "resume with: fimaudit audit" in partial.stderr
    report = Report.read(tmp_path / "run")
    assert report.summary.queries <= 400
    assert any("budget of 400" in sentence for sentence in report.warnings)
    whole = command("audit", kserve.url + INFER, *flags, "--budget", 4000, "--resume")
    assert whole.returncode == 0, whole.stderr


def test_rate_is_a_flag(command, kserve, rows, tmp_path):
    started = time.monotonic()
    flags = ("--data", rows, "--out", tmp_path / "run", "--queries", 12, "--batch", 20, "--rate", "20/s")
    done = command("audit", kserve.url + "/v1/models/cancer:predict", *flags)
    assert done.returncode == 0, done.stderr
    seconds = (Report.read(tmp_path / "run").summary.requests - 1) / 20
    assert time.monotonic() - started >= seconds  # a busy machine only takes longer
    wrong = command("audit", kserve.url + "/v1/models/cancer:predict", *flags[:-1], "often")
    assert wrong.returncode == 2
    assert "20/s" in wrong.stderr


@pytest.mark.parametrize("place", ["key", "401"])
def test_no_secret_in_output_files_or_arguments(gateway, rows, tmp_path, place):
    target = f"{gateway.url}/{place}/v1/models/cancer:predict"
    flags = ("--data", rows, "--out", tmp_path / "run", "--queries", 12, "--header-env", "X-API-Key=VENDOR_KEY")
    env = {**os.environ, "NO_PROXY": "127.0.0.1", "VENDOR_KEY": KEY, "PYTHONDEVMODE": "0"}
    words = [sys.executable, "-c", LOGGING, "audit", target, *map(str, flags), "--protocol", "tensorflow_serving"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, **pipes, text=True, env=env) as process:
        arguments = Path(f"/proc/{process.pid}/cmdline")
        lines = [process.stdout.readline()]
        seen = [arguments.read_bytes()]  # imported, before the audit
        process.stdin.write("go on\n")
        process.stdin.flush()
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ended "):
                break
        seen.append(arguments.read_bytes())  # after it
        process.stdin.close()
        lines += process.stdout
    said = "".join(lines)
    assert process.returncode == (0 if place == "key" else 2), said
    assert KEY not in said
    assert target.encode() in seen[0]
    assert not any(KEY.encode() in arguments for arguments in seen)
    kept = contents(tmp_path)
    assert (len(kept) > 4) == (place == "key")
    assert not any(KEY.encode() in content for content in kept.values())


#: The command line with every log record of every library on stderr; it waits for a line before and after.
LOGGING = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from fimaudit.cli import main
print("ready", flush=True)
sys.stdin.readline()
try:
    main()
finally:
    print("ended", "audit", flush=True)
    sys.stdin.readline()
"""
