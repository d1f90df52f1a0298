"""Write requirements.lock: every package of the extras all and dev, pinned, from pip's own resolver. Run by ``make lock``.

Each pin carries the SHA-256 of every file of that version, for all platforms: those of the package index, from its metadata
by uv, and that of the file which pip takes here, where it comes from elsewhere (a CPU build of torch). Pins carry no
local version label and no CUDA packages: what a CUDA build of torch brings along is left to torch's own requirements. A
requirement that a marker ties to a platform keeps its marker, and its twin for other platforms is pinned beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
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
# Every package of `fimaudit[all,dev]`, pinned, with the SHA-256 of its files. Written by `make lock`; read by `make venv`.
# Do not edit by hand.
"""


@dataclass(frozen=True)
class Pin:
    """A version, and the SHA-256 of the file that pip takes here; ``None`` of our own folder."""

    version: str
    sha256: str | None


def resolve(*arguments: str) -> dict[str, Pin]:
    """What pip would install into an empty environment, by name."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return {
        canonicalize_name(p["metadata"]["name"]): Pin(
            p["metadata"]["version"].partition("+")[0],
            p["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256"),
        )
        for p in found
    }


def published(pins: dict[str, Pin]) -> dict[str, set[str]]:
    """SHA-256 of every file of these versions in the package index, by name."""
    asked = "\n".join(f"{name}=={pin.version}" for name, pin in pins.items())
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--no-deps", "--generate-hashes", "--no-header"]
    done = subprocess.run([*command, "--no-annotate", "--quiet"], input=asked, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        start, _, rest = line.strip().removesuffix("\\").strip().partition("==")
        if rest:
            held = found.setdefault(canonicalize_name(start), set())
        elif start.startswith("--hash=sha256:"):
            held.add(start.removeprefix("--hash=sha256:"))
    return found


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
    hashes = published({name: pins[name] for name in kept})
    lines = []
    for name in kept:
        known = sorted(hashes[name] | {pins[name].sha256} - {None})
        lines.append(
            f"{name}=={pins[name].version}{markers.get(name, '')}" + "".join(f" \\\n    --hash=sha256:{h}" for h in known)
        )
    LOCK.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
