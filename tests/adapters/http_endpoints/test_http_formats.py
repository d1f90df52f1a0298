"""Requests and answers by composition: each part alone, and with the others."""

from __future__ import annotations

import base64
import email
import email.policy
import io
import json
from urllib.parse import parse_qs

import numpy as np
import pytest
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.fingerprint import fingerprint
from fimaudit_adapters.http.protocols.base import Malformed, Reply, Scores, Tensor
from fimaudit_adapters.http.protocols.json_document import JsonDocument
from fimaudit_adapters.http.protocols.templates import RowValues
from fimaudit_adapters.http.settings import Endpoint

from fimaudit.errors import LinkError, OutputError, TargetError

URL = "https://host.example/score"
ROWS = np.array([[1.5, 2.0], [-3.0, 0.25]])
PIXELS = np.array([[[0.0, 255.0], [7.0, 8.0]]])


def wire(**settings):
    return JsonDocument(Endpoint(url=URL, protocol="json", **{"response": "@", "kind": "probs", **settings}), URL)


def body(rows=ROWS, **settings):
    return wire(**settings).encode(np.asarray(rows))


def sent(rows=ROWS, **settings):
    return json.loads(body(rows, **settings).content)


def read(content, rows=1, **settings):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return wire(**{"request": "$rows", **settings}).decode(Reply(200, {}, raw), rows)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"request": {"a": ["$rows", 1]}}, {"a": [[[1.5, 2.0], [-3.0, 0.25]], 1]}),
        ({"request": {"$each": ["$index", "$row..."]}}, [[0, 1.5, 2.0], [1, -3.0, 0.25]]),
        ({"request": "$records", "columns": ["a", "b"]}, [{"a": 1.5, "b": 2.0}, {"a": -3.0, "b": 0.25}]),
        ({"request": {"$each": {"x": "$record"}}, "columns": ["a", "b"]},
         [{"x": {"a": 1.5, "b": 2.0}}, {"x": {"a": -3.0, "b": 0.25}}]),
        ({"request": "$columns", "columns": ["a", "b"]}, {"a": [1.5, -3.0], "b": [2.0, 0.25]}),
        ({"request": {"c": "$names", "d": "$rows"}, "columns": ["a", "b"]},
         {"c": ["a", "b"], "d": [[1.5, 2.0], [-3.0, 0.25]]}),
        ({"request": "$rows", "numbers": "text"}, [["1.5", "2.0"], ["-3.0", "0.25"]]),
        ({"request": {"body": {"$json": {"x": "$rows"}}}}, {"body": '{"x":[[1.5,2.0],[-3.0,0.25]]}'}),
        ({"request": {"$each": "age {a}, income {b} {other}"}, "columns": ["a", "b"]},
         ["age 1.5, income 2.0 {other}", "age -3.0, income 0.25 {other}"]),
        ({"request": "$records", "columns": ["a", "sex", "b"], "constants": {"sex": "F"}},
         [{"a": 1.5, "sex": "F", "b": 2.0}, {"a": -3.0, "sex": "F", "b": 0.25}]),
        ({"request": "$rows", "columns": ["a", "b"], "constants": {"w": 7}}, [[1.5, 2.0, 7], [-3.0, 0.25, 7]]),
    ],
)  # fmt: skip
def test_documents(settings, expected):
    assert sent(**settings) == expected


def test_one_row_documents_hold_one_row_and_say_so():
    for request in ("$record", {"a": "$row"}, {"text": "row {csv}"}, {"text": "{a} and {b}"}):
        assert wire(request=request, columns=["a", "b"]).most_rows == 1
    assert wire(request={"$each": {"a": "$row"}}).most_rows is None
    assert wire(request={"text": "{nothing}", "x": "$rows"}).most_rows is None
    assert sent(ROWS[:1], request={"t": "{a}/{csv}/{row}"}, columns=["a", "b"]) == {"t": "1.5/1.5,2.0/[1.5,2.0]"}


def test_a_constant_that_is_a_list_goes_along_whole():
    """It was taken for one value a row: another one in each row of a call, and an IndexError in a longer call."""
    values = RowValues(ROWS, Endpoint(url=URL, columns=("a", "b"), constants={"sites": ["x"]}))
    assert [values.record(i)["sites"] for i in (0, 1)] == [["x"], ["x"]]


def test_bodies():
    lines = body(body="ndjson", request={"$each": {"features": "$row"}})
    assert lines.content == b'{"features":[1.5,2.0]}\n{"features":[-3.0,0.25]}\n'
    table = body(body="csv")
    assert (table.content, table.headers) == (b"1.5,2.0\n-3.0,0.25\n", {"Content-Type": "text/csv"})
    assert body(body="csv", request="$records", columns=["a", "b"]).content == b"a,b\n1.5,2.0\n-3.0,0.25\n"
    assert body(body="csv", request={"$each": ["$index", "$row..."]}).content == b"0,1.5,2.0\n1,-3.0,0.25\n"
    form = body(ROWS[:1], body="form", request={"x": "$row", "key": "a b"})
    assert parse_qs(form.content.decode()) == {"x": ["1.5", "2.0"], "key": ["a b"]}
    query = body(ROWS[:1], method="GET", request="$record", columns=["a", "b"])
    assert (query.method, query.content, query.query) == ("GET", b"", "a=1.5&b=2.0")
    assert query.identity != body(ROWS[1:], method="GET", request="$record", columns=["a", "b"]).identity
    assert np.array_equal(np.load(io.BytesIO(body(body="npy").content)), ROWS)
    text = body(PIXELS, body="text", image="png-base64", request="$row")
    assert base64.b64decode(text.content).startswith(b"\x89PNG")
    assert body(PIXELS.astype(np.uint8), image="raw").content == bytes([0, 255, 7, 8])
    url = sent(PIXELS, image="png-base64", request={"url": "data:image/png;base64,{row}"})["url"]
    assert url.startswith("data:image/png;base64,iVBOR")
    assert sent(PIXELS.astype(np.uint8), image="raw", request={"x": {"$base64": "$row"}}) == {"x": "AP8HCA=="}


def test_multipart_is_the_same_every_time_and_holds_fields_and_files():
    settings = {"body": "multipart", "image": "png", "request": {"file": {"$file": "$row", "name": "a.png"}, "top": 5}}
    one = body(PIXELS, **settings)
    assert one == body(PIXELS, **settings)
    message = email.message_from_bytes(
        b"Content-Type: " + one.headers["Content-Type"].encode() + b"\r\n\r\n" + one.content, policy=email.policy.HTTP
    )
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
    assert parts["file"].get_filename() == "a.png"
    assert parts["file"].get_payload(decode=True).startswith(b"\x89PNG")
    assert parts["top"].get_payload(decode=True) == b"5"
    plain = body(ROWS[:1], body="multipart", request={"x": "{csv}"})
    assert b'name="x"\r\n\r\n1.5,2.0\r\n' in plain.content


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"request": {"x": 1}}, "no place to go"),
        ({"request": {"x": "$row"}, "image": "png"}, "png-base64"),
        ({"request": "$rows", "body": "form"}, "made of fields"),
        ({"request": {"x": "$rows"}, "body": "csv"}, "CSV is made of rows"),
        ({"request": "$rows", "label": "a[?"}, "label is not a JMESPath"),
    ],
)
def test_documents_that_cannot_be(settings, match):
    with pytest.raises(TargetError, match=match):
        wire(**settings).encode(PIXELS if "image" in settings else ROWS)


AB = [{"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}]


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ({"p": AB}, {"response": "p"}),
        ([[{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}],
          [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.5}]], {}),
        ({"r": [{"t": [{"n": "b", "c": "0.75"}, {"n": "a", "c": "0.25"}]},
                {"t": [{"n": "a", "c": 0.5}, {"n": "b", "c": 0.5}]}]},
         {"response": "r[*].t", "label": "n", "score": "c"}),
        ([{"names": ["b", "a"], "conf": [75, 25]}, {"names": ["a", "b"], "conf": [50, 50]}],
         {"label": "names", "score": "conf", "total": 100}),
        ([{"a": {"v": {"s": 0.25}}, "b": {"v": {"s": 0.75}}},
          {"a": {"v": {"s": 0.5}}, "b": {"v": {"s": 0.5}}}], {"score": "v.s"}),
        ({"a": [0.25, 0.5], "b": [0.75, 0.5]}, {"columnar": True}),
        ({"n": [["b", "a"], ["a", "b"]], "s": [[0.75, 0.25], [0.5, 0.5]]}, {"columnar": True, "label": "n", "score": "s"}),
        ({"classes": ["b", "a"], "p": [[0.75, 0.25], [0.5, 0.5]]}, {"response": "p", "names": "classes"}),
        ({"body": json.dumps({"p": AB})}, {"response": "parse_json(body).p"}),
        (b'{"a": 0.25, "b": 0.75}\n{"a": 0.5, "b": 0.5}\n', {"answer": "ndjson"}),
        (b"a,b\n0.25,0.75\n0.5,0.5\n", {"answer": "csv"}),
        ({"x": AB}, {"response": "map(&items(@), x)", "kind": "label_scores"}),
    ],
)  # fmt: skip
def test_answers_with_names(content, settings):
    answer = read(content, 2, **settings)
    assert isinstance(answer, Scores)
    assert [dict(row) for row in answer.rows] == AB


@pytest.mark.parametrize(
    ("content", "rows", "settings", "expected"),
    [
        ([[0.25, 0.75], [0.5, 0.5]], 2, {}, [[0.25, 0.75], [0.5, 0.5]]),
        ({"p": [0.25, 0.75]}, 1, {"response": "p", "request": "$row"}, [[0.25, 0.75]]),
        ([[0.25, 0.5], [0.75, 0.5]], 2, {"columnar": True}, [[0.25, 0.75], [0.5, 0.5]]),
        (b"0.25,0.75\n0.5,0.5\n", 2, {"answer": "csv"}, [[0.25, 0.75], [0.5, 0.5]]),
        (b" 0.25 ", 1, {"answer": "text", "request": "$row"}, [[0.25]]),
        (0.25, 1, {"request": "$row"}, [[0.25]]),
        ([25.0, 75.0], 1, {"request": "$row", "scale": "percent"}, [[0.25, 0.75]]),
        (b'event: complete\ndata: {"p": [0.25, 0.75]}\n\n', 1,
         {"answer": "events", "response": "[-1].data.p", "request": "$row"},
         [[0.25, 0.75]]),
        ({"TOX": {"v": 0.25}, "RUDE": {"v": 0.9}}, 1, {"score": "v", "kind": "independent", "audit_label": "TOX"}, [[0.25]]),
        ([[0.25, 0.9]], 1, {"kind": "independent", "audit_label": 1}, [[0.9]]),
    ],
)  # fmt: skip
def test_answers_of_numbers(content, rows, settings, expected):
    answer = read(content, rows, **settings)
    assert isinstance(answer, Tensor)
    assert np.asarray(answer.values).tolist() == expected


def test_spellings_add_up_and_other_tokens_are_the_rest():
    top = [("Yes", 0.4), (" yes", 0.1), ("no", 0.3), ("maybe", 0.15)]
    content = [{"token": t, "logprob": float(np.log(p))} for t, p in top]
    settings = {
        "label": "token", "score": "logprob", "kind": "logprobs", "request": "$row",
        "labels": {"yes": ("Yes", " yes"), "no": ("no",)},
    }  # fmt: skip
    answer = read(content, **settings)
    reader = AnswerReader("auto", "logprobs", ["yes", "no"], rest=True)
    assert np.allclose(reader.probabilities(answer, 1), [[0.5, 0.3, 0.2]])
    assert reader.columns == ("yes", "no", "(rest)")
    with pytest.raises(OutputError, match="'maybe', which is not among"):
        AnswerReader("auto", "logprobs", ["yes", "no"]).probabilities(answer, 1)


def test_hidden_scores_are_not_zero():
    reader = AnswerReader("auto", "probs", ["a", "b", "c"], hides=True)
    answer = read([[0.75, 0.2, 0.0]], hidden_below=0.1, labels=["a", "b", "c"])
    assert isinstance(answer, Scores)
    assert np.allclose(reader.probabilities(answer, 1), [[0.75, 0.2, 0.0, 0.05]])
    assert reader.top_k == 2


def test_independent_scores_are_named():
    with pytest.raises(OutputError, match="audit_label among RUDE, TOX"):
        read({"TOX": 0.25, "RUDE": 0.9}, kind="independent")
    reader = AnswerReader("auto", "independent", None)
    assert reader.probabilities(Tensor(np.array([[0.25]])), 1).tolist() == [[0.75, 0.25]]


def test_sorted_scores_without_names_are_refused():
    rng = np.random.default_rng(0)
    rows = np.sort(rng.dirichlet(np.ones(5), 20), axis=1)[:, ::-1]
    reader = AnswerReader("auto", "probs", None)
    with pytest.raises(TargetError, match="sorted and carry no names"):
        [reader.probabilities(Tensor(row[None]), 1) for row in rows]
    with pytest.raises(TargetError, match="sorted and carry no names"):  # also when the same row is asked again
        reader.probabilities(Tensor(rows[:1]), 1)
    infinite = AnswerReader("auto", "probs", None)
    for _ in range(20):
        with pytest.raises(Malformed, match="1 infinite"):
            infinite.probabilities(Tensor(np.array([[np.inf, 0.0, 0.0]])), 1)
    honest = AnswerReader("auto", "probs", None)
    for row in rng.dirichlet(np.ones(5), 20):
        honest.probabilities(Tensor(row[None]), 1)
    declared = AnswerReader("auto", "probs", list("abcde"))
    for row in rows:
        declared.probabilities(Tensor(row[None]), 1)
    assert declared.columns == tuple("abcde")
    same = AnswerReader("auto", "probs", None)  # of one input, again and again: no evidence
    for _ in range(30):
        same.probabilities(Tensor(np.array([[0.5, 0.3, 0.2]])), 1)


@pytest.mark.parametrize("kind", [None, "probs", "logits"])
def test_percent_is_called_percent(kind):
    with pytest.raises(LinkError, match="say total: 100"):
        AnswerReader("auto", kind, None).probabilities(Tensor(np.array([[20.0, 80.0], [99.5, 0.5]])), 2)
    with pytest.raises(LinkError, match="total: 100"):
        AnswerReader("auto", kind, None).probabilities(Scores([{"a": 20.0, "b": 70.0, "c": 10.0}]), 1)


def test_distributions_are_no_logits():
    with pytest.raises(LinkError, match="distributions already"):
        AnswerReader("auto", "logits", None).probabilities(Tensor(np.array([[0.2, 0.8], [0.7, 0.3]])), 2)


def test_whole_numbers_stay_labels():
    with pytest.raises(OutputError, match="class labels"):
        AnswerReader("auto", "probs", None).probabilities(read([1, 0], 2), 2)


def test_new_settings_change_no_old_fingerprint():
    old = Endpoint(url=URL, protocol="json", request="$rows", response="p", kind="probs")
    assert fingerprint(old, "auto") == "b4fe2d883f50b1eba258c861660c7e10d86150816289470c431b22aff0e703ce"
    assert fingerprint(old.model_copy(update={"total": 100.0}), "auto") != fingerprint(old, "auto")
    assert fingerprint(old.model_copy(update={"patience": 3.0}), "auto") == fingerprint(old, "auto")


def test_known_protocols_take_percent_and_refuse_what_is_no_part_of_them():
    from fimaudit_adapters.http.calibration import wire_for

    endpoint = Endpoint(url=URL, protocol="tensorflow_serving", total=100)
    answer = wire_for(endpoint, URL, binary=False).decode(Reply(200, {}, b'{"predictions": [[25.0, 75.0]]}'), 1)
    assert isinstance(answer, Tensor)
    assert answer.values.tolist() == [[0.25, 0.75]]
    with pytest.raises(ValueError, match="columnar belongs to protocol json"):
        Endpoint(url=URL, protocol="mlflow", columnar=True)
    with pytest.raises(ValueError, match="open_inference"):
        Endpoint(url=URL, protocol="open_inference", total=100)
