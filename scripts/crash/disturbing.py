"""Disturb an operation at one point, type the command again, and compare with the undisturbed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.crash.forked_command import Ended, run
from scripts.crash.operations import Operation
from scripts.crash.system_calls import KILL, Point, disturbing, points, watching

#: Exit codes of a refusal or a failure in a sentence.
REFUSED = (2, 3)


@dataclass(frozen=True)
class Undisturbed:
    """What a run is without disturbance: its outcome, its rows, and the points it passes."""

    outcome: Mapping[str, object]
    rows: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Found:
    """What came of one point; ``wrong`` is empty where all is as it must be, and threads may pass a point by."""

    point: Point
    ended: Ended
    again: int
    wrong: str = ""
    reached: bool = True


def undisturbed(operation: Operation, place: Path) -> Undisturbed:
    """Run an operation once for each place, to know its points and, from the first, its outcome."""
    passed: list[Point] = []
    outcome: Mapping[str, object] | None = None
    rows = 0
    for where in operation.watched:
        trace = place / "trace.txt"
        before = _rows_before(operation)
        operation.prepare()
        options = ["-o", str(trace), *watching(where, operation.paths)]
        ended = run(operation.arguments, place / "said.txt", options, threads=operation.threads)
        if ended.code:
            raise RuntimeError(f"the undisturbed command ended with {ended.code}: {ended.stderr}")
        if outcome is None:
            outcome, rows = operation.outcome(), operation.rows() - before
        passed += points(where, trace.read_text(errors="replace"))
    assert outcome is not None
    return Undisturbed(outcome, rows, tuple(passed))


def disturbed(operation: Operation, whole: Undisturbed, point: Point, place: Path) -> Found:
    """Disturb one point and type the command again."""
    before = _rows_before(operation)
    operation.prepare()
    log = place / "said.txt"
    options = ["-o", str(place / "trace.txt"), *watching(point.place, operation.paths), *disturbing(point)]
    ended = run(operation.arguments, log, options, threads=operation.threads)
    wrong = _wrong_end(point, ended)
    if ended.code != -9 and "(INJECTED)" not in (place / "trace.txt").read_text(errors="replace"):
        return Found(point, ended, 0, wrong, reached=False)
    # What could not be deleted holds nobody up: the next command deletes it.
    if not wrong and (ended.code != 0 or operation.left_over()):
        resumed = run(operation.again, log)
        if resumed.code != 0:
            wrong = f"the command typed again ended with {resumed.code}: {resumed.stderr.strip()[-400:]}"
    if wrong:
        return Found(point, ended, 0, wrong)
    outcome = operation.outcome()
    again = operation.rows() - before - whole.rows
    other = differences(whole.outcome, outcome)
    if other:
        wrong = f"another outcome: {'; '.join(other[:3])}"
    elif again > operation.most_again:
        wrong = f"{again} rows were asked again, at most {operation.most_again} were in flight"
    return Found(point, ended, again, wrong)


def differences(before: object, now: object, at: str = "") -> list[str]:
    """Where two outcomes differ, and in what."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now})
        return [found for key in keys for found in differences(before.get(key), now.get(key), f"{at}/{key}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [found for k, pair in enumerate(zip(before, now, strict=True)) for found in differences(*pair, f"{at}/{k}")]
    return [] if before == now else [f"{at} was {str(before)[:200]}, is {str(now)[:200]}"]


def _rows_before(operation: Operation) -> int:
    return operation.rows() if "socket" in operation.watched else 0


def _wrong_end(point: Point, ended: Ended) -> str:
    """Why the disturbed command itself did not end as it must."""
    if ended.code is None:
        return "it hung"
    if ended.code == -9 and point.fault == KILL:
        return ""
    said = [line for line in ended.stderr.splitlines() if line.startswith("fimaudit: ")]
    if "Traceback" in ended.stderr or ended.code not in (0, *REFUSED):
        return f"it ended with {ended.code}: {ended.stderr.strip()[-600:]}"
    if ended.code in REFUSED and len(said) != 1 and "resume with:" not in ended.stderr:
        return f"it ended with {ended.code} and without a sentence: {ended.stderr.strip()[-400:]}"
    return ""
