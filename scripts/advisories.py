"""Ask an index of advisories about every pinned package, with pip-audit; run by ``make advisories``.

pip-audit ends well also where it could look nothing up: that is distinguished here. Exit 1 where an advisory is found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


def main() -> None:
    """Look every pin up and say what was found, and for how many nothing could be asked."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--requirement",
        str(LOCK),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
    ]
    done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = " ".join(done.stderr.split())[-300:]
        print(f"NOT CHECKED: no index of advisories can be reached from here ({said})")
        return
    asked = [package for package in packages if "skip_reason" not in package]
    for package in asked:
        for one in package["vulns"]:
            print(
                f"{package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'none'}"
            )
    found = sum(bool(package["vulns"]) for package in asked)
    if not asked:
        print(f"NOT CHECKED: no index of advisories can be reached from here; 0 of {len(packages)} packages were looked up")
    else:
        print(f"{len(asked)} of {len(packages)} packages were looked up: {found} with advisories")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
