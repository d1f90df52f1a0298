"""Outages, minute windows, spent quotas and polls that fail, on a simulated clock: the answers are those of a quiet day."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter

import numpy as np
import pytest
from fimaudit_adapters.http.sending.faults import after_status
from fimaudit_adapters.http.sending.pacing import WaitingClock

import fimaudit
from fimaudit.errors import BudgetExhausted, ModelFailure, OutputError, TargetError
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.storage.ledger import open_ledger
from tests.servers import vendors

ROWS = np.random.default_rng(1).standard_normal((120, vendors.FEATURES))
FORMAT = {"request": {"x": "$rows"}, "response": "p", "kind": "probs", "batch": 10, "concurrency": 4}


class Simulated:
    """Time that passes while somebody sleeps, and no other."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(WaitingClock, "now", lambda _: self.now)
        monkeypatch.setattr(WaitingClock, "sleep", lambda _, seconds: self.sleep(seconds))

    async def sleep(self, seconds):
        until = self.now + max(seconds, 1e-3)
        await asyncio.sleep(0)
        self.now = max(self.now, until)


class Service:
    """A model that answers unless ``spoil`` says otherwise; knows what it has answered."""

    def __init__(self):
        self.spoil = lambda asked: None
        self.answered = Counter()
        self.posts = 0

    def __call__(self, asked):
        self.posts += 1
        wrong = self.spoil(asked)
        if wrong is not None:
            return wrong
        self.answered[asked.body] += 1
        return {"p": vendors.table(asked.json["x"])}


@pytest.fixture
def clock(monkeypatch):
    return Simulated(monkeypatch)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def server(service):
    with vendors.serving({"m": service}) as running:
        yield running


def test_ten_minutes_without_an_answer_are_waited_out(clock, service, server, connect, tmp_path, caplog):
    model = connect(f"{server.url}/m", **FORMAT)
    book = open_ledger(tmp_path / "ledger.sqlite", model.fingerprint)
    meter = Meter(model, ledger=book, budget=145)
    meter.ask([PlainRows(ROWS[:20])])
    began = clock.now
    service.spoil = lambda asked: vendors.Said({"error": "busy"}, 503) if clock.now < began + 600 else None
    with caplog.at_level(logging.WARNING, "fimaudit.http"):
        (got,) = meter.ask([PlainRows(ROWS)])
    assert np.allclose(got, vendors.table(ROWS))
    assert clock.now >= began + 600
    assert max(service.answered.values()) == 1
    assert meter.usage.rows <= 145
    assert meter.usage.refused > 0
    assert "the endpoint does not answer" in caplog.text
    assert any("was out 1 times, for" in note for note in model.info.notes)
    book.close()
    again = open_ledger(tmp_path / "ledger.sqlite", model.fingerprint, resume=True)
    assert (again.usage().rows, again.usage().refused) == (meter.usage.rows, meter.usage.refused)
    again.close()


def test_an_outage_just_as_the_size_of_requests_is_looked_for_is_waited_out_too(clock, service, server, connect):
    """Seen in a storm: the run ended after 8 sends, though one row had been answered."""
    model = connect(f"{server.url}/m", **FORMAT)
    service.spoil = lambda asked: vendors.Said({"error": "busy"}, 503) if service.posts > 1 and clock.now < 600 else None
    meter = Meter(model, budget=145)
    (got,) = meter.ask([PlainRows(ROWS)])
    assert np.allclose(got, vendors.table(ROWS))
    assert clock.now >= 600
    assert max(map(len, (json.loads(body)["x"] for body in service.answered))) == 10
    assert meter.usage.rows <= 121


def test_patience_ends(clock, service, server, connect):
    model = connect(f"{server.url}/m", patience="2m", **FORMAT)
    meter = Meter(model)
    meter.ask([PlainRows(ROWS[:20])])
    service.spoil = lambda asked: vendors.Said({"error": "busy"}, 503)
    began = clock.now
    with pytest.raises(ModelFailure, match="resume=True"):
        meter.ask([PlainRows(ROWS)])
    assert 120 <= clock.now - began < 600


def test_a_wrong_address_is_not_waited_for(clock, server, connect):
    began = clock.now
    with pytest.raises((TargetError, OutputError, ModelFailure)):
        connect("http://127.0.0.1:9/m", **FORMAT).probabilities(ROWS[:1])
    assert clock.now - began < 60


def test_a_limit_by_the_minute_is_kept_without_being_announced(clock, service, server, connect):
    sent = Counter()

    def by_the_minute(asked):
        minute = int(clock.now // 60)
        sent[minute] += 1
        return vendors.Said({"error": "too many requests"}, 429) if sent[minute] > 3 else None

    model = connect(f"{server.url}/m", **FORMAT)
    service.spoil = by_the_minute
    meter = Meter(model, budget=200)
    (got,) = meter.ask([PlainRows(ROWS)])
    assert np.allclose(got, vendors.table(ROWS))
    assert clock.now > 120
    assert meter.usage.rows <= 140
    assert max(service.answered.values()) == 1


def test_refused_rows_count_where_a_flag_says_so(clock, service, server, connect):
    model = connect(f"{server.url}/m", **FORMAT)
    refused = iter([True, True])
    service.spoil = lambda asked: vendors.Said({}, 503) if next(refused, False) else None
    counted = Meter(model, count_refused=True)
    counted.ask([PlainRows(ROWS[:10])])
    assert counted.usage.refused == 2
    assert counted.usage.rows == 13  # one row first, twice refused, then ten


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (429, "You exceeded your current quota, please check your plan and billing details", "quota"),
        (403, "Out of call volume quota. Quota will be replenished in 12 days", "quota"),
        (402, "Payment required", "quota"),
        (429, "Quota exceeded for requests per minute", "busy"),
        (429, "slow down", "busy"),
        (400, '{"__type": "ThrottlingException", "message": "Rate exceeded"}', "busy"),
        (403, "userRateLimitExceeded", "busy"),
        (401, "Incorrect API key provided", "settings"),
        (403, "this key may not use this model", "settings"),
    ],
)
def test_spent_quotas_are_no_wrong_keys(status, text, kind):
    assert after_status(status, {}, text.encode(), ()).kind == kind


def test_an_input_that_the_server_failed_is_asked_again_and_is_not_finished(clock, service, server, tmp_path):
    x = ROWS[:4]
    options = {"queries": 40, "profile": "off", "trust_env": False, "patience": 0, "attempts": 2, **FORMAT, "batch": 40}
    quiet = fimaudit.audit(f"{server.url}/m", x, **options)
    ill, rows = {"on": True}, set()

    def sick(asked):
        """Once an input is measured, one of its rows is answered no more."""
        sent = np.array(asked.json["x"])
        own = {row.tobytes() for row in sent}
        if len(sent) > 8 and np.abs(sent - x[2]).max() < 0.1:
            rows.add(sent[4].tobytes())
        return vendors.Said({"error": "x"}, 500) if ill["on"] and own & rows else None

    service.spoil = sick
    out = tmp_path / "run"
    first = fimaudit.audit(f"{server.url}/m", x, out=out, **options)
    assert first.data["unanswered"] == [2]
    assert [s.index for s in first.inputs] == [0, 1, 3]
    assert any("resume=True asks them again" in warning for warning in first.warnings)
    ill["on"] = False
    second = fimaudit.audit(f"{server.url}/m", x, out=out, resume=True, **options)
    assert second.data["unanswered"] == []
    assert [s.spectral_norm for s in second.inputs] == [s.spectral_norm for s in quiet.inputs]


def test_looking_for_a_result_may_fail_and_sends_no_row_twice(clock, connect):
    jobs, looks = {}, Counter()

    def background(asked):
        if asked.method == "POST":
            jobs[str(len(jobs))] = vendors.table(asked.json["x"])
            where = f"/m/jobs/{len(jobs) - 1}"
            return vendors.Said({}, 202, {"Location": where, "Retry-After": "2"})
        name = asked.path.rsplit("/", 1)[-1]
        looks[name] += 1
        if looks[name] == 1:
            return vendors.Said({"error": "x"}, 502)
        if looks[name] == 2:
            return vendors.Said({}, 202)
        if looks[name] == 3:
            return vendors.Said({}, 303, {"Location": f"/m/results/{name}"})
        return {"p": jobs[name]}

    with vendors.serving({"m": background}) as server:
        with pytest.raises(TargetError, match="say poll"):
            connect(f"{server.url}/m", **FORMAT).probabilities(ROWS[:1])
        jobs.clear()
        looks.clear()
        got = connect(f"{server.url}/m", poll={}, **FORMAT).probabilities(ROWS[:30])
        assert np.allclose(got, vendors.table(ROWS[:30]))
        assert len(jobs) == 4  # one row, then three requests


def test_results_elsewhere_are_not_fetched_with_credentials(clock, connect, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "key-1234")

    def elsewhere(asked):
        return vendors.Said({}, 202, {"Location": "https://other.example/steal"})

    with (
        vendors.serving({"m": elsewhere}) as server,
        pytest.raises(TargetError, match="another host"),
    ):
        connect(f"{server.url}/m", poll={}, bearer_env="SOME_KEY", **FORMAT).probabilities(ROWS[:1])


def test_work_that_fails_is_said(clock, connect):
    def failing(asked):
        return {"id": 1, "status": "failed", "error": "out of memory"}

    poll = {"url": "/m/jobs/{id}", "done": "status == 'ok'", "failed": "status == 'failed'"}
    with vendors.serving({"m": failing}) as server, pytest.raises(ModelFailure, match="work failed"):
        connect(f"{server.url}/m", poll=poll, **FORMAT).probabilities(ROWS[:1])


def test_each_request_is_one_line_of_the_log(service, server, connect, caplog):
    with caplog.at_level(logging.INFO, "fimaudit.http"):
        connect(f"{server.url}/m", **FORMAT).probabilities(ROWS[:1])
    assert any(line.startswith("request 1: 1 rows, ok, ") for line in caplog.messages)


class Storm:
    """Answers in the background, behind tokens that run out, a limit by the minute, garbage and an outage of ten minutes."""

    def __init__(self, clock, calm):
        self.clock, self.calm = clock, calm
        self.random = np.random.default_rng(5)
        self.tokens, self.issued, self.posts = 1, 0.0, 0
        self.jobs, self.answered, self.lock = [], Counter(), threading.Lock()
        self.by_minute, self.limited = Counter(), 0
        self.began = None

    def token(self, asked):
        self.issued = self.clock.now
        return {"access_token": f"token-{self.tokens}", "token_type": "Bearer", "expires_in": 36000}

    def model(self, asked):
        if not self.calm:
            spoiled = self.spoiled(asked)
            if spoiled is not None:
                return spoiled
        if asked.method == "POST":
            rows = asked.json["x"]
            with self.lock:
                self.jobs.append((rows, vendors.table(rows)))
                return vendors.Said({"id": len(self.jobs) - 1}, 202)
        rows, p = self.jobs[int(asked.path.rsplit("/", 1)[-1])]
        with self.lock:  # row by row: a request that drew garbage twice is sent again in halves
            self.answered.update(map(tuple, rows))
        return {"status": "ok", "p": p}

    def spoiled(self, asked):
        self.posts += asked.method == "POST"
        if self.posts == 25:
            self.began = self.began or self.clock.now
        if self.began is not None and self.clock.now < self.began + 600:
            return vendors.Said({"error": "down"}, 503)
        if asked.method == "POST":
            self.by_minute[minute := int(self.clock.now // 60)] += 1
            if self.by_minute[minute] > 8:
                self.limited += 1
                return vendors.Said({"error": "too many requests"}, 429)
            # A token that was just handed out holds for what is sent with it; two that fail in a row are wrong credentials.
            self.tokens += self.clock.now > self.issued + 60 and self.random.random() < 0.2
        if asked.headers["authorization"] != f"Bearer token-{self.tokens}":
            return vendors.Said({"error": "expired"}, 401)
        if self.random.random() < 0.25:
            kind = self.random.choice(["429", "502", "503", "garbage", "working"])
            if kind == "garbage":
                return b'{"status": "ok", "p": [[0.1'
            if kind == "working":
                return {"status": "working"} if asked.method == "GET" else None
            return vendors.Said({"error": "x"}, int(kind))
        return None


def test_a_whole_run_in_a_storm_gives_the_report_of_a_quiet_day(clock, monkeypatch, tmp_path):
    pytest.importorskip("authlib")
    x, reports, storms = ROWS[:3], [], []
    for calm in (True, False):
        storm = Storm(clock, calm)
        with vendors.serving({"m": storm.model, "token": storm.token}) as server:
            report = fimaudit.audit(
                f"{server.url}/m", x, queries=40, out=tmp_path / str(calm), budget=400, trust_env=False,
                oauth={"token_url": f"{server.url}/token"}, poll={"url": "/m/{id}", "done": "status == 'ok'"}, **FORMAT,
            )  # fmt: skip
        assert not server.errors
        reports.append(report)
        storms.append(storm)
    (quiet, stormy), (calm, storm) = reports, storms
    assert stormy.inputs == quiet.inputs
    assert stormy.data["unanswered"] == []
    assert stormy.model["refused_rows"] > 0
    assert stormy.summary.queries <= 400
    assert storm.began is not None
    assert storm.limited > 0
    assert storm.tokens > 1
    assert storm.answered == calm.answered  # what was answered once is not sent again
    assert any("was out" in warning for warning in stormy.warnings)


@pytest.fixture
def tokens(monkeypatch):
    """An issuer of tokens that the model refuses when somebody says so, and settings that ask it."""
    pytest.importorskip("authlib")
    monkeypatch.setenv("SOME_ID", "id-1234")
    monkeypatch.setenv("SOME_SECRET", "secret-1234")

    class Issuer:
        issued, refusals = 1, iter(())

        def __call__(self, asked):
            status = next(self.refusals, None)
            if status is not None:
                return vendors.Said({"error": "busy"}, status)
            return {"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": 36000}

        def settings(self, url):
            return {"oauth": {"token_url": f"{url}/token", "client_id_env": "SOME_ID", "client_secret_env": "SOME_SECRET"}}

    return Issuer()


def test_the_rate_holds_where_rows_are_sent_again_with_another_token(clock, service, tokens, connect):
    sent = []

    def expiring(asked):
        sent.append(clock.now)
        if len(sent) % 3 == 0:
            tokens.issued += 1
        if asked.headers["authorization"] != f"Bearer token-{tokens.issued}":
            return vendors.Said({"error": "expired"}, 401)
        return None

    service.spoil = expiring
    with vendors.serving({"m": service, "token": tokens}) as server:
        one_by_one = {**FORMAT, "concurrency": 1}  # so that a request is sent when the clock says so
        model = connect(f"{server.url}/m", rate="2/s", **tokens.settings(server.url), **one_by_one)
        (got,) = Meter(model).ask([PlainRows(ROWS[:60])])
    assert np.allclose(got, vendors.table(ROWS[:60]))
    assert tokens.issued > 2
    assert min(np.diff(sent)) >= 0.5 - 1e-9


def test_an_issuer_that_is_out_for_a_moment_is_asked_again(clock, service, tokens, connect):
    tokens.refusals = iter([503, 502])
    with vendors.serving({"m": service, "token": tokens}) as server:
        got = connect(f"{server.url}/m", **tokens.settings(server.url), **FORMAT).probabilities(ROWS[:3])
    assert np.allclose(got, vendors.table(ROWS[:3]))


def test_rows_that_were_taken_count_whatever_a_look_for_their_result_is_answered(clock, connect):
    taken = []

    def forgetful(asked):
        if asked.method == "POST":
            taken.append(len(asked.json["x"]))
            return vendors.Said({"id": len(taken)}, 202)
        return vendors.Said({"error": "no such job"}, 404)

    with vendors.serving({"m": forgetful}) as server:
        meter = Meter(connect(f"{server.url}/m", poll={"url": "/m/{id}"}, **FORMAT), budget=1)
        with pytest.raises((TargetError, ModelFailure)):
            meter.ask([PlainRows(ROWS[:1])])
        assert (meter.usage.rows, meter.usage.refused) == (1, 0)
        with pytest.raises(BudgetExhausted):
            meter.ask([PlainRows(ROWS[1:2])])
    assert sum(taken) == 1
