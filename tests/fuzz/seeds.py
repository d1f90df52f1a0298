"""Valid files and answers of every kind, small, from which mutations start; each reader's by its name."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import zipfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ENDPOINTS", "POLICY", "seeds_of", "small_module"]

POLICY = """
name: release
confidence: 0.9
rules:
  - {rule: quantile, metric: margin_radius, statistic: median, at_least: 0.001}
  - {rule: ratio, metric: peak_spectral_norm, statistic: p95, at_most: 3}
  - {rule: share_below_radius, radius: 0.01, at_most: 0.5, group: "*"}
  - {rule: not_ok, at_most: 0.2}
  - {rule: flag, flag: own_step, at_most: 0.2}
  - {rule: accuracy, at_least: 0.1, label: 0}
  - {rule: integrity}
"""
ENDPOINT = """
url: https://host/score?version=1
protocol: json
request: {data: {records: "$records"}, note: "{age} of {row}", id: {$json: {a: "$rows"}}}
response: map(&scores, out)
kind: logits
columns: [age, income, site, size]
constants: {sex: F, ward: 3}
header_env: {X-API-Key: VENDOR_KEY}
rate: 20/min
timeout: 30
patience: 15m
labels: {"yes": ["yes", " yes"], "no": ["no"]}
poll: {url: "/jobs/{id}", done: "status == 'ok'", interval: 1s}
oauth: {token_url: https://host/token, client_id_env: A, client_secret_env: B}
"""
PLAIN_ENDPOINT = "url: https://host/v2/models/m/infer\nprotocol: open_inference\ninput: x\nbatch: 8\nimage: png-base64\n"
_JSON = {"request": {"x": "$rows"}, "response": "p"}
#: Settings under which answers of each protocol are read; the first byte of an input picks one.
ENDPOINTS: dict[str, list[dict[str, Any]]] = {
    "open_inference": [
        {},
        {"output": "probabilities"},
        {"kind": "labels"},
        {"kind": "logits"},
        {"top_k": 2, "output": "p"},
    ],
    "tensorflow_serving": [
        {},
        {"style": "column"},
        {"kind": "labels"},
        {"kind": "logits"},
        {"total": 100},
        {"kind": "independent", "audit_label": 1},
    ],
    "mlflow": [{}, {"kind": "labels"}, {"output": "p", "kind": "logprobs"}, {"hidden_below": 0.01}],
    "label_scores": [{}, {"top_k": 2}, {"labels": ["a", "b"], "other_labels": "rest"}, {"kind": "labels"}],
    "json": [
        {**_JSON, "kind": "probs"},
        {**_JSON, "kind": "logits", "columnar": True},
        {**_JSON, "kind": "probs", "label": "name", "score": "value"},
        {**_JSON, "kind": "logprobs", "label": "token", "score": "logprob", "labels": {"yes": ["yes", "Yes"], "no": ["no"]},
         "other_labels": "rest"},
        {**_JSON, "kind": "probs", "names": "names", "total": 100},
        {**_JSON, "kind": "labels", "response": "zip(a, split(',', b))"},
        {**_JSON, "kind": "probs", "response": "items(parse_json(t))", "label": "[0]", "score": "[1]"},
        {"request": {"x": "$row"}, "response": "[]", "answer": "csv", "kind": "probs"},
        {"request": {"x": "$rows"}, "response": "@", "answer": "ndjson", "kind": "probs"},
        {"request": {"x": "$row"}, "response": "[?event=='complete'].data[] | [0].confidences", "answer": "events",
         "label": "label", "score": "confidence", "kind": "probs"},
        {"request": {"x": "$row"}, "response": "@", "answer": "text", "kind": "independent", "audit_label": 0},
        {"request": {"x": "$rows"}, "response": "@", "answer": "npy", "kind": "probs"},
        {"request": {"x": "$rows"}, "response": "p", "answer": "msgpack", "kind": "probs"},
        {"request": {"x": "$rows"}, "response": "a.row[].p", "answer": "xml", "kind": "probs"},
        {"request": {"x": "$row"}, "response": "@", "answer": "float32", "kind": "probs"},
    ],
}  # fmt: skip
_ROWS = [[0.25, 0.75], [0.5, 0.5]]
_ANSWERS: dict[str, list[tuple[int, Any]]] = {
    "open_inference": [
        (0, {"outputs": [{"name": "p", "datatype": "FP64", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]}]}),
        (1, {"outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": _ROWS}, {"name": "y",
             "datatype": "INT64", "shape": [2], "data": [0, 1]}]}),
        (2, {"outputs": [{"name": "y", "datatype": "BYTES", "shape": [2], "data": ["cat", "dog"]}]}),
        (4, {"outputs": [{"name": "p", "datatype": "BYTES", "shape": [2, 2], "data": ["0.7:0:cat", "0.2:1:dog", "0.6:1:dog",
             "0.3:0:cat"]}]}),
    ],
    "tensorflow_serving": [
        (0, {"predictions": _ROWS}), (1, {"outputs": {"p": _ROWS}}), (2, {"predictions": [{"label": "a"}, {"label": "b"}]}),
        (3, {"predictions": [[-1.5, 2.0], [0.1, 1e-3]]}), (4, {"predictions": [[25, 75.0], [50, 50.0]]}),
        (5, {"predictions": [{"a": 0.1, "1": 0.3}, {"a": 0.2, "1": 0.9}]}),
    ],
    "mlflow": [(0, {"predictions": _ROWS}), (1, {"predictions": ["a", "b"]}),
               (2, {"predictions": [{"p": [-0.7, -0.7]}, {"p": [-0.1, -2.4]}]}), (3, {"predictions": [{"a": 0.5,
               "b": 0.5}] * 2})],
    "label_scores": [(k, [[{"label": "a", "score": 0.7}, {"label": "b", "score": 0.2}], [["b", 0.6], ["a",
    0.3]]]) for k in range(4)],
    "json": [
        (0, {"p": _ROWS}), (1, {"p": {"a": [1, 2], "b": [0.5, 3]}}),
        (2, {"p": [[{"name": "a", "value": 0.4}, {"name": "b", "value": "0.6"}]] * 2}),
        (3, {"p": [[{"token": "yes", "logprob": -0.1}, {"token": "x", "logprob": -3}]] * 2}),
        (4, {"p": [[25, 75], [50, 50]], "names": ["a", "b"]}), (5, {"a": [1, 2], "b": "x,y"}),
        (6, {"t": "{\"a\": 0.5, \"b\": 0.5}"}),
    ],
}  # fmt: skip
_TEXTS = {
    7: "0.25,0.75\n",
    8: "[0.25,0.75]\n[0.5,0.5]\n",
    9: 'event: complete\ndata: [{"confidences": [{"label": "a", "confidence": 1.0}]}]\n\n',
    10: "0.7",
}


@lru_cache(maxsize=1)
def small_module() -> Any:
    """The module whose weights are read."""
    import torch

    return torch.nn.Linear(3, 2)


@cache
def seeds_of(reader: str) -> tuple[bytes, ...]:
    """Valid inputs of a reader."""
    if reader.startswith("wire_"):
        return tuple(_answers(reader.removeprefix("wire_")))
    make = {
        "onnx": _onnx, "onnx_bounds": _onnx, "safetensors": _safetensors, "npz": _npz, "npz_shard": _npz, "npy": _npy,
        "npy_shard": _npy, "csv": _csv, "parquet": _parquet, "parquet_shard": _parquet, "tar": _tar,
        "endpoint_yaml": lambda: [ENDPOINT.encode(), PLAIN_ENDPOINT.encode()], "policy_yaml": lambda: [POLICY.encode()],
        "evidence_zip": _evidence, "report_json": _report,
    }  # fmt: skip
    return tuple(make[reader]())


def _answers(protocol: str) -> list[bytes]:
    found = [bytes([which, 0]) + json.dumps(body).encode() for which, body in _ANSWERS[protocol]]
    found.append(b"\0\2" + b'{"error": "quota exceeded, batch size must be <= 8"}')
    if protocol == "json":
        found += [bytes([which, 0]) + text.encode() for which, text in _TEXTS.items()]
        found += [bytes([which, 0]) + content for which, content in _binary().items()]
    if protocol == "open_inference":
        output = {"name": "p", "datatype": "FP64", "shape": [2, 2], "parameters": {"binary_data_size": 32}}
        head = json.dumps({"outputs": [output]}).encode()
        found.append(b"\0\1" + len(head).to_bytes(2, "big") + head + np.array(_ROWS).tobytes())
    return found


def _binary() -> dict[int, bytes]:
    import msgpack

    array = io.BytesIO()
    np.save(array, np.array(_ROWS))
    return {
        11: array.getvalue(),
        12: msgpack.packb({"p": _ROWS}),
        13: b"<a><row><p>0.25</p><p>0.75</p></row><row><p>0.5</p><p>0.5</p></row></a>",
        14: np.array(_ROWS[0], "<f4").tobytes(),
    }


def _onnx() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    weights = [
        numpy_helper.from_array(rng.normal(size=(4, 2)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "shape"),
    ]
    dense = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"], axis=-1),
    ]
    computed = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([2], dtype=np.int64))),
        helper.make_node("Gather", ["shape", "two"], ["odd"], axis=0),
        helper.make_node("ConstantOfShape", ["two"], ["c"], value=numpy_helper.from_array(np.array([1], dtype=np.int64))),
        helper.make_node("Concat", ["c", "two"], ["t"], axis=0),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "b", [], [x])
    chosen = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Gemm", ["x", "w"], ["h"], alpha=0.5),
        helper.make_node("Tanh", ["h"], ["y"]),
    ]
    away = helper.make_tensor("away", TensorProto.FLOAT, [2], np.zeros(2, np.float32).tobytes(), raw=True)
    away.ClearField("raw_data")
    away.data_location = TensorProto.EXTERNAL
    entry = away.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    models = []
    for nodes, more in ((dense, []), (computed, []), (chosen, []), (dense, [away])):
        graph = helper.make_graph(nodes, "g", [x], [y], [*weights, *more])
        models.append(
            helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
        )
    return models


def _safetensors() -> list[bytes]:
    from safetensors.torch import save

    return [save(small_module().state_dict())]


def _arrays() -> dict[str, np.ndarray]:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    return {"x": x, "y": np.array([0, 1, 0, 1]), "group": np.array(["a", "b", "a", "b"])}


def _npz() -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **_arrays())
        found.append(file.getvalue())
    return found


def _npy() -> list[bytes]:
    found = []
    for array in (_arrays()["x"], np.asfortranarray(_arrays()["x"]), np.zeros((2, 2), ">i2")):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def _csv() -> list[bytes]:
    return [
        b"age,income,city,y,group\n1,2.5,Bonn,0,a\n2,,Ulm,1,b\n3,1e3,,0,a\n",
        b"1;2;3\n4;5;6\n",
        b"d,t,n\n2020-01-01,true,1\n2021-02-03,false,\n",
        b'"a,b","c\n"\n1,"x"\n',
    ]


def _parquet() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        pa.table({"a": [1.0, 2.0], "b": [1, 2], "y": [0, 1], "group": ["u", "v"]}),
        pa.table({"x": [[[1.0, 2.0]], [[3.0, 4.0]]], "label": [0, 1]}),
        pa.table({"image": [{"bytes": _png(), "path": "a"}], "y": ["cat"]}),
        pa.table({"a": pa.array(["u", "v"]).dictionary_encode(), "t": pa.array([1, 2], pa.timestamp("s"))}),
    ]
    found = []
    for table in tables:
        file = io.BytesIO()
        pq.write_table(table, file, compression="none", write_statistics=False, store_schema=False)
        found.append(file.getvalue())
    return found


def _png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(file, "PNG")
    return file.getvalue()


def _tar() -> list[bytes]:
    array = io.BytesIO()
    np.save(array, np.zeros(3, np.float32))
    found = []
    for members in (
        {"a/1.png": _png(), "a/1.cls": b"3", "a/2.png": _png(), "a/2.json": b'{"label": "cat"}'},
        {"1.npy": array.getvalue(), "1.cls": b"1"},
    ):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        found.append(file.getvalue())
    return found


@lru_cache(maxsize=1)
def evidence_run() -> tuple[bytes, bytes]:
    """``report.json`` and an evidence archive of a small audit under ``POLICY``."""
    from fimaudit import audit
    from fimaudit.cli.gate import apply_policy
    from fimaudit.evidence.bundle import write_bundle

    x = np.random.default_rng(0).normal(size=(4, 3))
    w = np.array([[1.0, -1.0], [0.5, 0.2], [-0.3, 0.8]])

    def model(batch: Any) -> Any:
        e = np.exp(batch @ w)
        return e / e.sum(axis=1, keepdims=True)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        audit(model, x, y=[0, 1, 0, 1], group=["a", "a", "b", "b"], out=place / "run", queries=20, profile="off")
        (place / "policy.yaml").write_text("rules: [{rule: not_ok, at_most: 0.5}]")
        apply_policy(place / "run", place / "policy.yaml")
        write_bundle(place / "run", place / "evidence.zip")
        return (place / "run" / "report.json").read_bytes(), (place / "evidence.zip").read_bytes()


def _report() -> list[bytes]:
    return [json.dumps(json.loads(evidence_run()[0])).encode()]


def _evidence() -> list[bytes]:
    stored = io.BytesIO()  # unpacked, so that a changed byte is a changed member
    with zipfile.ZipFile(io.BytesIO(evidence_run()[1])) as packed, zipfile.ZipFile(stored, "w") as archive:
        for name in packed.namelist():
            if name != "report.html":
                archive.writestr(name, packed.read(name))
    return [evidence_run()[1], stored.getvalue()]
