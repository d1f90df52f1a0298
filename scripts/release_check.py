"""Do what a release needs and one machine can: build, check, install the wheel alone, run it. Run by ``make release-check``.

    python scripts/release_check.py [--out dist] [--core]

1. The version stands everywhere alike: pyproject.toml, the changelog's top, CITATION.cff.
2. sdist and wheel are built, the wheel from the sdist, from the files that git knows and nothing else.
3. ``twine check --strict``: the index would take them, and shows the README.
4. The wheel goes into a new environment with the extras that the demo needs, at the versions of requirements.lock; there it
   runs ``fimaudit demo`` in an empty folder. ``--core`` installs no extras and runs ``fimaudit plan`` in place of it.

What needs other machines (macOS, Windows, newer Pythons, attestation, the index itself) is in .github/workflows/release.yml.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEMO_EXTRAS = "onnx,torch,sklearn"
#: What a wheel holds: the two packages, and what says where they come from. No tests, no pages, nothing that a run left.
SHIPPED = re.compile(r"(fimaudit|fimaudit_adapters|fimaudit-[^/]+\.dist-info)/")


def main() -> int:
    """All steps; ends with the sentence of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--core", action="store_true", help="install the core without extras, and do not run the demo")
    options = parser.parse_args()
    print_line(f"version {check_versions()}")
    with tempfile.TemporaryDirectory() as place:
        sdist, wheel = build(Path(place), options.out)
        check_contents(sdist, wheel)
        run([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)])
        try_wheel(Path(place), wheel, core=options.core)
    print_line(f"ready: {sdist.name}, {wheel.name} in {options.out}")
    return 0


def check_versions() -> str:
    """The one version, or an error that names the places that disagree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    found = {"pyproject.toml": project, "CHANGELOG.md": changelog and changelog[1], "CITATION.cff": citation}
    if len(set(found.values())) > 1:
        sys.exit(f"expected one version, got {found}")
    return str(project)


def build(place: Path, out: Path) -> tuple[Path, Path]:
    """sdist, and the wheel that follows from it, of the files that git knows."""
    source = place / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    shutil.rmtree(out, ignore_errors=True)
    # Without isolation: setuptools is pinned in the lock.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], quiet=True)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def check_contents(sdist: Path, wheel: Path) -> None:
    """Both hold the licence and every module; the wheel holds nothing that is not the library."""
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fimaudit").rglob("*.py")}
    held = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    problems = [f"the wheel lacks {name}" for name in sorted(modules - held)]
    problems += [f"the sdist lacks {name}" for name in sorted({*modules, "LICENSE", "README.md", "pyproject.toml"} - source)]
    problems += [f"the wheel holds {name}" for name in sorted(held) if not SHIPPED.match(name)]
    if not any(name.endswith("licenses/LICENSE") for name in held):
        problems.append("the wheel lacks the licence")
    if problems:
        sys.exit("; ".join(problems))
    print_line(
        f"wheel: {len(held)} files, {wheel.stat().st_size / 2**20:.1f} MiB; sdist: {sdist.stat().st_size / 2**20:.1f} MiB"
    )


def try_wheel(place: Path, wheel: Path, *, core: bool) -> None:
    """The wheel alone in a new environment does what the README shows."""
    venv.create(place / "clean", with_pip=True)
    scripts = place / "clean" / ("Scripts" if sys.platform == "win32" else "bin")
    what = str(wheel) if core else f"{wheel}[{DEMO_EXTRAS}]"
    install = [str(scripts / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pins = place / "pins.txt"
    pins.write_text(pins_of((ROOT / "requirements.lock").read_text(encoding="utf-8")), encoding="utf-8")
    run([*install, "-c", str(pins), what], quiet=True)
    empty = place / "empty"
    empty.mkdir()
    for command in (["--version"], ["plan", "--inputs", "100", "--features", "30"] if core else ["demo"]):
        run([str(scripts / "fimaudit"), *command], cwd=empty)
    where = subprocess.run(
        [str(scripts / "python"), "-c", "import fimaudit; print(fimaudit.__file__)"],
        cwd=empty,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(where).is_relative_to(place):
        sys.exit(f"expected the installed library, the program took {where}")


def pins_of(lock: str) -> str:
    """The versions of a lock without its hashes, with which pip would ask for one of the wheel that was just built."""
    return "".join(line.rstrip(" \\") + "\n" for line in lock.splitlines() if line[:1].isalnum())


def clean_environment() -> dict[str, str]:
    """This environment without what points Python at other code."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(command: list[str], cwd: Path = ROOT, *, quiet: bool = False) -> None:
    """A step; its failure ends the check."""
    kept = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=cwd, env=clean_environment(), stdout=kept, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout or ''}\nfailed with exit code {done.returncode}: {' '.join(command)}")


def print_line(sentence: str) -> None:
    """A line of what was found."""
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
