"""``fimaudit audit URL`` as a user meets it: refusals lose nothing, failures say how to go on, secrets stay; about 10 s."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fimaudit.audit_report import Report
from fimaudit.engines.driver import NETWORK_BLOCK
from tests.command_line import run_command

KEY = "sk-test-12345678"
INFER = "/v2/models/cancer/infer"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def rows(cancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "rows.npy"
    np.save(path, cancer.rows[:4])
    return path


@pytest.fixture(scope="module")
def two_blocks(cancer, tmp_path_factory):
    """More inputs than are measured side by side; before the first of them are done, about 115 requests are answered."""
    path = tmp_path_factory.mktemp("cli") / "many.npy"
    np.save(path, cancer.rows[: NETWORK_BLOCK + 8])
    return path


def test_a_refusal_in_the_preflight_leaves_the_earlier_run_alone(kserve, gateway, cancer, rows, tmp_path):
    out = tmp_path / "run"
    done = run_command("audit", kserve.url + INFER, "--data", rows, "--out", out, "--queries", 12, "--set", "binary=false")
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
        ended = run_command("audit", target, "--data", data, "--out", out, "--queries", 12, "--overwrite", *flags)
        assert says in ended.stderr
        if ended.returncode == 2:
            assert contents(out) == before, says
        else:  # KServe answers a wrong width with 500: the endpoint's failure, which may pass
            assert ended.returncode == 3
            assert contents(out / "replaced-run") == before
            assert "the run to be replaced lies in" in ended.stderr


def test_the_command_that_is_shown_resumes(faults, two_blocks, tmp_path):
    out = tmp_path / "a run"
    faults.set(rate=1.0, kinds=["503"], after=90)
    flags = (
        "--data",
        two_blocks,
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
    failed = run_command("audit", faults.url + INFER, *flags, "--overwrite")
    assert failed.returncode == 3
    assert "Traceback" not in failed.stderr
    assert "in a row were given up; the last: request" in failed.stderr
    assert "HTTP 503: busy" in failed.stderr
    shown = failed.stderr.splitlines()[-1]
    assert shown.startswith("resume with: fimaudit audit ")
    faults.set(rate=0.0)
    words = shlex.split(shown.removeprefix("resume with: fimaudit "))
    assert "--overwrite" not in words
    resumed = run_command(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert len(Report.read(out).inputs) == NETWORK_BLOCK + 8


def test_what_the_server_said_is_for_the_terminal_and_not_for_the_report(faults, two_blocks, tmp_path, caplog):
    faults.set(rate=1.0, kinds=["503"], after=130)
    flags = ("--data", two_blocks, "--out", tmp_path / "run", "--queries", 60, "--batch", 50, "--patience", "0")
    failed = run_command("audit", faults.url + INFER, *flags, "--set", "attempts=2", "--set", "binary=false")
    assert failed.returncode == 3
    assert "HTTP 503: busy" in caplog.text  # on stderr, where nobody has set up logging
    assert "resume with: fimaudit audit" in failed.stderr
    report = Report.read(tmp_path / "run")
    assert len(report.inputs) == NETWORK_BLOCK
    text = report.to_json()
    assert "in a row were given up; the last: request" in text
    assert "HTTP 503" in text
    assert "busy" not in text


def test_a_spent_budget_shows_how_to_go_on(kserve, rows, tmp_path):
    flags = ("--data", rows, "--out", tmp_path / "run", "--queries", 30, "--set", "binary=false")
    partial = run_command("audit", kserve.url + INFER, *flags, "--budget", 150)
    assert partial.returncode == 3
    assert "resume with: fimaudit audit" in partial.stderr
    report = Report.read(tmp_path / "run")
    assert report.summary.queries <= 150
    assert any("budget of 150" in sentence for sentence in report.warnings)
    whole = run_command("audit", kserve.url + INFER, *flags, "--budget", 4000, "--resume")
    assert whole.returncode == 0, whole.stderr


def test_rate_is_a_flag(kserve, rows, tmp_path):
    started = time.monotonic()
    flags = ("--data", rows, "--out", tmp_path / "run", "--queries", 12, "--batch", 20, "--rate", "20/s")
    done = run_command("audit", kserve.url + "/v1/models/cancer:predict", *flags)
    assert done.returncode == 0, done.stderr
    seconds = (Report.read(tmp_path / "run").summary.requests - 1) / 20
    assert time.monotonic() - started >= seconds  # a busy machine only takes longer
    wrong = run_command("audit", kserve.url + "/v1/models/cancer:predict", *flags[:-1], "often")
    assert wrong.returncode == 2
    assert "20/s" in wrong.stderr


def test_no_secret_in_output_files_or_arguments(gateway, rows, tmp_path):
    """Of an endpoint that takes the key, and of one that refuses it."""
    targets = [f"{gateway.url}/{place}/v1/models/cancer:predict" for place in ("key", "401")]
    flags = ("--data", rows, "--queries", 12, "--header-env", "X-API-Key=VENDOR_KEY", "--protocol", "tensorflow_serving")
    env = {**os.environ, "NO_PROXY": "127.0.0.1", "VENDOR_KEY": KEY, "PYTHONDEVMODE": "0"}
    words = [sys.executable, "-c", LOGGING, *targets, *map(str, flags)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, **pipes, text=True, env=env, cwd=tmp_path) as process:
        arguments = Path(f"/proc/{process.pid}/cmdline")
        lines = [process.stdout.readline()]
        seen = [arguments.read_bytes()]  # imported, before the audits
        process.stdin.write("go on\n")
        process.stdin.flush()
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ended "):
                break
        seen.append(arguments.read_bytes())  # after them
        process.stdin.close()
        lines += process.stdout
    said = "".join(lines)
    assert "ended [0, 2]" in said, said
    assert KEY not in said
    assert all(target.encode() in seen[0] for target in targets)
    assert not any(KEY.encode() in arguments for arguments in seen)
    kept = contents(tmp_path)
    assert len([name for name in kept if name.startswith("run0")]) > 4
    assert not any(name.startswith("run1") for name in kept)
    assert not any(KEY.encode() in content for content in kept.values())


#: Two command lines with every log record of every library on stderr; it waits for a line before and after.
LOGGING = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from fimaudit.cli import main
print("ready", flush=True)
sys.stdin.readline()
targets, flags, codes = sys.argv[1:3], sys.argv[3:], []
for n, target in enumerate(targets):
    sys.argv = ["fimaudit", "audit", target, *flags, "--out", f"run{n}"]
    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code)
print("ended", codes, flush=True)
sys.stdin.readline()
"""
