"""A whole audit through failing requests, killed twice and resumed, is the undisturbed audit."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fimaudit.audit_report import Report
from fimaudit.runs.auditing import audit_with_options
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.task import RunSizes
from fimaudit.storage.ledger import open_ledger

BUDGET = 20_000
OPTIONS = {"trust_env": False, "batch": 10, "concurrency": 4, "binary": False, "dtype": "float64"}
#: Inputs, of which so many are measured side by side.
INPUTS, BLOCK = 10, 4
WORKER = """
    import json, sys, numpy as np
    from pathlib import Path
    from fimaudit.runs.auditing import audit_with_options
    from fimaudit.runs.options import AuditOptions
    from fimaudit.runs.task import RunSizes
    url, rows, out, options = sys.argv[1:5]
    options = AuditOptions(queries=40, budget=20000, resume=True, **json.loads(options))
    audit_with_options(url, (np.load(rows), None, None), options, Path(out), sizes=RunSizes(network_block=4))
"""


def audited(url: str, rows: Path, out: Path | None = None, **options: Any) -> Report:
    """An audit of a few inputs at a time."""
    chosen = AuditOptions(queries=40, **OPTIONS, **options)
    return audit_with_options(url, (np.load(rows), None, None), chosen, out, sizes=RunSizes(network_block=BLOCK))


def comparable(report):
    """The report without counts, times and what a failing endpoint adds."""
    plain = json.loads(report.to_json())
    for name in ("environment", "warnings", "model"):
        plain.pop(name, None)
    for name in ("queries", "requests"):
        plain["summary"].pop(name)
    return plain


@pytest.fixture(scope="module")
def rows(cancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, cancer.rows[:INPUTS])
    return path


def test_two_kills_and_a_fifth_of_the_requests_failing(faults, cancer, rows, tmp_path):
    url = f"{faults.url}/v2/models/cancer/infer"
    undisturbed = audited(url, rows, tmp_path / "calm", budget=BUDGET)
    faults.set(rate=0.2, seed=4)
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    out = tmp_path / "disturbed"
    command = [sys.executable, str(script), url, str(rows), str(out), json.dumps(OPTIONS)]
    for _ in range(2):
        faults.kill_after(12, command)
    assert subprocess.run(command).returncode == 0
    disturbed = type(undisturbed).read(out)
    assert comparable(disturbed) == comparable(undisturbed)
    found = faults.counts()
    assert sum(n for kind, n in found["counts"].items() if kind != "none") > 10
    fingerprint = undisturbed.model["details"]["fingerprint"]
    book = open_ledger(out / "ledger.sqlite", fingerprint, resume=True)
    sent = book.requests()
    book.close()
    assert sum(r.rows for r in sent) <= BUDGET
    assert disturbed.summary.queries + disturbed.model["refused_rows"] == sum(r.rows for r in sent)
    # Bodies answered twice: rows in flight at a kill, and those that preflight and sentinels ask again on purpose.
    again = sum(times - 1 for times in Counter(found["answered"]).values())
    assert again <= 2 * 4 + 12 + len(sent) // 20


def test_swapped_classes_end_as_drift_in_the_report(faults, cancer, rows, tmp_path):
    url = f"{faults.url}/v2/models/cancer/infer"
    faults.set(rate=1.0, kinds=["swap"], after=20)
    report = audited(url, rows, budget=BUDGET)
    assert any("another order" in sentence for sentence in report.warnings)


def test_a_spent_budget_ends_with_a_partial_report(faults, rows, tmp_path):
    url = f"{faults.url}/v2/models/cancer/infer"
    report = audited(url, rows, tmp_path / "run", budget=300)
    assert 0 < len(report.inputs) < INPUTS
    assert report.summary.queries <= 300
    assert any("budget of 300" in sentence for sentence in report.warnings)
    whole = audited(url, rows, tmp_path / "run", budget=BUDGET, resume=True)
    assert len(whole.inputs) == INPUTS
