"""One whole audit in one simulated world, with kills and resumes, and what must hold of it: ``simulate``."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import os
import random
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import numpy as np
from fimaudit_adapters.http import endpoint as endpoint_module
from fimaudit_adapters.http.sending import faults, sender, tokens, transport
from fimaudit_adapters.http.sending.pacing import WaitingClock

import fimaudit
from fimaudit.audit_report import Report
from fimaudit.errors import FimauditError
from fimaudit.models import opening
from fimaudit.models.leases import is_refused
from fimaudit.report import page
from fimaudit.storage import ledger as ledger_module
from tests.simulation.network import CHUNK, Killed, Network, Weather
from tests.simulation.server import CLIENT, FEATURES, KEY, PASSWORD, SETTINGS, Server
from tests.simulation.token_client import bridged, tokens_library
from tests.simulation.virtual_time import VirtualLoop

__all__ = ["Outcome", "simulate"]

X = np.random.default_rng(1).normal(size=(2, FEATURES))
OPTIONS: dict[str, Any] = {"queries": 12, "profile": "off", "max_response": 65_536, "trust_env": False, "patience": "10m"}
MOST_STARTS, MOST_POSTS, MOST_SECONDS = 60, 5_000, 7 * 86_400.0
#: Every so many seeds the charts of pages are drawn: they take as long as the rest of an audit of two inputs.
CHARTS_EVERY = 100
#: That a run stopped at another model, not that it noticed one before it measured anything.
STOPPED = re.compile("^the endpoint drifted|inputs were measured: the endpoint drifted")
#: That the answers that are kept lead nowhere, and how to begin without them.
STARTS_ANEW = re.compile("overwrite=True starts anew, without the answers")
ENVIRONMENT = {"SIM_KEY": KEY, "SIM_CLIENT": CLIENT, "SIM_PASSWORD": PASSWORD}


@dataclass
class Outcome:
    """What a seed did.

    Attributes:
        offered: how the service was offered.
        starts: processes of the client.
        posts: requests with rows.
        seconds: of virtual time.
        faults: requests that were spoiled.
        drifted: another model was seen.
        events: what happened, one line each.
    """

    offered: str
    starts: int = 0
    posts: int = 0
    seconds: float = 0.0
    faults: int = 0
    drifted: bool = False
    events: list[str] = field(default_factory=list)


def simulate(seed: int) -> Outcome:
    """Run the audit of one seed to its end and check it.

    Raises:
        AssertionError: an invariant does not hold; ``__notes__`` holds the last events.
    """
    world = _World(seed)
    try:
        with _simulated(world), tempfile.TemporaryDirectory(prefix="fimaudit-simulation-", dir=_memory()) as folder:
            world.folder = Path(folder) / "run"
            world.live()
    except BaseException as exc:
        for line in world.network.events[-40:]:
            exc.add_note(line)
        raise
    return world.outcome


class _World:
    """One seed: the client as its user runs it, and the books that are kept of it from outside."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.charts = seed % CHARTS_EVERY == 0
        self.offered = self.rng.choice(sorted(SETTINGS))
        self.rate = self.rng.choice((None, None, 20.0, 2.0))
        self.budget = self.rng.choice((40, 150, 2_000))
        weather = Weather.drawn(self.rng)
        self.server = Server(self.offered, weather.lifetime)
        self.network = Network(self.server, weather, self.rng, self._snapshot, on_send=self._sent, on_end=self._ended)
        self.outcome = Outcome(self.offered)
        self.folder = Path()
        self.kept: Path | None = None
        self.rows: dict[int, int] = {}
        self.messages: list[str] = []
        self.put_back = False
        self.kept_answers = self.kept_before_swap = 0

    def live(self) -> None:
        """Start, be killed, resume, until the report is whole."""
        for start in range(MOST_STARTS):
            self.outcome.starts = start + 1
            report = self._process()
            assert VirtualLoop.clock.now < MOST_SECONDS, "the run takes weeks"
            if report is not None and not report.data.get("unanswered") and report.data["measured"] == len(X):
                self._check(report)
                return
            said = report.warnings if report is not None else self.messages[-1:]
            if any(STOPPED.search(one) for one in said):  # the run goes on with the model alone that its sentinels know
                self.server.swapped, self.put_back = not self.server.swapped, True
            elif any(STARTS_ANEW.search(one) for one in said):  # answers of both models are kept, and each input met both
                self.server.swapped, self.put_back = False, True
                shutil.rmtree(self.folder)
            if report is not None and any("budget" in warning for warning in report.warnings):
                self.budget *= 2
            VirtualLoop.clock.now += self.rng.uniform(1.0, 400.0)  # until somebody looks
            if self.rng.random() < 0.2:
                self.server.restart()
        raise AssertionError(f"no whole report after {MOST_STARTS} starts; the last message: {self.messages[-1:]}")

    def _process(self) -> Report | None:
        """One process of the client, to its end or its kill."""
        self.network.sent_at.clear()
        self.network.given = 0
        self.network.dead, self.kept = False, None
        if not (self.folder / "ledger.sqlite").exists():
            self.rows.clear()  # a run that was refused before it began
        settings = {**SETTINGS[self.offered], "rate": self.rate}
        url = settings.pop("url")
        try:
            report = fimaudit.audit(
                url, X, out=self.folder, resume=self.folder.exists(), budget=self.budget, **OPTIONS, **settings
            )
        except Killed:
            self._restore()
            report = None
        except FimauditError as error:
            self.messages.append(str(error))
            if "budget" in str(error):
                self.budget *= 2
            report = None
        self.network.events.append(
            f"{VirtualLoop.clock.now:.3f} process ended: {'a report' if report else self.messages[-1:]}"
        )
        self.kept_answers = self._count_answers()
        if not self.kept_answers:
            self.kept_before_swap = 0
        self._check_rate()
        self._check_secrets()
        assert self.network.read <= max(OPTIONS["max_response"], transport.ERROR_BODY) + CHUNK, (
            "a body was read beyond its bound"
        )
        return report

    def _sent(self, rows: int) -> int:
        network = self.network
        assert network.posts < MOST_POSTS, "the run does not end"
        if network.weather.swap is not None and network.posts >= network.weather.swap and not self.put_back:
            if not self.server.swapped:
                self.kept_before_swap = self.kept_answers + self.network.given
            self.server.swapped = True
        self.rows[network.posts] = rows
        assert sum(self.rows.values()) <= self.budget, f"{sum(self.rows.values())} rows sent, {self.budget} allowed"
        return network.posts

    def _ended(self, ticket: int, status: int) -> None:
        """The server turned a request away: its rows do not count."""
        if is_refused("connect" if status == 0 else str(status)):
            self.rows[ticket] = 0

    def _snapshot(self) -> None:
        """What the disk holds at the moment of a kill."""
        self.kept = self.folder.with_name("killed")
        shutil.rmtree(self.kept, ignore_errors=True)
        if self.folder.exists():
            shutil.copytree(self.folder, self.kept)

    def _restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.kept is not None and self.kept.exists():
            self.kept.rename(self.folder)

    def _check_rate(self) -> None:
        if self.rate is None:
            return
        sent = self.network.sent_at
        for before, after in itertools.pairwise(sent):
            assert after - before >= 1 / self.rate - 1e-6, f"two requests {after - before:.4f} s apart at {self.rate}/s"

    def _check_secrets(self) -> None:
        texts = [text.encode() for text in self.messages]
        texts += [path.read_bytes() for path in self.folder.rglob("*") if path.is_file()]
        for secret in self.server.secrets:
            assert not any(secret.encode() in text for text in texts), f"{secret} lies in a file or a message"

    def _check(self, report: Report) -> None:
        outcome, network = self.outcome, self.network
        outcome.posts, outcome.events, outcome.seconds = network.posts, network.events, VirtualLoop.clock.now
        outcome.faults = sum(" POST " in line and not line.endswith(": ok") for line in network.events)
        outcome.drifted = any("drifted" in warning for warning in report.warnings)
        if not outcome.drifted:
            # Swapped before the client was given anything, the other model may be all that it knows.
            other = self.server.swapped and not self.kept_before_swap
            quiet = [_plain(_undisturbed(self.offered, swapped)) for swapped in ((False, True) if other else (False,))]
            assert _plain(report) in quiet, "another report than on a quiet day"
        else:
            assert self.server.swapped or self.put_back, "a drift was seen, but one model answered throughout"
        assert report.summary.queries <= self.budget
        assert not (self.folder.parent / "run.tmp").exists()
        self._check_ledger(report)

    def _count_answers(self) -> int:
        """Answers in the ledger."""
        path = self.folder / "ledger.sqlite"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path)) as base:
            return int(base.execute("SELECT COUNT(*) FROM ends WHERE status = 'ok'").fetchone()[0])

    def _check_ledger(self, report: Report) -> None:
        with closing(sqlite3.connect(self.folder / "ledger.sqlite")) as base:
            assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            sent = base.execute(
                "SELECT ticket, key, rows, status, probabilities FROM requests LEFT JOIN ends USING (ticket) ORDER BY ticket"
            ).fetchall()
            assert base.execute(
                "SELECT COUNT(*) FROM ends WHERE ticket NOT IN (SELECT ticket FROM requests)"
            ).fetchone() == (0,)
        done: set[bytes] = set()
        for ticket, key, rows, status, answers in sent:
            assert key not in done, f"ticket {ticket} sends {rows} rows again whose answer was committed"
            assert (answers is not None) == (status == "ok"), (
                f"ticket {ticket} ended {status}, and its answers do not say so"
            )
            if answers is not None:
                done.add(key)
        counted = sum(rows for _, _, rows, status, _ in sent if status is None or not is_refused(status))
        assert counted == report.summary.queries, f"the ledger counts {counted} rows, the report {report.summary.queries}"
        assert counted >= sum(self.rows.values()), "the ledger counts less than was sent"


def _plain(report: Report) -> Any:
    """What does not depend on how the rows came: all but counts of sends."""
    summary = report.summary.model_dump(exclude={"queries", "requests"})
    return [one.model_dump() for one in report.inputs], summary, report.step.model_dump(), report.data["sha256"]


@cache
def _undisturbed(offered: str, swapped: bool) -> Report:
    """The report of a quiet day, of the first model or of the other."""
    settings = dict(SETTINGS[offered])
    quiet = SimpleNamespace(server=Server(offered, swapped=swapped), rng=random.Random(0), network=None)
    quiet.network = Network(quiet.server, Weather(0.0, (), (), (), 3600.0, {}), quiet.rng, lambda: None)
    with _simulated(quiet, fresh=False):
        return fimaudit.audit(settings.pop("url"), X, **OPTIONS, **settings)


@contextmanager
def _simulated(world: Any, *, fresh: bool = True) -> Iterator[None]:
    """Time, chance and the network are the world's own."""
    before = VirtualLoop.clock.now
    if fresh:
        VirtualLoop.clock.now = 0.0
    wall = SimpleNamespace(time=world.network.wall, monotonic=time.monotonic)
    made = lambda *args, **kwargs: world.network  # noqa: E731
    patches = [
        mock.patch.object(endpoint_module, "Loop", VirtualLoop),
        mock.patch.object(WaitingClock, "now", lambda _: VirtualLoop.clock.now),  # noqa: PT008
        mock.patch.object(httpx, "AsyncHTTPTransport", made),
        mock.patch.object(tokens_library._client, "AsyncHTTPTransport", lambda *a, **k: bridged(world.network)),  # noqa: PT008
        mock.patch.object(sender, "random", SimpleNamespace(Random=lambda: random.Random(world.rng.random()))),
        *(mock.patch.object(module, "time", wall) for module in (tokens, faults, ledger_module)),
        mock.patch.object(opening, "entry_points", _entry_points),
        mock.patch.dict(os.environ, ENVIRONMENT),
    ]
    if not getattr(world, "charts", False):
        patches.append(mock.patch.object(page, "inline_svg", return_value=""))
    logger, level = logging.getLogger("fimaudit"), logging.getLogger("fimaudit").level
    handler = _Messages(getattr(world, "messages", []))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    propagates, logger.propagate = logger.propagate, False
    try:
        for patch in patches:
            patch.start()
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
        if not fresh:
            VirtualLoop.clock.now = before


@cache
def _entry_points(**wanted: str) -> Any:
    """Read once: this takes a fifth of an audit of two inputs."""
    return importlib.metadata.entry_points(**wanted)


class _Messages(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__()
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None
