"""Commands against a real limit of the operating system: no room for the journal, and two at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fimaudit.cli import main
from fimaudit.storage.folder_lock import FolderLock

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")


def command(folder: Path, *more: str) -> list[str]:
    """``audit`` of the smallest model, as typed after ``fimaudit``."""
    given = ["audit", "scripts.crash.linear_model:make", "--queries", "16"]
    return [*given, "--data", str(folder / "x.npz"), "--out", str(folder / "run"), *more]


def without_room(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files may have four blocks of 1024 bytes."""
    return subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", sys.executable, "-m", "fimaudit", *command(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of the command typed again, in this process."""
    monkeypatch.setattr(sys, "argv", ["fimaudit", *command(folder, "--resume")])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_run_without_room_ends_in_a_sentence_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(3, 4)))
    full = without_room(tmp_path)
    assert full.returncode == 3, full.stderr
    said, how = full.stderr.splitlines()
    assert said.startswith(f"fimaudit: cannot write {tmp_path / 'run' / 'journal.jsonl'}: File too large; what was kept")
    assert "raise the limit of file sizes (ulimit -f), then type the same command again" in said
    assert how.startswith("resume with: fimaudit audit")
    assert how.endswith("--resume")
    with FolderLock(tmp_path / "run"):
        assert again(tmp_path, monkeypatch) == 2
    second = capsys.readouterr().err
    assert len(second.splitlines()) == 1
    assert f"is in use by another process ({os.getpid()} on " in second
    assert again(tmp_path, monkeypatch) == 0
    assert "3 of 3 inputs" in capsys.readouterr().out
