"""Write requirements.lock: every package of the extras all and dev, pinned, from pip's own resolver. Run by ``make lock``.

Pins carry no local version label, no hashes and no CUDA packages, so that the same file takes whatever build of torch the
machine's pip finds. A requirement that a marker ties to a platform keeps its marker, and its twin for other platforms is
pinned beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
#: Newer releases resolve as well, but pull gigabytes of CUDA packages where no other build is at hand.
FIXED = ("torch==2.13.0",)
#: What a CUDA build of torch brings along is left to torch's own requirements.
CUDA = ("nvidia-", "cuda-", "triton")
HEADER = """\
# Every package of `fimaudit[all,dev]`, pinned. Written by `make lock`; read by `make venv`. Do not edit by hand.
"""


def resolve(*arguments: str) -> dict[str, str]:
    """Name to version of what pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return {canonicalize_name(p["metadata"]["name"]): p["metadata"]["version"].partition("+")[0] for p in found}


def marked() -> list[Requirement]:
    """Our own requirements that carry a marker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [r for r in map(Requirement, lines) if r.marker is not None]


def main() -> None:
    """Resolve and write."""
    pins = resolve("--editable", ".[all,dev]", *FIXED)
    markers: dict[str, str] = {}
    for requirement in marked():
        name = canonicalize_name(requirement.name)
        if name not in pins:
            pins.update(resolve("--no-deps", f"{requirement.name}{requirement.specifier}"))
        markers[name] = f" ; {requirement.marker}"
    kept = sorted(name for name in pins if name != "fimaudit" and not name.startswith(CUDA))
    lines = [f"{name}=={pins[name]}{markers.get(name, '')}" for name in kept]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
