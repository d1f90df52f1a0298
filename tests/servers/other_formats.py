"""Formats that no vendor of the shelf has: for each the endpoint file that says it, and a server that speaks it."""

from __future__ import annotations

import base64
import csv
import email
import email.policy
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from tests.servers import vendors
from tests.servers.vendors import NAMES, Asked, Said, Service, listed, mapped, table

#: Of the two classes of a binary model, the weights of the second against the first.
BINARY = 0.8 * np.random.default_rng(5).standard_normal(vendors.FEATURES)


def binary(rows: Any) -> list[float]:
    z = np.array(rows, dtype=np.float64).reshape(-1, vendors.FEATURES) @ BINARY
    return (1 / (1 + np.exp(-z))).tolist()


def logits(rows: Any) -> list[list[float]]:
    return (np.array(rows, dtype=np.float64).reshape(-1, vendors.FEATURES) @ vendors.TABLE.T).tolist()


@dataclass
class Format:
    """``settings`` are the endpoint file without its url, of which ``tail`` is the end.

    ``truth`` is ``table``, ``pixels``, ``binary``, or ``some`` where an answer hides a part.
    """

    service: Service
    settings: dict[str, Any]
    truth: str = "table"
    tail: str = ""


FORMATS: dict[str, Format] = {}


def speaks(truth: str = "table", tail: str = "", **settings: Any) -> Callable[[Service], Service]:
    def keep(service: Service) -> Service:
        FORMATS[service.__name__.replace("_", "-")] = Format(service, {"kind": "probs", **settings}, truth, tail)
        return service

    return keep


def form(asked: Asked) -> dict[str, list[str]]:
    return parse_qs(asked.body.decode())


def data_parts(asked: Asked) -> dict[str, Any]:
    """The parts of a multipart form by name."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + asked.body, policy=email.policy.HTTP)
    return {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}


def numbers(text: str, separator: str = ",") -> list[float]:
    return [float(one) for one in text.split(separator)]


ROWS = {"x": "$rows"}


@speaks(
    request={
        "query": "query P($rows: [[Float!]!]!) { predict(rows: $rows) { scores { f0 } } }",
        "variables": {"rows": "$rows"},
    },
    failed="errors",
    response="data.predict[].scores",
)
def graphql(asked: Asked) -> Any:
    return {"data": {"predict": [{"scores": p} for p in table(asked.json["variables"]["rows"])]}}


@speaks(
    request={"data": {"$each": {"type": "row", "id": "row-{index}", "attributes": "$record"}}},
    headers={"Content-Type": "application/vnd.api+json"},
    response="sort_by(data, &id)[].attributes.scores",
)
def jsonapi(asked: Asked) -> Any:
    rows = [[r["attributes"][f"f{i}"] for i in range(4)] for r in asked.json["data"]]
    out = [
        {"type": "prediction", "id": r["id"], "attributes": {"scores": mapped(p)}}
        for r, p in zip(asked.json["data"], table(rows), strict=False)
    ]
    return {"data": out[::-1]}


@speaks(request=ROWS, response="map(&parse_json(@), scores)")
def list_in_string(asked: Asked) -> Any:
    return {"scores": [json.dumps(p) for p in table(asked.json["x"])]}


@speaks(request=ROWS, answer="text", response="chunks(`3`, numbers(@))")
def numpy_str(asked: Asked) -> Any:
    return np.array2string(np.array(table(asked.json["x"])), precision=17).encode()


@speaks(request={"x": "$row"}, answer="text", response="parse_json(replace('\\'', '\"', @))")
def python_repr(asked: Asked) -> Any:
    return str(mapped(table(asked.json["x"])[0])).encode()


@speaks(
    body="ndjson",
    request={"$each": {"id": "$index", "x": "$row"}},
    answer="ndjson",
    response="sort_by([?event=='row'], &id)[].p",
)
def ndjson_stream_shuffled(asked: Asked) -> Any:
    rows = [json.loads(line) for line in asked.body.decode().splitlines()]
    out = [{"event": "row", "id": r["id"], "p": table(r["x"])[0]} for r in rows][::-1]
    return "\n".join(map(json.dumps, [{"event": "start"}, *out, {"event": "end", "n": len(out)}])).encode()


@speaks(body="csv", request="$records", answer="csv", response="[*].{cat: p_cat, dog: p_dog, eel: p_eel}")
def csv_header_index_label(asked: Asked) -> Any:
    rows = [[float(r[f"f{i}"]) for i in range(4)] for r in csv.DictReader(io.StringIO(asked.body.decode()))]
    lines = [",id,label,p_cat,p_dog,p_eel"] + [
        f"{i},{i},{NAMES[int(np.argmax(p))]}," + ",".join(map(repr, p)) for i, p in enumerate(table(rows))
    ]
    return "\n".join(lines).encode()


@speaks(body="csv", separator=";", request="$rows", answer="csv", response="[*].map(&replace(',', '.', @), values(@))")
def csv_semicolon_comma_decimals(asked: Asked) -> Any:
    rows = [[float(c) for c in line.split(";")] for line in asked.body.decode().splitlines()]
    return "\n".join(["cat;dog;eel"] + [";".join(repr(x).replace(".", ",") for x in p) for p in table(rows)]).encode()


@speaks(body="csv", answer="csv", response="@")
def csv_numeric_header(asked: Asked) -> Any:
    rows = [[float(c) for c in line.split(",")] for line in asked.body.decode().splitlines()]
    return "\n".join(["0,1,2"] + [",".join(map(repr, p)) for p in table(rows)]).encode()


@speaks(body="csv", separator="\t", answer="csv", response="@")
def tsv(asked: Asked) -> Any:
    rows = [[float(c) for c in line.split("\t")] for line in asked.body.decode().splitlines()]
    return "\n".join("\t".join(map(repr, p)) for p in table(rows)).encode()


@speaks(request="$record", response="result", label="name", score="confidence", total=100)
def percent_strings(asked: Asked) -> Any:
    return {
        "result": [
            {"name": n, "confidence": f"{100 * p!r} %"}
            for n, p in zip(NAMES, table([asked.json[f"f{i}"] for i in range(4)])[0], strict=True)
        ]
    }


@speaks(request=ROWS, response="p", scale="percent")
def percent_strings_table(asked: Asked) -> Any:
    return {"p": [[f"{100 * q!r}%" for q in p] for p in table(asked.json["x"])]}


@speaks(request=ROWS, response="p")
def confidences_as_strings_map(asked: Asked) -> Any:
    return {"p": [{n: repr(q) for n, q in zip(NAMES, p, strict=True)} for p in table(asked.json["x"])]}


@speaks(request={"rows": {"$merge": {"$each": {"r{index}": "$row"}}}}, response="sort_by(items(predictions), &[0])[*][1]")
def map_by_row_id(asked: Asked) -> Any:
    rows = asked.json["rows"]
    ks = sorted(rows)  # text order: r10 before r2
    return {"predictions": {k: mapped(table(rows[k])[0]) for k in ks}}


@speaks(request="$columns", columnar=True, response="@")
def pandas_orient_columns(asked: Asked) -> Any:
    rows = np.array([asked.json[f"f{i}"] for i in range(4)]).T
    p = table(rows)
    return {n: {str(i): p[i][k] for i in sorted(range(len(p)), key=str)} for k, n in enumerate(NAMES)}


@speaks(request={"columns": "$names", "data": "$rows"}, names="columns", response="data")
def pandas_orient_split(asked: Asked) -> Any:
    return {"columns": list(NAMES), "index": list(range(len(asked.json["data"]))), "data": table(asked.json["data"])}


@speaks(request=ROWS, response="out[*].items(@)[?starts_with([0], 'prob_')]")
def columns_per_class_prefix(asked: Asked) -> Any:
    return {
        "out": [
            {"id": i, "predicted": "cat", **{f"prob_{n}": q for n, q in zip(NAMES, p, strict=True)}}
            for i, p in enumerate(table(asked.json["x"]))
        ]
    }


@speaks(
    "pixels",
    body="multipart",
    image="png",
    request={"file": "$row", "meta": {"$file": {"model": "m", "top": 3}, "name": None, "type": "application/json"}},
    response="p",
)
def data_url_multipart_json_meta(asked: Asked) -> Any:
    parts = data_parts(asked)
    assert parts["meta"].get_content_type() == "application/json"
    assert parts["meta"].get_filename() is None
    assert json.loads(parts["meta"].get_payload(decode=True)) == {"model": "m", "top": 3}
    return {"p": vendors.png(parts["file"].get_payload(decode=True))[0]}


@speaks(
    "pixels",
    body="form",
    image="png-base64",
    request={"img": "data:image/png;base64,{row}"},
    response="[0].classes",
    label="class",
    score="prob",
)
def data_url_in_urlencoded(asked: Asked) -> Any:
    return [{"classes": listed(vendors.data_url(form(asked)["img"][0])[0], "class", "prob")}]


@speaks(body="form", request={"x[]": "$row"}, response="p")
def urlencoded_array(asked: Asked) -> Any:
    return {"p": table([float(t) for t in form(asked)["x[]"]])[0]}


@speaks(body="form", request={"$merge": {"$cells": {"x[{index}]": "$value"}}}, response="p")
def urlencoded_indexed(asked: Asked) -> Any:
    q = form(asked)
    return {"p": table([float(q[f"x[{i}]"][0]) for i in range(4)])[0]}


@speaks(method="GET", request={"features": "{csv}"}, response="p")
def get_comma_list(asked: Asked) -> Any:
    return {"p": table(numbers(asked.query["features"]))[0]}


@speaks(tail="/{f0}/{f1}/{f2}/{f3}", method="GET", response="p")
def get_path(asked: Asked) -> Any:
    return {"p": table([float(t) for t in asked.path.split("/")[2:]])[0]}


@speaks(tail="?v={csv}", method="GET", response="p")
def get_url_query_placeholder(asked: Asked) -> Any:
    return {"p": table(numbers(asked.query["v"]))[0]}


JOBS: dict[str, Any] = {}


@speaks(
    request=ROWS,
    poll={
        "url": "/submit-poll-words/jobs?id={job.id}",
        "done": "state == 'DONE'",
        "failed": "state == 'ERROR'",
        "interval": 0.01,
    },
    response="result.p",
)
def submit_poll_words(asked: Asked) -> Any:
    if asked.method == "POST":
        JOBS[str(len(JOBS))] = [table(asked.json["x"]), 0]
        return {"job": {"id": len(JOBS) - 1}, "state": "QUEUED"}
    job = JOBS[asked.query["id"]]
    job[1] += 1
    return {"state": "RUNNING"} if job[1] < 2 else {"state": "DONE", "result": {"p": job[0]}}


@speaks(request=ROWS, poll={"interval": 0.01}, response="p")
def answer_202_relative_location(asked: Asked) -> Any:
    if asked.method == "POST":
        JOBS[f"n{len(JOBS)}"] = [table(asked.json["x"]), 0]
        return Said({}, 202, {"Location": f"answer-202-relative-location/jobs/n{len(JOBS) - 1}"})
    job = JOBS[asked.path.rsplit("/")[-1]]
    job[1] += 1
    return Said({}, 202) if job[1] < 2 else {"p": job[0]}


@speaks(
    request=ROWS,
    poll={"url": "/poll-by-post/status", "request": {"job": "{id}"}, "done": "status=='ok'", "interval": 0.01},
    response="p",
)
def poll_by_post(asked: Asked) -> Any:
    if "x" in asked.json:
        JOBS[f"p{len(JOBS)}"] = [table(asked.json["x"]), 0]
        return {"id": f"p{len(JOBS) - 1}", "status": "new"}
    return {"status": "ok", "p": JOBS[asked.json["job"]][0]}


@speaks("some", request=ROWS, response="r", label="n", score="s")
def top_k_missing(asked: Asked) -> Any:
    return {
        "r": [
            sorted([{"n": n, "s": q} for n, q in zip(NAMES, p, strict=True)], key=lambda d: -d["s"])[:2]
            for p in table(asked.json["x"])
        ]
    }


@speaks(request=ROWS, response="power(`10`, lp)")
def log10(asked: Asked) -> Any:
    return {"lp": [[math.log10(q) for q in p] for p in table(asked.json["x"])]}


@speaks(request=ROWS, response="r", label="c", score="power(`2`, l)")
def log2_named(asked: Asked) -> Any:
    return {"r": [[{"c": n, "l": math.log2(q)} for n, q in zip(NAMES, p, strict=True)] for p in table(asked.json["x"])]}


@speaks(request=ROWS, response="exp(multiply(`-1`, cost))")
def negative_log(asked: Asked) -> Any:
    return {"cost": [[-math.log(q) for q in p] for p in table(asked.json["x"])]}


@speaks(request=ROWS, response="r", kind="logits")
def logits_named(asked: Asked) -> Any:
    return {"r": [mapped(z) for z in logits(asked.json["x"])]}


@speaks(request=ROWS, response="r", total=1000)
def x1000(asked: Asked) -> Any:
    return {"r": [[1000 * q for q in p] for p in table(asked.json["x"])]}


@speaks(request=ROWS, response="map(&divide(@, sum(@)), w)")
def unnormalised_weights(asked: Asked) -> Any:
    return {"w": [[7 * math.exp(z) for z in r] for r in logits(asked.json["x"])]}


@speaks("binary", request=ROWS, response="score")
def binary_scalar(asked: Asked) -> Any:
    return {"score": binary(asked.json["x"])}


@speaks("binary", request={"x": "$row"}, response="[0].score")
def binary_scalar_text_one(asked: Asked) -> Any:
    return [{"score": repr(float(binary(asked.json["x"])[0]))}]


@speaks("binary", request=ROWS, response="score")
def binary_scalars_text(asked: Asked) -> Any:
    return {"score": [repr(float(s)) for s in binary(asked.json["x"])]}


@speaks("binary", request=ROWS, response="score", total=100)
def binary_percent_scalar(asked: Asked) -> Any:
    return {"score": [100 * p for p in binary(asked.json["x"])]}


@speaks("binary", request=ROWS, response="r", label="label", score="confidence", labels=["good", "bad"])
def binary_predicted_label_and_confidence(asked: Asked) -> Any:
    return {"r": [{"label": "good" if p > 0.5 else "bad", "confidence": max(p, 1 - p)} for p in binary(asked.json["x"])]}


@speaks("binary", request=ROWS, response="multiply(`0.5`, add(`1`, m))")
def binary_margin(asked: Asked) -> Any:
    return {"m": [2 * p - 1 for p in binary(asked.json["x"])]}


@speaks("binary", request=ROWS, response="z", kind="logits")
def binary_logit(asked: Asked) -> Any:
    return {"z": [[z] for z in (np.array(asked.json["x"]) @ BINARY).tolist()]}


@speaks(request=[[{"in": "$rows"}]], response="[0][0].out[0]")
def wrapped(asked: Asked) -> Any:
    return [[{"out": [table(asked.json[0][0]["in"])]}]]


@speaks(request=ROWS, failed="status != 'ok'", response="p")
def answer_200_error_sometimes(asked: Asked) -> Any:
    JOBS["asked"] = JOBS.get("asked", 0) + 1
    p = table(asked.json["x"])
    return {"status": "error", "p": [[1 / 3] * 3] * len(p)} if JOBS["asked"] % 3 == 0 else {"status": "ok", "p": p}


@speaks(request=ROWS, response="r")
def unicode_names(asked: Asked) -> Any:
    return {"r": [dict(zip(("größer als 5", "кот", "猫 (old)"), p, strict=False)) for p in table(asked.json["x"])]}


@speaks(request=ROWS, numbers="text", response="p")
def numbers_as_strings_both_ways(asked: Asked) -> Any:
    assert isinstance(asked.json["x"][0][0], str)
    return {"p": [[repr(q) for q in p] for p in table(asked.json["x"])]}


@speaks(request={"shape": ["$count", 4], "data": "$flat"}, response="chunks(shape[1], data)")
def flat_with_shape(asked: Asked) -> Any:
    assert asked.json["shape"][0] * 4 == len(asked.json["data"])
    p = table(asked.json["data"])
    return {"shape": [len(p), 3], "data": [q for r in p for q in r]}


@speaks(request={"columns": "$transposed"}, columnar=True, response="p")
def feature_major(asked: Asked) -> Any:
    return {"p": np.array(table(np.array(asked.json["columns"]).T)).T.tolist()}


@speaks(request={"rows": {"$each": {"$cells": {"name": "$name", "value": "$value"}}}}, response="p")
def cells_with_names(asked: Asked) -> Any:
    return {"p": table([[c["value"] for c in r] for r in asked.json["rows"]])}


@speaks(
    request={
        "instances": {"$each": {"structValue": {"fields": {"$merge": {"$cells": {"{name}": {"numberValue": "$value"}}}}}}}
    },
    response="map(&listValue.values[].numberValue, predictions)",
)
def protobuf_struct(asked: Asked) -> Any:
    return {
        "predictions": [
            {"listValue": {"values": [{"numberValue": q} for q in p]}}
            for p in table(
                [[r["structValue"]["fields"][f"f{i}"]["numberValue"] for i in range(4)] for r in asked.json["instances"]]
            )
        ]
    }


@speaks(
    body="text",
    request={"$join": ["\n", {"$each": {"$join": [" ", {"$cells": "{index}:{value}"}]}}]},
    answer="text",
    response="chunks(`3`, numbers(@))",
)
def libsvm(asked: Asked) -> Any:
    rows = [[float(t.split(":")[1]) for t in line.split()] for line in asked.body.decode().splitlines()]
    return "\n".join(" ".join(map(repr, p)) for p in table(rows)).encode()


@speaks(
    request={"body": {"$base64": {"$json": {"x": "$rows"}}}, "isBase64Encoded": True}, response="parse_json(base64(body)).p"
)
def lambda_proxy_base64(asked: Asked) -> Any:
    x = json.loads(base64.b64decode(asked.json["body"]))["x"]
    return {"statusCode": 200, "body": base64.b64encode(json.dumps({"p": table(x)}).encode()).decode()}


@speaks(request={"x": {"$each": {"$base64": {"$bytes": "$row"}}}}, dtype="float64", response="map(&floats('float64', @), p)")
def floats_in_base64(asked: Asked) -> Any:
    rows = [np.frombuffer(base64.b64decode(t), "<f8") for t in asked.json["x"]]
    return {"p": [base64.b64encode(np.array(p, "<f8").tobytes()).decode() for p in table(rows)]}


@speaks(body="npy", answer="npy", response="@")
def npy_both_ways(asked: Asked) -> Any:
    b = io.BytesIO()
    np.save(b, np.array(table(np.load(io.BytesIO(asked.body)))))
    return b.getvalue()


@speaks(request=ROWS, answer="text", response="parse_json(replace(')]}\\'', '', @)).p")
def xssi_prefix(asked: Asked) -> Any:
    return b")]}'\n" + json.dumps({"p": table(asked.json["x"])}).encode()


@speaks(request=ROWS, response="p")
def squeezed_single_row(asked: Asked) -> Any:
    p = table(asked.json["x"])
    return {"p": p[0] if len(p) == 1 else p}


@speaks(request={"x": "$row"}, answer="text", response="map(&split('=', @), split(';', @))")
def pairs_key_value_text(asked: Asked) -> Any:
    return ";".join(f"{n}={q!r}" for n, q in zip(NAMES, table(asked.json["x"])[0], strict=True)).encode()


@speaks(request=ROWS, response="r", label="indices", score="values")
def sparse(asked: Asked) -> Any:
    return {"r": [{"size": 3, "indices": [2, 0, 1], "values": [p[2], p[0], p[1]]} for p in table(asked.json["x"])]}


@speaks(request={"signature_name": "s", "examples": "$records"}, response="results")
def tf_classify(asked: Asked) -> Any:
    return {
        "results": [
            [[str(k), q] for k, q in enumerate(p)]
            for p in table([[r[f"f{i}"] for i in range(4)] for r in asked.json["examples"]])
        ]
    }


@speaks(request={"x": "$row"}, answer="events", response="[?event=='score'].data", label="n", score="s")
def sse_deltas(asked: Asked) -> Any:
    return (
        "".join(
            f"event: score\ndata: {json.dumps({'n': n, 's': q})}\n\n"
            for n, q in zip(NAMES, table(asked.json["x"])[0], strict=True)
        ).encode()
        + b"event: end\ndata: [DONE]\n\n"
    )


@speaks(
    "some",
    request={"prompt": "is {csv} a cat?", "logprobs": 5},
    response="choices[0].logprobs.top_logprobs[0]",
    kind="logprobs",
    labels={"cat": [" cat", " Cat"], "dog": [" dog"]},
    other_labels="rest",
)
def legacy_completions(asked: Asked) -> Any:
    p = vendors.sentence(asked.json["prompt"])[0]
    return {
        "choices": [
            {
                "logprobs": {
                    "top_logprobs": [
                        {
                            " cat": math.log(0.7 * p[0]),
                            " Cat": math.log(0.3 * p[0]),
                            " dog": math.log(p[1]),
                            "�": math.log(p[2]),
                        }
                    ]
                }
            }
        ]
    }


@speaks(
    "some",
    request={"t": "{csv}"},
    response="top",
    label="token",
    score="logprob",
    kind="logprobs",
    labels={"cat": ["cat"], "dog": ["dog"]},
    other_labels="rest",
)
def duplicate_unknown_tokens(asked: Asked) -> Any:
    p = vendors.sentence(asked.json["t"])[0]
    return {
        "top": [
            {"token": t, "logprob": math.log(q)} for t, q in [("cat", p[0]), ("dog", p[1]), ("�", p[2] / 2), ("�", p[2] / 2)]
        ]
    }


@speaks("binary", request=ROWS, response="r[*].tags", kind="independent", audit_label="b c")
def multi_label_independent_map_in_list(asked: Asked) -> Any:
    return {"r": [{"tags": {"a": 0.3, "b c": float(s)}} for s in binary(asked.json["x"])]}


@speaks("binary", request=ROWS, response="r", kind="independent", labels=["a", "b c", "d"], audit_label="b c")
def multi_label_independent_named_columns(asked: Asked) -> Any:
    return {"r": [[0.3, float(s), 0.4] for s in binary(asked.json["x"])]}


@speaks(request=ROWS, columnar=True, response="{cat: p_cat, dog: p_dog, eel: p_eel}")
def one_vs_rest_columns_as_objects(asked: Asked) -> Any:
    p = np.array(table(asked.json["x"]))
    return {f"p_{n}": p[:, k].tolist() for k, n in enumerate(NAMES)} | {"took": 3}
