"""The examples for people who decide: each runs as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fimaudit import Report
from fimaudit.evidence.verification import verify_bundle
from fimaudit.policy.gate import Verdict
from fimaudit.policy.rules import read_policy
from tests.command_line import run_command, run_script
from tests.servers import manager

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_medical_gate(tmp_path: Path) -> None:
    done = run_script(EXAMPLES / "onnx_medical_gate.py", "out", cwd=tmp_path)
    verdict = Verdict.model_validate_json((tmp_path / "out" / "run" / "verdict.json").read_bytes())
    assert done.returncode == (0 if verdict.outcome == "pass" else 1), done.stdout + done.stderr
    assert verdict.outcome == "pass", done.stdout
    assert {d.selection for d in verdict.decisions} == {"all inputs", "group small tumour", "group large tumour"}
    assert verify_bundle(tmp_path / "out" / "evidence.zip")[-1].fits
    assert "mean radius" in (tmp_path / "out" / "run" / "report.json").read_text()
    for name in ("junit.xml", "summary.md", "run/report.html"):
        assert (tmp_path / "out" / name).exists()


def commands_of(text: str) -> list[str]:
    return [line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines() if line]


def test_vendor_review(tmp_path: Path) -> None:
    port = manager.free_port()
    shutil.copy(EXAMPLES / "vendor_server.py", tmp_path)
    lines = [line.replace("8765", str(port)) for line in commands_of((EXAMPLES / "vendor_api_audit.md").read_text())]
    start, *rest = lines
    command = [sys.executable, *shlex.split(start.rstrip(" &"))[1:]]
    server = manager.start(command, port, tmp_path / "server.log", ready="/ready")
    try:
        for line in rest:
            command, _, comment = line.partition("  # exit ")
            done = run_command(*shlex.split(command)[1:], cwd=tmp_path)
            assert done.returncode == int(comment or 0), f"{line}\n{done.stdout}{done.stderr}"
    finally:
        server.stop()
    assert len(Report.read(tmp_path / "runs" / "a").inputs) == 12
    assert "the median confidence differs" in (tmp_path / "runs" / "comparison" / "comparison.json").read_text()


def test_ci_gate(tmp_path: Path) -> None:
    """The workflow's own commands, against two small models."""
    onnx = pytest.importorskip("skl2onnx")
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32)
    for name, strength in (("released", 0.1), ("candidate", 0.08)):
        model = LogisticRegression(C=strength, max_iter=500).fit(x[:1500], y[:1500])
        exported = onnx.to_onnx(model, x[:1], options={"zipmap": False})
        (tmp_path / f"{name}.onnx").write_bytes(exported.SerializeToString())
    np.savez(tmp_path / "x.npz", x=x[1500:1530], y=y[1500:1530])
    policy = read_policy(shutil.copy(EXAMPLES / "ci_gate" / "policy.yaml", tmp_path))
    assert policy.needs_baseline()
    workflow = yaml.safe_load((EXAMPLES / "ci_gate" / "workflow.yml").read_text())
    steps = [s["run"] for s in workflow["jobs"]["gate"]["steps"] if s.get("run", "").startswith("fimaudit")]
    assert len(steps) == 4
    for step in steps:
        extra = ["--output", "probabilities"] if " audit " in step else []
        done = run_command(*shlex.split(step)[1:], *extra, cwd=tmp_path)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    assert verify_bundle(tmp_path / "runs" / "evidence.zip")[-1].fits


def test_notebook(tmp_path: Path) -> None:
    book = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    client = NotebookClient(book, timeout=None, startup_timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.kernel_name = "python3"
    client.execute()
    shown = [o.data for cell in book.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    pages = [d["text/html"] for d in shown if "text/html" in d]
    assert len(pages) == 3
    assert "Distance to another answer" in pages[0]
    assert "Input 0" in pages[1]
    assert "median confidence differs" in shown[-2]["text/plain"]


def test_chest_xrays_notebook(tmp_path: Path) -> None:
    """The notebook of the paper's experiment, small, on the digits that it falls back to."""
    book = nbformat.read(EXAMPLES / "chest_xrays.ipynb", as_version=4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = 'DATA = None\nINPUTS = 6\nEPOCHS = 1\nATTACKS = ("deepfool",)\nFAMILIES = ("VGG",)'
    client = NotebookClient(book, timeout=None, startup_timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.kernel_name = "python3"
    client.execute()
    shown = [o.data for cell in book.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    assert "digits" in shown[0]["text/plain"]
    assert sum("image/png" in d for d in shown) == 2
    assert any("rank correlation" in d.get("text/plain", "") for d in shown)
    assert "points" in shown[-2]["text/plain"]


def test_examples_are_there() -> None:
    names = {p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    expected = {"onnx_medical_gate.py", "vendor_api_audit.md", "vendor_server.py", "notebook.ipynb", "chest_xrays.ipynb"}
    expected |= {"ci_gate/policy.yaml", "ci_gate/workflow.yml"}
    assert expected <= names
