"""Kill, fail and resume at every system call: ``make crash``, or ``python -m scripts.crash --operations local --every 7``.

A point is one system call that touches the run folder, its files or a socket, and what happens to it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.crash.disturbing import Found, Undisturbed, disturbed, undisturbed
from scripts.crash.forked_command import run
from scripts.crash.operations import Operation, bundled, clustered, distributed, endpoint, local, served, streamed, validated
from scripts.crash.power_loss import cut_everywhere

IMPORTED = (
    "fimaudit.cli",
    "fimaudit.evidence.bundle",
    "fimaudit.report.page",
    "fimaudit_adapters.function",
    "fimaudit_adapters.http.sending.sender",
)
ATTACKING = (
    "fimaudit.validation.attacks",
    "fimaudit.validation.calibration_plot",
    "fimaudit.validation.smallest_perturbation",
    "matplotlib.figure",
)
DISTRIBUTED = ("ray", "ray.data")
OPERATIONS = ("local", "streamed", "endpoint", "validate", "bundle", "ray")


def main() -> int:
    """Run the table; the exit code is 1 where a point did not pass."""
    options = _parser().parse_args()
    if shutil.which("strace") is None:
        print("expected strace (apt-get install strace), found none", file=sys.stderr)
        return 2
    _import_everything(options.operations)
    if options.never_sync:
        os.fsync = lambda handle: None
    failures = 0
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="fimaudit-crash-") as scratch, ExitStack() as stack:
        for name in options.operations:
            place = Path(scratch).resolve() / name
            place.mkdir()
            operation = made(name, place, stack)
            whole = undisturbed(operation, place)
            chosen = _chosen(whole, options)
            print(f"{name}: {len(whole.points)} points, {len(chosen)} of them now", flush=True)
            started, found = time.monotonic(), []
            for point in chosen:
                if time.monotonic() - started < 60 * options.minutes:
                    found.append(_described(disturbed(operation, whole, point, place)))
            table[name] = _row(found) | {"points": len(whole.points), "seconds": round(time.monotonic() - started)}
            failures += sum(bool(one.wrong) for one in found)
            if options.power and name not in ("bundle", "ray"):
                cuts, lost = cut_everywhere(operation, whole, place, every=options.power)
                table[name] |= {"power cuts": cuts, "power cuts failed": len(lost)}
                failures += len(lost)
            print(json.dumps({name: table[name]}), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=1) + "\n")
    print("all passed" if not failures else f"{failures} FAILED")
    return int(failures > 0)


def made(name: str, place: Path, stack: ExitStack) -> Operation:
    """An operation by its name; what it needs ends with ``stack``."""
    if name == "endpoint":
        return endpoint(place, stack.enter_context(served()))
    if name == "ray":
        return distributed(place, stack.enter_context(clustered()))
    if name == "bundle":
        finished = local(place)
        run(finished.arguments, place / "said.txt")
        kept = place / "finished"
        shutil.copytree(finished.folder, kept)
        return bundled(place, kept)
    makers: dict[str, Callable[[Path], Operation]] = {"local": local, "streamed": streamed, "validate": validated}
    return makers[name](place)


def _import_everything(operations: Sequence[str]) -> None:
    """What commands import, so that a fork of this process begins at once."""
    more = (*(ATTACKING if "validate" in operations else ()), *(DISTRIBUTED if "ray" in operations else ()))
    for name in (*IMPORTED, *more):
        importlib.import_module(name)
    from fimaudit.storage import result_store

    result_store.PART_INPUTS = 2  # so that a small run has several parts


def _chosen(whole: Undisturbed, options: argparse.Namespace) -> list[object]:
    if options.only:
        return [point for point in whole.points if str(point) in options.only]
    points = [p for p in whole.points if not options.faults or p.fault in options.faults]
    if options.sample is not None or options.minutes < float("inf"):  # whatever there is time for is a sample
        most = len(points) if options.sample is None else options.sample
        return random.Random(options.seed).sample(points, min(most, len(points)))
    return points[:: options.every]


def _described(found: Found) -> Found:
    if found.wrong:
        print(f"FAILED {found.point}: {found.wrong}", flush=True)
    return found


def _row(found: list[Found]) -> dict[str, object]:
    tried = Counter(one.point.fault for one in found if one.reached)
    return {
        "tried": dict(sorted(tried.items())),
        "not reached": sum(not one.reached for one in found),
        "failed": sum(bool(one.wrong) for one in found),
        "most rows asked again": max((one.again for one in found), default=0),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.crash", description=__doc__)
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--faults", nargs="+", help="SIGKILL, ENOSPC, EIO, EINTR, EMFILE; all when left out")
    parser.add_argument("--every", type=int, default=1, help="take every so many points")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end each operation's points after so long")
    parser.add_argument("--sample", type=int, help="take so many points, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="points as printed: folder:write:3:SIGKILL")
    parser.add_argument("--power", type=int, default=0, help="cut the power at every so many traced calls too")
    parser.add_argument("--never-sync", action="store_true", help="leave every sync out, to see that it is found out")
    parser.add_argument("--json", help="write the table there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
