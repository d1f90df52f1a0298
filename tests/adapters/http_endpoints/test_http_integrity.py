"""Integrity checks over HTTP: a server with a memory is found, an honest one is not, and a kill changes nothing."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.engines.driver import NETWORK_BLOCK
from fimaudit.models.meter import Meter
from fimaudit.runs.auditing import audit_with_options
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.task import RunSizes
from tests.servers import vendors

RNG = np.random.default_rng(4)
U, W = RNG.normal(size=(12, 16)), RNG.normal(size=(16, 3))
X = RNG.random((6, 12))
OPTIONS = {
    "lower": 0.0, "upper": 1.0, "queries": 180, "integrity": True, "protocol": "tensorflow_serving", "trust_env": False,
}  # fmt: skip


def honest(rows):
    z = np.tanh((rows - 0.5) @ U) @ W * 2
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Shrinks:
    """Near an earlier row it answers a tenth of the step."""

    def __init__(self):
        self.rows, self.count, self.lock = np.empty((4000, 12)), 0, threading.Lock()

    def __call__(self, rows):
        with self.lock:
            return np.concatenate([self._one(row) for row in rows])

    def _one(self, row):
        distance = np.linalg.norm(self.rows[: self.count] - row, axis=1)
        if distance.size and distance.min() < 0.5:
            near = self.rows[int(distance.argmin())]
            return honest((near + 0.1 * (row - near))[None])
        self.rows[self.count] = row
        self.count += 1
        return honest(row[None])


@pytest.fixture
def served():
    """Starts servers of functions; all are ended."""
    with contextlib.ExitStack() as running:

        def serve(function):
            def service(asked):
                if asked.method == "GET":
                    return vendors.Said({}, 404)
                return {"predictions": function(np.array(asked.json["instances"])).tolist()}

            return f"{running.enter_context(vendors.serving({'v1': service})).url}/v1/models/m:predict"

        yield serve


def audited(url, block=NETWORK_BLOCK, out=None, **changes):
    """An audit of so many inputs side by side at most."""
    chosen = AuditOptions(**{**OPTIONS, **changes})
    return audit_with_options(url, (X, None, None), chosen, out, sizes=RunSizes(network_block=block))


def killed_and_resumed(url, folder, calls, monkeypatch, within="integrity", **changes):
    """Killed before so many-th call of the checks, or of the inputs."""
    asked = Meter.ask_each

    def kill(self, questions, *, occasion=None, **others):
        nonlocal calls
        if (occasion or "inputs").startswith(within):
            calls -= 1
            if calls < 0:
                raise KeyboardInterrupt
        return asked(self, questions, occasion=occasion, **others)

    with monkeypatch.context() as patched:
        patched.setattr(Meter, "ask_each", kill)
        with pytest.raises(KeyboardInterrupt):
            audited(url, **changes, out=folder)
    return audited(url, **changes, out=folder, resume=True)


def test_an_honest_server_killed_within_the_checks_and_resumed(served, tmp_path, monkeypatch):
    url = served(honest)
    whole = audit(url, X, **OPTIONS, out=tmp_path / "whole")
    assert [check.outcome for check in whole.integrity] == ["ok"] * 6
    for calls in (1, 9):
        again = killed_and_resumed(url, tmp_path / str(calls), calls, monkeypatch)
        assert again.integrity == whole.integrity
        assert again.inputs == whole.inputs


#: In which the server is asked the same rows in the same order, however often the run is killed.
ONE_BY_ONE = {"concurrency": 1, "batch": 12}


@pytest.mark.parametrize("block", [32, 2])
def test_a_server_with_a_memory_killed_and_resumed_gives_the_same_report(served, tmp_path, monkeypatch, block):
    """What was answered comes from the ledger, and the rest is asked in the order in which it would have been.

    With all inputs side by side, and two by two: then walks go out and come back in other blocks.
    """
    whole = audited(served(Shrinks()), block, **ONE_BY_ONE, out=tmp_path / "whole")
    assert whole.settings["order"] == "interleaved"
    assert whole.contradicted[0].name == "history"
    assert whole.contradicted[0].numbers["contradicting"] == 2
    for within, calls in (("inputs", 6), ("inputs", 12), ("inputs", 17), ("integrity", 5)):
        again = killed_and_resumed(
            served(Shrinks()), tmp_path / f"{within} {calls}", calls, monkeypatch, within, block=block, **ONE_BY_ONE
        )
        assert again.integrity == whole.integrity
        assert again.inputs == whole.inputs
        assert again.summary.queries - whole.summary.queries in (0, 4)  # sentinels, where inputs are left


def test_walks_of_single_rows_killed_between_two_of_them_and_resumed(served, tmp_path, monkeypatch):
    """An endpoint of one row a request takes a walk in thirteen rounds, some after the last input has asked."""
    single = {"concurrency": 1, "batch": 1, "queries": 40}
    whole = audit(served(Shrinks()), X, **{**OPTIONS, **single}, out=tmp_path / "whole")
    assert whole.integrity[0].numbers["contradicting"] == 2
    for calls in (10, 20, 30):
        with monkeypatch.context() as patched:
            patched.setitem(OPTIONS, "queries", 40)
            folder = tmp_path / str(calls)
            again = killed_and_resumed(served(Shrinks()), folder, calls, monkeypatch, "inputs", concurrency=1, batch=1)
        assert again.integrity == whole.integrity
        assert again.inputs == whole.inputs
        assert again.summary.queries - whole.summary.queries in (0, 4)  # sentinels, where inputs are left


class Noting:
    """An honest server that keeps which input each row is a displacement of; decoys between inputs are none's."""

    def __init__(self):
        self.near = []

    def __call__(self, rows):
        distance = np.linalg.norm(rows[:, None] - X[None], axis=2)
        self.near += distance.argmin(axis=1)[distance.min(axis=1) < 0.1].tolist()
        return honest(rows)


class Corners:
    """An honest server that keeps of each request how far its rows are from the nearest input at most."""

    def __init__(self):
        self.far = []

    def __call__(self, rows):
        self.far.append(np.linalg.norm(rows[:, None] - X[None], axis=2).min(axis=1).max())
        return honest(rows)


def test_walks_go_out_and_come_back_among_the_requests_of_inputs(served):
    """A walk ends in a corner, which lies far from any input; what is asked once results are known comes after both."""
    server = Corners()
    report = audited(served(server), 2, concurrency=1, batch=64)
    far = [place for place, distance in enumerate(server.far) if distance > 0.9]
    assert report.integrity[0].numbers["walks"] == 2
    assert len(far) >= 4
    after_inputs = len(server.far) - sum(check.rows for check in report.integrity[2:])
    ways = [place for place in far if place < after_inputs]
    assert len(ways) >= 4
    assert ways[0] > 6
    assert ways[-1] - ways[0] > len(server.far) / 4


def test_rows_of_many_inputs_are_interleaved_unless_asked_otherwise(served, tmp_path):
    servers, options = {"inputs": Noting(), None: Noting()}, {**OPTIONS, "queries": 40}
    reports = {}
    for order, server in servers.items():
        chosen = {} if order is None else {"order": order}
        reports[order] = audit(served(server), X, **options, **chosen, concurrency=1, batch=1, out=tmp_path / str(order))
    assert reports[None].settings["order"] == "interleaved"
    assert reports[None].integrity == reports["inputs"].integrity
    assert reports[None].inputs == reports["inputs"].inputs
    assert reports[None].summary == reports["inputs"].summary
    turns = {order: np.mean(np.diff(server.near) != 0) for order, server in servers.items()}
    assert turns["inputs"] < 0.3  # of the rows, those that follow one of another input
    assert turns[None] > 2 * turns["inputs"]
