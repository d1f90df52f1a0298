"""Kill, fail and resume at every system call: ``make crash``, or ``python -m scripts.crash --operations local --every 7``.

A point is one system call that touches the run folder, its files or a socket, and what happens to it. What came of each
point is kept in ``--kept``, and a second start goes on from there: what passed is not tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from scripts.crash.disturbing import Undisturbed, disturbed, undisturbed
from scripts.crash.forked_command import run, warmed
from scripts.crash.kept_points import KeptPoints
from scripts.crash.operations import Operation, bundled, clustered, distributed, endpoint, local, served, streamed, validated
from scripts.crash.power_loss import cut_everywhere
from scripts.crash.system_calls import Point

OPERATIONS = ("local", "streamed", "endpoint", "validate", "bundle", "ray")


def main() -> int:
    """Run the table; the exit code is 1 where a point did not pass."""
    options = _parser().parse_args()
    if shutil.which("strace") is None:
        print("expected strace (apt-get install strace), found none", file=sys.stderr)
        return 2
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
            kept = KeptPoints(name, whole.points, options.kept)
            chosen = [point for point in _chosen(whole, options) if not kept.passed(point)]
            print(f"{name}: {len(whole.points)} points, {len(chosen)} of them now", flush=True)
            started, cpu = time.monotonic(), _cpu()
            for point in chosen:
                if time.monotonic() - started < 60 * options.minutes:
                    kept.add(disturbed(operation, whole, point, place))
            taken = {"seconds": round(time.monotonic() - started), "CPU seconds": round(_cpu() - cpu)}
            table[name] = kept.row() | {"points": len(whole.points)} | taken
            failures += kept.failed
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
    """An operation by its name, warmed; what it needs ends with ``stack``."""
    _small_parts_and_no_charts()
    if name == "endpoint":
        return _warm(endpoint(place, stack.enter_context(served())))
    if name == "ray":
        _warm(local(place))  # a driver in this process would keep its threads
        import ray.data  # noqa: F401

        return distributed(place, stack.enter_context(clustered()))
    if name == "bundle":
        finished = _warm(local(place))
        run(finished.arguments, place / "said.txt")
        kept = place / "finished"
        shutil.copytree(finished.folder, kept)
        return _warm(bundled(place, kept))
    makers: dict[str, Callable[[Path], Operation]] = {"local": local, "streamed": streamed, "validate": validated}
    return _warm(makers[name](place))


def _warm(operation: Operation) -> Operation:
    operation.prepare()
    warmed([operation.arguments, operation.again])
    return operation


def _small_parts_and_no_charts() -> None:
    """A small run has several parts; charts touch neither folder nor socket, and take most of a small run."""
    from fimaudit.report import page
    from fimaudit.runs import auditing
    from fimaudit.runs.task import RunSizes

    auditing.audit_with_options = partial(auditing.audit_with_options, sizes=RunSizes(part_inputs=2))
    page.inline_svg = lambda *_, **__: ""


def _cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system + times.user + times.system


def _chosen(whole: Undisturbed, options: argparse.Namespace) -> Sequence[Point]:
    if options.only:
        return [point for point in whole.points if str(point) in options.only]
    points = [p for p in whole.points if not options.faults or p.fault in options.faults]
    if options.sample is not None or options.minutes < float("inf"):  # whatever there is time for is a sample
        most = len(points) if options.sample is None else options.sample
        return random.Random(options.seed).sample(points, min(most, len(points)))
    return points[:: options.every]


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
    parser.add_argument("--kept", type=Path, help="a file of lines, one a point, to go on from; none is kept when left out")
    parser.add_argument("--json", help="write the table there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
