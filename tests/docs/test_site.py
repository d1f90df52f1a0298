"""The site: its rule for code blocks, its reference beside the program, its links. The pages run in ``make docs``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fimaudit
import fimaudit.cli
from fimaudit import errors
from fimaudit.results import FLAG_WORDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sphinx = pytest.importorskip("sphinx", reason="the extra docs is not installed")
CONF = """
extensions = ["myst_nb", "every_block_runs"]
nb_execution_mode = "off"
import sys
sys.path.insert(0, {extensions!r})
"""
PAGES = {
    "index": "# Top\n\n```{toctree}\nmarked\nunmarked\nnameless\n```\n",
    "marked": "# A\n\n% not run: it needs [a key](index.md)\n```sh\nfimaudit audit x\n```\n\n```yaml\na: 1\n```\n",
    "unmarked": "# B\n\n```python\nprint(1)\n```\n",
    "nameless": "# C\n\n    fimaudit audit x\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A site of four pages under the rule: where it lies, and its warnings."""
    place = tmp_path_factory.mktemp("site")
    (place / "conf.py").write_text(CONF.format(extensions=str(DOCS / "_extensions")))
    for name, text in PAGES.items():
        (place / f"{name}.md").write_text(text)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(place), str(place / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "out", done.stderr


def test_a_block_runs_or_says_why(built: tuple[Path, str]) -> None:
    out, warnings = built
    assert "unmarked.md:3: WARNING: a block of python neither runs nor says why" in warnings
    assert "nameless.md:3: WARNING: a block names no language" in warnings
    assert "/marked.md" not in warnings
    assert "Not run when this page is built: it needs a key." in (out / "marked.html").read_text()


def test_every_export_has_its_page() -> None:
    listed = re.findall(r"^   (\w+)$", (DOCS / "reference" / "python.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(fimaudit.__all__)


def test_the_reference_is_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    import reference_pages

    commands = "\n".join(reference_pages.commands())
    for name, command in ((name, fimaudit.cli.load_command(name)) for name in fimaudit.cli.COMMANDS):
        assert f"## fimaudit {name}" in commands
        for parameter in getattr(command, "params", []):
            for flag in (n for n in parameter.opts if n.startswith("--")):
                assert f"`{flag}`" in commands, f"fimaudit {name} {flag}"
    assert "| `--mode` | `auto`, `black-box`, `white-box` | `auto` |" in commands
    codes = "\n".join(reference_pages.exit_codes())
    assert all(f"`{name}`" in codes for name in errors.__all__)
    flags = "\n".join(reference_pages.input_flags())
    assert all(f"| `{flag}` | {words} |" in flags for flag, words in FLAG_WORDS.items())
    assert "| `margin_radius` | [Interval](#interval) |" in "\n".join(reference_pages.report())


def test_exit_codes_are_explained() -> None:
    page = (DOCS / "reference" / "exit-codes.md").read_text()
    for code in {getattr(errors, name).exit_code for name in errors.__all__} | {0, 1, 130}:
        assert f"| {code} |" in page


def test_llms_txt_is_what_the_pages_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "llms_txt.py"), "--check"]
    assert subprocess.run(command).returncode == 0, "run make llms"
    named = re.findall(r"\]\((docs/[^)]+)\)", (ROOT / "llms.txt").read_text())
    assert len(named) > 25
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_llms_check_notices_a_change(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    (tmp_path / "scripts").mkdir()
    for name in ("llms.txt", "scripts/llms_txt.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "tutorials" / "gate.md"
    page.write_text(page.read_text().replace("# Gate a release in CI", "# Gate releases"))
    assert subprocess.run([sys.executable, str(tmp_path / "scripts" / "llms_txt.py"), "--check"]).returncode == 1


def test_pages_that_messages_name_are_there() -> None:
    named = set()
    for root in (ROOT / "fimaudit", ROOT / "adapters"):
        for file in root.rglob("*.py"):
            named |= set(re.findall(r"(?<![/\w.])docs/[\w/-]+\.md", file.read_text(encoding="utf-8")))
    assert named
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]
