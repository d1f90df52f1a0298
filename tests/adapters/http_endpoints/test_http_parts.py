"""The parts that need no server: settings, messages, waits, readings, encodings, pace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from fimaudit_adapters.http import ADAPTER
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.endpoint_file import endpoint_schema, read_endpoint
from fimaudit_adapters.http.fingerprint import fingerprint
from fimaudit_adapters.http.protocols.base import Reply, Scores, Tensor
from fimaudit_adapters.http.protocols.encoding import as_png
from fimaudit_adapters.http.protocols.json_document import JsonDocument
from fimaudit_adapters.http.protocols.open_inference import OpenInference
from fimaudit_adapters.http.sending import transport
from fimaudit_adapters.http.sending.faults import LONGEST_WAIT, after_status, excerpt, most_sends, retry_after
from fimaudit_adapters.http.sending.pacing import Pace
from fimaudit_adapters.http.settings import Endpoint

from fimaudit.errors import DataError, LinkError, OutputError, TargetError
from fimaudit.models.classifier import Options

URL = "https://host.example/v2/models/m/infer"


def test_accepts_by_spelling():
    assert ADAPTER.accepts("https://host/x")
    assert ADAPTER.accepts("HTTP://host/x")
    assert ADAPTER.accepts("endpoint.yaml")
    assert not ADAPTER.accepts("model.onnx")
    assert not ADAPTER.accepts(3)


def test_importing_the_adapter_imports_no_http_library():
    code = "import sys, fimaudit_adapters.http; assert not {'httpx', 'tenacity', 'jmespath', 'PIL'} & set(sys.modules)"
    env = {"PYTHONPATH": ".:adapters"}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("https://me:secret1@host/x", "user name or password"),
        ("https://host/x?api_key=secret1", "api_key"),
        ("https://host/x?sig=secret1", "sig"),
        ("ftp://host/secret1", "absolute http"),
        ("https:///secret1", "absolute http"),
        ("https://host:99999/secret1", "absolute http"),
    ],
)
def test_credentials_in_urls_are_refused_without_repeating_them(url, match):
    with pytest.raises(TargetError, match=match) as raised:
        read_endpoint(url, Options())
    assert "secret1" not in str(raised.value)


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"colour": "red"}, "colour.*known settings: url"),
        ({"rate": "fast"}, "rate.*20/s"),
        ({"protocol": "soap"}, "protocol"),
        ({"protocol": "json"}, "needs request"),
        ({"protocol": "mlflow", "response": "a"}, "belong to protocol json"),
        ({"headers": {"X-Api-Key": "secret1"}}, "header_env"),
        ({"headers": {"Ocp-Apim-Subscription-Key": "secret1"}}, "looks like a credential"),
        ({"headers": {"X-Auth": "secret1"}}, "looks like a credential"),
        ({"headers": {"A": "1"}, "header_env": {"a": "B"}}, "set twice"),
        ({"concurrency": 0}, "concurrency"),
        ({"labels": ["a", "a"]}, "differ"),
        ({"poll": {"don": "x"}}, "poll.don: no such setting; known settings: url, request, done"),
        ({"hidden_below": 1}, "not valid: hidden_below must lie below 1"),
    ],
)
def test_settings_that_contradict(extra, match):
    with pytest.raises(TargetError, match=match) as raised:
        read_endpoint(URL, Options(extra=extra))
    assert "secret1" not in str(raised.value)


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("url: https://a/x\nrate: 60/min\nheader_env: {X-Key: NAME}\n")
    endpoint = read_endpoint(str(path), Options(output="p", extra={"rate": "5/s", "ca_file": None}))
    assert (endpoint.rate, endpoint.output, endpoint.url) == (5.0, "p", "https://a/x")
    other = read_endpoint("https://b/y", Options(extra={"endpoint": path}))
    assert (other.url, other.rate) == ("https://b/y", 1.0)
    path.write_text("- a\n")
    with pytest.raises(TargetError, match="mapping"):
        read_endpoint(str(path), Options())
    path.write_text("a: [")
    with pytest.raises(TargetError, match="not YAML"):
        read_endpoint(str(path), Options())
    with pytest.raises(TargetError, match="cannot be read"):
        read_endpoint("none.yaml", Options())
    with pytest.raises(TargetError, match="local models"):
        read_endpoint(URL, Options(device="cuda"))


def test_missing_credentials_are_named_not_shown(connect, tmp_path):
    with pytest.raises(TargetError, match="variable NOT_SET_ANYWHERE"):
        connect(URL, header_env={"X-Key": "NOT_SET_ANYWHERE"})
    with pytest.raises(TargetError, match="cannot be read"):
        connect(URL, bearer_file=str(tmp_path / "none"))
    with pytest.raises(TargetError, match=r"package.module:attribute"):
        connect(URL, auth="nothing")
    with pytest.raises(TargetError, match="cannot be loaded"):
        connect(URL, auth="no_such_module_here:x")


def test_the_fingerprint_holds_the_question_and_no_transport():
    first = Endpoint(url=URL, output="p")
    assert fingerprint(first, "auto") == fingerprint(Endpoint(url=URL, output="p", rate=3, batch=5, bearer_env="T"), "auto")
    assert fingerprint(first, "auto") != fingerprint(first, "softmax")
    assert fingerprint(first, "auto") != fingerprint(Endpoint(url=URL, output="q"), "auto")


def test_schema_describes_every_setting():
    schema = endpoint_schema()
    assert schema["additionalProperties"] is False
    assert all("description" in field for field in schema["properties"].values())


def test_retry_after_in_all_forms():
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert retry_after({"Retry-After": "3"}) == 3.0
    assert retry_after({"Retry-After": "0.25", "retry-after-ms": "40"}) == 0.04
    assert retry_after({"Retry-After": date}, now=1445412480.0 - 7) == 7.0
    assert retry_after({"Retry-After": date}) == 0.0
    assert retry_after({"Retry-After": "1e9"}) == LONGEST_WAIT
    for nonsense in ("soon", "nan", "", "Wed, 99 Foo"):
        assert retry_after({"Retry-After": nonsense}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize(
    ("status", "kind", "sends"),
    [
        (400, "rejected", 1), (401, "settings", 1), (403, "settings", 1), (404, "settings", 1), (405, "settings", 1),
        (408, "transport", 8), (413, "size", 1), (422, "rejected", 1), (429, "busy", 8), (500, "server", 2),
        (501, "settings", 1), (502, "transport", 8), (503, "busy", 8), (504, "busy", 8), (302, "settings", 1),
    ],
)  # fmt: skip
def test_what_each_status_means(status, kind, sends):
    fault = after_status(status, {}, b"", ())
    assert fault.kind == kind
    assert most_sends(fault.kind, 8) == sends


def test_batch_caps_are_read_from_messages():
    triton = b'{"error":"[request id: <id_unknown>] inference request batch-size must be <= 64 for \'digits\'"}'
    assert after_status(400, {}, triton, ()).cap == 64
    assert after_status(422, {}, b"maximum batch size exceeded: limit 32", ()).cap == 32
    assert after_status(400, {}, b"wrong shape 64", ()).cap is None


@pytest.mark.parametrize(
    "body", [b"9" * 65_000 + b"_", b"1," * 32_000 + b"_", b"C:\\" * 20_000, b"<" * 65_000, b"/a" * 32_000]
)
def test_a_hostile_error_body_takes_hardly_more_work_than_another(body):
    def work(text: bytes) -> int:
        started = time.thread_time_ns()
        assert len(excerpt(text, ["hunter2"])) <= 160
        return time.thread_time_ns() - started

    # A pattern that goes over it for each of its characters takes ten thousand times as long.
    assert work(body) < 1000 * min(work(b"no more room " * 5_000) for _ in range(5))


def test_excerpts_hold_no_secrets_rows_or_paths():
    body = (
        b'{"error": {"message": "Traceback: bad key sk-abc-123456 for Bearer eyJhbGciOi.x.y in /home/me/app/model.py; '
        b'row [0.1, 0.2, -3e-4, 5]; api_key=hunter22"}}'
    )
    text = excerpt(body, ["hunter2"])
    for leak in ("sk-abc", "eyJ", "/home/me", "0.2", "hunter"):
        assert leak not in text
    assert excerpt(b"<html><head><title>502 Bad Gateway</title></head>..") == "502 Bad Gateway"
    assert excerpt(b"\x1b[31mred\x00" + b"x " * 500).startswith("[31mred x x")
    assert len(excerpt(b"word " * 500)) == 160
    assert excerpt(b"") == ""


def test_label_scores_are_aligned_and_rest_is_kept():
    reader = AnswerReader("auto", None, None)
    full = Scores([{"b": 0.75, "a": 0.25}, {"a": 0.5, "b": 0.5}])
    reader.learn(full)
    assert reader.labels == ("a", "b")
    assert reader.probabilities(full, 2).tolist() == [[0.25, 0.75], [0.5, 0.5]]
    with pytest.raises(OutputError, match="differs in 'b'"):
        reader.probabilities(Scores([{"a": 0.5, "c": 0.5}]), 1)
    top, grown = AnswerReader("auto", None, None), []
    top.on_growth = grown.append
    top.learn(Scores([{"L10": 0.5, "L2": 0.25}, {"L2": 0.5, "L1": 0.25}]))
    assert top.labels == ("L1", "L2", "L10")
    assert top.top_k == 2
    got = top.probabilities(Scores([{"L10": 0.5, "new": 0.25}]), 1)
    assert got.shape == (1, 257)
    assert got[0, [0, 1, 2, 3, -1]].tolist() == [0, 0, 0.5, 0.25, 0.25]
    assert grown == [("L1", "L2", "L10", "new")]
    assert top.columns[:5] == ("L1", "L2", "L10", "new", "")
    assert top.columns[-1] == "(rest)"
    again = AnswerReader("auto", None, None)
    again.restore(grown[0], 2)
    assert again.probabilities(Scores([{"new": 0.5}]), 1)[0, 3] == 0.5
    declared = AnswerReader("auto", None, ["a", "b", "c"], 2)
    assert declared.probabilities(Scores([{"c": 0.5, "a": 0.25}]), 1).tolist() == [[0.25, 0, 0.5, 0.25]]
    with pytest.raises(LinkError, match="kind: logits"):
        declared.probabilities(Scores([{"c": 5.0}]), 1)


def test_wrong_numbers_of_rows_and_kinds():
    reader = AnswerReader("auto", None, None)
    with pytest.raises(OutputError, match="expected 3 rows"):
        reader.probabilities(Tensor(np.ones((2, 2)) / 2), 3)
    with pytest.raises(OutputError, match="class labels"):
        reader.probabilities(Tensor(np.array([1, 2])), 2)
    with pytest.raises(OutputError, match="1 NaN"):
        reader.probabilities(Tensor(np.array([[np.nan, 1.0]])), 1)
    assert AnswerReader("auto", "logits", None).probabilities(Tensor(np.zeros((1, 4))), 1).tolist() == [[0.25] * 4]
    assert AnswerReader("auto", "logits", None).probabilities(Tensor(np.zeros((2, 1))), 2).tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize(
    "outputs",
    [
        '[{"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [1, 0, 0]}]',
        '[{"name": "a", "datatype": "FP32", "shape": [-1, 2], "data": [1, 0]}]',
        '[{"name": "a", "datatype": "WHAT", "shape": [1, 2], "data": [1, 0]}]',
        '[{"name": "a", "datatype": "FP32", "shape": [1, 2], "data": ["x", "y"]}]',
        '[{"name": "a", "datatype": "BYTES", "shape": [1, 2], "data": ["x", "y"]}]',
        '[{"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]',
        '[{"name": "a"}]', "[]", "{}", "null", '[{"name": "a", "datatype": "FP32", "shape": [1, 2], "data": null}]',
        '[{"name": "a", "datatype": "FP32", "shape": [], "data": [1]}]',
        '[{"name": "a", "datatype": "FP32", "shape": [true], "data": [1]}]',
        '[{"name": "a", "datatype": "FP32", "shape": [1073741824, 1073741824], "data": []}]',
    ],
)  # fmt: skip
def test_open_inference_answers_that_are_none(outputs):
    wire = OpenInference(Endpoint(url=URL), URL, binary=False)
    with pytest.raises(OutputError):
        wire.decode(Reply(200, {}, b'{"outputs": ' + outputs.encode() + b"}"), 1)


def test_open_inference_reshapes_and_reads_half_precision():
    wire = OpenInference(Endpoint(url=URL, output="p"), URL, binary=True)
    half = np.array([[0.25, 0.75]], "<f2").tobytes()
    head = b'{"outputs":[{"name":"z","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}},'
    head += b'{"name":"p","datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}}]}'
    reply = Reply(200, httpx.Headers({"inference-header-content-length": str(len(head))}), head + bytes(8) + half)
    answer = wire.decode(reply, 1)
    assert isinstance(answer, Tensor)
    assert answer.values.dtype == np.float16
    assert answer.values.tolist() == [[0.25, 0.75]]
    with pytest.raises(OutputError, match="header length"):
        wire.decode(Reply(200, httpx.Headers({"Inference-Header-Content-Length": "999999"}), head), 1)


def test_request_documents_need_a_place_and_a_path():
    said = {"url": URL, "protocol": "json", "kind": "probs"}
    with pytest.raises(TargetError, match="no place to go"):
        JsonDocument(Endpoint(**said, request={"x": 1}, response="a"), URL)
    with pytest.raises(TargetError, match="not a JMESPath"):
        JsonDocument(Endpoint(**said, request="$rows", response="a[?"), URL)
    wire = JsonDocument(Endpoint(**said, request="$rows", response="a.b"), URL)
    with pytest.raises(OutputError, match="leads nowhere"):
        wire.decode(Reply(200, {}, b'{"a": 1}'), 1)
    with pytest.raises(DataError, match="column names"):
        JsonDocument(Endpoint(**said, request="$records", response="a"), URL).encode(np.ones((1, 3)))


def test_png_is_lossless_and_refuses_what_is_between_levels():
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 1), (1, 5, 7), (5, 7, 3), (3, 5, 7), (5, 7, 4)):
        levels = rng.integers(0, 256, shape).astype(np.uint8)
        back = np.asarray(Image.open(io.BytesIO(as_png(levels, 255))))
        there = np.moveaxis(levels, 0, -1) if shape in ((1, 5, 7), (3, 5, 7)) else levels
        assert np.array_equal(back, there.squeeze())
        assert as_png((levels / 255.0).astype(np.float32), 1) == as_png(levels, 255)
    with pytest.raises(DataError, match="whole 8-bit levels"):
        as_png(np.full((4, 4), 0.5), 255)
    with pytest.raises(DataError, match="from 0 to 1"):
        as_png(np.full((4, 4), 7.0), 1)
    with pytest.raises(DataError, match="channels"):
        as_png(np.zeros((2, 3, 4, 5)), 255)


def test_pace_grows_by_one_and_halves_once_a_round():
    async def run() -> None:
        pace = Pace(8, None)
        entered = [await pace.enter() for _ in range(4)]
        assert pace.in_flight == 4
        for moment in entered:
            pace.leave(moment, trouble=True)
        assert pace.allowed == 2.0
        for _ in range(200):
            pace.leave(await pace.enter(), trouble=False)
        assert pace.allowed == 8.0
        pace.leave(await pace.enter(), trouble=True)
        assert pace.allowed == 4.0
        assert pace.in_flight == 0

    asyncio.run(run())


def test_an_exception_that_stands_behind_itself_ends_nothing_but_the_send():
    """Seen: the search for a TLS error among the causes went round for ever."""
    one, two = httpx.ConnectError("refused"), ValueError("raised again")
    one.__context__, two.__context__ = two, one
    assert transport._unconnected(one).status == "connect"
