"""What a release and its workflows need: one version, targets that exist, files that parse."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(path: Path) -> None:
    """Each step's make target, script and extra exists."""
    jobs = yaml.safe_load(path.read_text())["jobs"]
    makefile = (ROOT / "Makefile").read_text()
    for job in jobs.values():
        assert set(job.get("needs") if isinstance(job.get("needs"), list) else [job.get("needs")]) <= {*jobs, None}
        for run in (step.get("run", "") for step in job["steps"]):
            for target in re.findall(r"\bmake ([a-z-]+)", run):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
            for file in re.findall(r"(?:^|\s)((?:\.ci|examples|tests)/[\w./-]+)", run):
                assert (ROOT / file).exists(), file
            for extras in re.findall(r"\.\[([a-z,-]+)\]", run):
                known = re.findall(r"^([a-z-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
                assert set(extras.split(",")) <= set(known)


def test_the_pins_that_the_wheel_is_tried_with_hold_no_hash() -> None:
    """With one, pip asks for the hash of the wheel too, which was built a moment ago."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import release_check as r"
    code += "; print(r.pins_of(sys.argv[1]))"
    lock = "# by a program\nnumpy==2.4.6 \\\n    --hash=sha256:0a \\\n    --hash=sha256:0b\nscipy==1.17.1\n"
    done = subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["numpy==2.4.6", "scipy==1.17.1"]


def test_every_python_and_system_tries_the_release() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["try"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["kind"] == ["whl", "tar.gz"]


def check_versions(root: Path) -> subprocess.CompletedProcess[str]:
    """The first step of ``make release-check`` on a copy."""
    code = f"import sys; sys.path.insert(0, {str(root / 'scripts')!r}); import release_check as r; print(r.check_versions())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_versions_that_disagree_are_named(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "scripts/release_check.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    assert check_versions(tmp_path).returncode == 0
    citation = tmp_path / "CITATION.cff"
    citation.write_text(re.sub(r"^version: .*$", "version: 9.9.9", citation.read_text(), flags=re.MULTILINE))
    done = check_versions(tmp_path)
    assert done.returncode == 1
    assert "'CITATION.cff': '9.9.9'" in done.stderr
