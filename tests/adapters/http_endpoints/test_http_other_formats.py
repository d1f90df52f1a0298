"""Formats of no known vendor, each said by an endpoint file alone: the answers are those of the served model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import yaml
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.protocols.base import Reply, Tensor
from fimaudit_adapters.http.protocols.json_document import JsonDocument
from fimaudit_adapters.http.settings import Endpoint

from fimaudit import audit
from fimaudit.errors import FimauditError, LinkError, OutputError, TargetError
from tests.command_line import run_command
from tests.servers import public_formats, vendors
from tests.servers.other_formats import FORMATS, binary

assert public_formats  # more of FORMATS
RANDOM = np.random.default_rng(0)
#: Twelve rows, so that row-10 is one of them.
TABLE_ROWS = RANDOM.standard_normal((12, vendors.FEATURES)).round(3)
PIXEL_ROWS = RANDOM.integers(60, 190, (3, vendors.SIDE, vendors.SIDE)).astype(np.float64)
NAMES = [f"f{i}" for i in range(vendors.FEATURES)]


@pytest.fixture(scope="module")
def server() -> Iterator[vendors.LoopbackServer]:
    with vendors.serving({name: one.service for name, one in FORMATS.items()}) as running:
        yield running


def truth(kind, rows):
    if kind == "binary":
        p = np.array(binary(rows))
        return np.column_stack([1 - p, p])
    return np.array(vendors.pixels(rows) if kind == "pixels" else vendors.table(rows))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_endpoint_file_says_it(name, server, connect, tmp_path, monkeypatch):
    one = FORMATS[name]
    monkeypatch.setenv("ID", "id-1234")
    monkeypatch.setenv("SECRET", "secret:1234")
    server.errors.clear()
    said = {"url": f"{server.url}/{name}{one.tail}", **one.settings}
    (tmp_path / "endpoint.yaml").write_text(yaml.safe_dump(said))
    rows = PIXEL_ROWS if one.truth == "pixels" else TABLE_ROWS
    model = connect(str(tmp_path / "endpoint.yaml"), data_columns=NAMES)
    answers, exact = model.probabilities(rows), truth(one.truth, rows)
    assert not server.errors
    # Classes may come in another order, the same for all rows.
    shown = [k for k in range(answers.shape[1]) if answers[:, k].any()]
    places = [int(np.abs(exact - answers[:, [k]]).sum(axis=0).argmin()) for k in shown]
    if one.truth != "some":
        assert len(shown) == exact.shape[1]
    for k, place in zip(shown[: exact.shape[1]], places, strict=False):
        seen = answers[:, k] > 0
        assert np.allclose(answers[seen, k], exact[seen, place], atol=1e-9)


def test_one_of_several_findings_is_audited_by_its_name(server, monkeypatch):
    """Its columns are two, whatever the number of labels: they were called by all of them, and the audit refused that."""
    name = "multi-label-independent-named-columns"
    settings = {"trust_env": False, "protocol": "json", **FORMATS[name].settings}
    labels = ["b c" if p > 0.5 else "not b c" for p in binary(TABLE_ROWS[:2])]
    report = audit(f"{server.url}/{name}", TABLE_ROWS[:2], y=labels, queries=30, endpoint=settings)
    assert report.model["class_names"] == ["not b c", "b c"]


def wire(**settings):
    url = settings.pop("url", "https://host.example/m")
    return JsonDocument(Endpoint(url=url, protocol="json", **{"response": "@", "kind": "probs", **settings}), url)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"request": {"x": "$rows", "n": "$cuont"}}, r"did you mean \$count"),
        ({"request": {"x": "$rowz"}}, r"did you mean \$rows?\?"),
        ({"request": {"x": "aged {agee}, {row}"}, "columns": ["age", "b"]}, r"did you mean \{age\}"),
        ({"request": {"x": "number {index}: {row}"}, "columns": ["index", "b"]}, "rename the column"),
        ({"request": {"x": {"$literal": "$rows"}}}, "no place to go"),
        ({"request": {"x": {"$join": ["$row"]}}}, "expected \\$join"),
        ({"request": {"x": {"$join": [";", "{row}"]}}}, r"expected a list in \$join, got str"),
        ({"request": {"x": {"$each": 5}}}, "no place to go"),
        ({"request": {"x": {"$each": {"$cell": "$value"}}}}, r"did you mean \$cells\?"),
        ({"request": {"x": "$rows", "n": "$value"}}, "is of a cell"),
        ({"request": {"x": "$rows", "n": "$agee"}, "columns": ["age", "b"]}, r"did you mean \$age\?"),
        ({"request": {"$merge": "$rows"}}, r"list of mappings in \$merge"),
        ({"request": {"x": ["$index..."], "y": "$rows"}}, "expected a list at"),
        ({"request": {"x": {"$base64": {"$bytes": "{row}"}}}}, r"expected numbers in \$bytes"),
        ({"request": "$rows", "response": "parsejson(p)"}, r"did you mean parse_json\(\)\?"),
        ({"request": "$rows", "url": "https://host/m/{rwo}"}, "rwo} in the url is no column"),
    ],
)
def test_requests_that_would_be_sent_wrong_are_refused(settings, match):
    with pytest.raises(TargetError, match=match):
        wire(**settings).encode(np.array([[1.0, 2.0]]))


def test_what_looks_like_a_place_for_rows_can_be_sent_as_it_is():
    sent = wire(request={"x": "$row", "query": {"$literal": "$rows {row}"}, "$type": "A"}).encode(np.array([[1.0, 2.0]]))
    assert sent.content == b'{"x":[1.0,2.0],"query":"$rows {row}","$type":"A"}'


TWICE = [
    (b'[{"a": 0.2, "a": 0.2, "b": 0.8}, {"a": 1, "b": 0}]', {}),
    (b'{"p": [[0.2, 0.8], [1, 0]], "p": [[0.8, 0.2], [0, 1]]}', {"response": "p"}),
    (b'data: [{"a": 0.2, "a": 0, "b": 0.8}, {"a": 1, "b": 0}]\n\n', {"answer": "events", "response": "[0].data"}),
    (b"\x92\x83\xa1a\x00\xa1a\x00\xa1b\x01\x82\xa1a\x00\xa1b\x01", {"answer": "msgpack"}),
]


@pytest.mark.parametrize(
    ("content", "settings", "match"),
    [
        (b'[{"n": ["a", "b", "c"], "s": [0.3, 0.7]}]', {"response": "[*].zip(n, s)"}, "one length"),
        (b'{"r": [{"id": 1, "p": [1, 0]}, {"id": 1, "p": [0, 1]}]}', {"response": "sort_by(r, &id)[].p"}, "twice"),
        (b'{"p": [0.1, 0.2, 0.3, 0.4, 0.5]}', {"response": "chunks(`2`, p)"}, "rows of 2"),
        (b"a,b\n0.1,0.9\n0.2\n", {"answer": "csv"}, "cells a line"),
        (b"\x93NUMPY garbage", {"answer": "npy"}, "NumPy"),
        (b'{"p": [[1, 0], [0, 1]], "error": "x"}', {"response": "p", "failed": "error"}, "failed"),
        (b'{"p": "AAAA!"}', {"response": "floats('float32', p)"}, "base64"),
        (
            b'[[{"l": "a", "s": 1}], [{"l": "a", "s": 1}]]',
            {"label": "l", "score": "p"},
            "score: 'p' leads nowhere .* holds l, s",
        ),
        (b'{"p": [[1, 999], [1, 999]]}', {"response": "power(`10`, p)"}, "finite"),
        (b'{"a": {"0": 0.1, "1": 0.2}, "b": {"0": 0.9, "2": 0.8}}', {"columnar": True}, "columnar"),
        (b'{"p": [[true, "0.5"], [1, 0]]}', {"response": "multiply(`2`, p)"}, "numbers to reckon"),
        (b'["0.3 percent", "0.7"]', {}, "are no numbers"),
        (b'<!DOCTYPE a [<!ENTITY b "0.5">]><a><p>&b;</p></a>', {"answer": "xml", "response": "a.p"}, "plain XML"),
        (b"<a>" * 20_000 + b"</a>" * 20_000, {"answer": "xml", "response": "a"}, "sane depth"),
        (b"<a><p>0.5</p>", {"answer": "xml", "response": "a.p"}, "plain XML"),
        (b"\xc1", {"answer": "msgpack"}, "MessagePack"),
        (b"\x91" * 5_000, {"answer": "msgpack"}, "MessagePack"),
        (b"1234567", {"answer": "float32"}, "whole numbers of 4 bytes"),
        (b'"[[0.3, 0.7], [0.6, 0.4]]"', {}, "got str; parse_json"),
        *((content, settings, "NamedTwice") for content, settings in TWICE),
    ],
)
def test_answers_that_would_be_misread_are_refused(content, settings, match):
    with pytest.raises(OutputError, match=match):
        wire(request="$rows", **settings).decode(Reply(200, {}, content), 2)


@pytest.mark.parametrize(("content", "settings"), TWICE)
def test_a_name_that_stands_twice_and_is_not_read_is_nobody_s_concern(content, settings):
    elsewhere = settings | {"response": "[[`0.5`, `0.5`], [`1`, `0`]]"}
    assert wire(request="$rows", **elsewhere).decode(Reply(200, {}, content), 2).values.tolist() == [[0.5, 0.5], [1, 0]]


@pytest.mark.parametrize("name", ["id", "rowId", "instance_index"])
@pytest.mark.parametrize("text", ["{}", "row-{}"])
def test_rows_whose_numbers_do_not_count_up_are_refused(name, text):
    p = vendors.table(TABLE_ROWS)
    order = sorted(range(12), key=str)  # 0, 1, 10, 11, 2, ..
    answers = {"out": {"r": [{name: text.format(i), "p": p[i]} for i in order]}}
    content = json.dumps(answers).encode()
    with pytest.raises(OutputError, match=rf"sort_by\(.., &{name}\)"):
        wire(request="$rows", response="out.r[].p").decode(Reply(200, {}, content), 12)
    answer = wire(request="$rows", response=f"sort_by(out.r, &{name})[].p").decode(Reply(200, {}, content), 12)
    assert np.allclose(answer.values, p)
    other = json.dumps({"r": [{"class_id": 11 - i, "id": 7 * i % 12, "p": p[i]} for i in range(12)]}).replace(
        '"id"', '"rank"'
    )
    assert np.allclose(wire(request="$rows", response="r[].p").decode(Reply(200, {}, other.encode()), 12).values, p)


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_scores_in_thousandths_are_called_that(kind):
    with pytest.raises(LinkError, match="say total: 1000"):
        AnswerReader("auto", kind, None).probabilities(Tensor(1000 * np.array(vendors.table(TABLE_ROWS))), 12)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"url": "grpc://host.example/m"}, "gRPC and WebSockets are not spoken"),
        ({"url": "wss://host.example/m"}, "gRPC and WebSockets are not spoken"),
        ({"body": "protobuf"}, "body: Input should be 'json'.*'msgpack'"),
        ({"answer": "avro"}, "answer: Input should be 'json'.*'xml'"),
        ({"body": "csv", "request": None, "body_env": {"key": "SECRET"}}, "body_env needs a body of named fields"),
    ],
)
def test_what_is_not_spoken_is_refused_in_one_sentence(settings, match, connect, monkeypatch):
    monkeypatch.setenv("SECRET", "secret:1234")
    said = {"request": {"x": "$rows"}, "response": "p", "kind": "probs", **settings}
    with pytest.raises(TargetError, match=match) as raised:
        connect(said.pop("url", "https://host.example/m"), **said)
    assert "\n" not in str(raised.value)


def paged(asked):
    return {"p": vendors.table(asked.json["x"])[:5], "next": "/paged?page=2"}


def behind_a_login(asked):
    return vendors.Said(b"<html>", 302, {"Location": "/login", "Set-Cookie": "session=1"})


@pytest.mark.parametrize(
    ("service", "match"),
    [
        (paged, r"expected 12 rows.*\(5, 3\)"),
        (behind_a_login, "HTTP 302.*redirect"),
        (lambda asked: vendors.Said(b"\x0b\x02", 200, {"Content-Encoding": "br"}), "packed as 'br', which was not offered"),
    ],
)
def test_answers_that_are_not_spoken_are_refused_in_one_sentence(service, match, connect):
    with vendors.serving({"m": service}) as running:
        model = connect(f"{running.url}/m", request={"x": "$rows"}, response="p", kind="probs", batch=12, attempts=1)
        with pytest.raises(FimauditError, match=match):
            model.probabilities(TABLE_ROWS)


@pytest.mark.parametrize("name", ["imagga", "sightengine", "key-in-a-json-body", "key-in-a-form"])
def test_a_credential_in_the_body_is_shown_nowhere(name, server, tmp_path, monkeypatch):
    monkeypatch.setenv("ID", "id-1234")
    monkeypatch.setenv("SECRET", "secret:1234")
    one = FORMATS[name]
    said = {"url": f"{server.url}/{name}", "trust_env": False, **one.settings}
    (tmp_path / "endpoint.yaml").write_text(yaml.safe_dump(said))
    np.savez(tmp_path / "x.npz", x=PIXEL_ROWS[:1] if one.truth == "pixels" else TABLE_ROWS[:1])
    tried = run_command("endpoint", "try", "endpoint.yaml", "--data", "x.npz", cwd=tmp_path)
    assert tried.returncode == 0, tried.stderr
    for secret in ("secret:1234", "secret%3A1234", "id-1234", "aWQtMTIzNDpzZWNyZXQ6MTIzNA=="):
        assert secret not in tried.stdout + tried.stderr


def test_sorted_scores_without_names_end_the_run_at_once(connect):
    """Asked again, the row that gave them away was a copy of itself, and passed."""
    rows = RANDOM.standard_normal((20, vendors.FEATURES))
    service = {"m": lambda asked: {"p": sorted(vendors.table(asked.json["x"])[0], reverse=True)}}
    with vendors.serving(service) as server:
        model = connect(f"{server.url}/m", request={"x": "$row"}, response="p", kind="probs", concurrency=1)
        with pytest.raises(FimauditError, match="sorted and carry no names"):
            model.probabilities(rows)
        assert len(server.asked) <= len(rows)
