"""Commands against a real limit of the operating system: no room for the journal, and two at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fimaudit.storage.folder_lock import FolderLock

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")


def audit(folder: Path, *more: str, blocks: str = "unlimited") -> subprocess.CompletedProcess[str]:
    """``fimaudit audit`` of the smallest model, whose files may have so many blocks of 1024 bytes."""
    command = [sys.executable, "-m", "fimaudit", "audit", "scripts.crash.linear_model:make", "--queries", "16"]
    command += ["--data", str(folder / "x.npz"), "--out", str(folder / "run"), *more]
    return subprocess.run(
        ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_without_room_ends_in_a_sentence_and_goes_on_with_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(3, 4)))
    full = audit(tmp_path, blocks="4")
    assert full.returncode == 3, full.stderr
    said, how = full.stderr.splitlines()
    assert said.startswith(f"fimaudit: cannot write {tmp_path / 'run' / 'journal.jsonl'}: File too large; what was kept")
    assert "raise the limit of file sizes (ulimit -f), then type the same command again" in said
    assert how.startswith("resume with: fimaudit audit")
    assert how.endswith("--resume")
    with FolderLock(tmp_path / "run"):
        second = audit(tmp_path, "--resume")
    assert second.returncode == 2
    assert len(second.stderr.splitlines()) == 1
    assert f"is in use by another process ({os.getpid()} on " in second.stderr
    again = audit(tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    assert "3 of 3 inputs" in again.stdout
