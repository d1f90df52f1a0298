"""Formats of public services that the shelf has no preset of, as their pages describe them; each joins ``FORMATS``."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
from typing import Any
from urllib.parse import parse_qsl

import msgpack
import numpy as np

from tests.servers import vendors
from tests.servers.other_formats import JOBS, ROWS, data_parts, speaks
from tests.servers.vendors import NAMES, Asked, Said, listed, mapped, table


def record(values: dict[str, Any]) -> list[float]:
    return [float(values[f"f{i}"]) for i in range(4)]


@speaks(
    request={"data": "$record"}, url_query={"labelCount": 10}, response="labelConfidences", label="labelName",
    score="confidence",
)  # fmt: skip
def nyckel(asked: Asked) -> Any:
    assert asked.query["labelCount"] == "10"
    ranked = listed(table(record(asked.json["data"]))[0], "labelName", "confidence")
    return {"labelName": ranked[0]["labelName"], "labelId": "label_1", "confidence": ranked[0]["confidence"],
            "labelConfidences": ranked}  # fmt: skip


@speaks(
    "pixels", image="png-base64", request={"task_id": "t", "records": {"$each": {"_base64": "$row"}}},
    failed="status.code != `200`", response="records[*].labels", label="name", score="prob",
)  # fmt: skip
def ximilar(asked: Asked) -> Any:
    answers = [listed(vendors.png64(r["_base64"])[0], "name", "prob") for r in asked.json["records"]]
    return {"records": [{"_status": {"code": 200}, "best_label": a[0], "labels": a} for a in answers],
            "status": {"code": 200, "text": "OK"}}  # fmt: skip


@speaks(
    "pixels", body="multipart", image="png", request={"image": "$row"}, basic={"user_env": "ID", "password_env": "SECRET"},
    failed="status.type != 'success'", response="result.tags", label="tag.en", score="confidence", total=100,
)  # fmt: skip
def imagga(asked: Asked) -> Any:
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"id-1234:secret:1234"
    (p,) = vendors.png(data_parts(asked)["image"].get_payload(decode=True))
    tags = [{"confidence": one["c"], "tag": {"en": one["n"]}} for one in listed(p, "n", "c", 100.0)]
    return {"result": {"tags": tags}, "status": {"text": "", "type": "success"}}


@speaks(
    "pixels", body="multipart", image="png", request={"media": "$row", "models": "type"},
    body_env={"api_user": "ID", "api_secret": "SECRET"}, failed="status == 'failure'", response="type",
)  # fmt: skip
def sightengine(asked: Asked) -> Any:
    parts = data_parts(asked)
    assert [parts[n].get_payload(decode=True) for n in ("api_user", "api_secret", "models")] == [
        b"id-1234", b"secret:1234", b"type",
    ]  # fmt: skip
    return {"status": "success", "type": mapped(vendors.png(parts["media"].get_payload(decode=True))[0])}


@speaks(request={"x": "$row"}, body_env={"api_key": "SECRET"}, response="p")
def key_in_a_json_body(asked: Asked) -> Any:
    assert asked.json["api_key"] == "secret:1234"
    return {"p": table(asked.json["x"])[0]}


@speaks(body="form", request={"x": "{csv}"}, body_env={"token": "SECRET"}, response="p")
def key_in_a_form(asked: Asked) -> Any:
    fields = dict(parse_qsl(asked.body.decode()))
    assert fields["token"] == "secret:1234"
    return {"p": table([float(one) for one in fields["x"].split(",")])[0]}


@speaks(
    "pixels", body="multipart", image="png", request={"media": "$row"},
    response="status[0].response.output[0].classes", label="class", score="score",
)  # fmt: skip
def hive(asked: Asked) -> Any:
    (p,) = vendors.png(data_parts(asked)["media"].get_payload(decode=True))
    output = [{"time": 0, "classes": listed(p, "class", "score")}]
    return {"id": "1", "status": [{"status": {"code": "0", "message": "SUCCESS"}, "response": {"output": output}}]}


@speaks(
    request={"Text": "{csv}", "EndpointArn": "arn:aws:comprehend:e"},
    headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Comprehend_20171127.ClassifyDocument"},
    response="Classes", label="Name", score="Score",
)  # fmt: skip
def comprehend(asked: Asked) -> Any:
    assert asked.headers["content-type"] == "application/x-amz-json-1.1"
    return {"Classes": listed(vendors.sentence(asked.json["Text"])[0], "Name", "Score")}


@speaks(
    request={"payload": {"textSnippet": {"content": "{csv}", "mime_type": "text/plain"}}}, response="payload",
    label="displayName", score="classification.score",
)  # fmt: skip
def automl_text(asked: Asked) -> Any:
    p = vendors.sentence(asked.json["payload"]["textSnippet"]["content"])[0]
    ranked = listed(p, "n", "s")
    return {"payload": [{"annotationSpecId": "1", "classification": {"score": one["s"]}, "displayName": one["n"]}
                        for one in ranked]}  # fmt: skip


@speaks(
    request={
        "analysisInput": {"documents": {"$each": {"id": "$index", "language": "en", "text": "{csv}"}}},
        "tasks": [{"kind": "CustomSingleLabelClassification", "parameters": {"projectName": "p"}}],
    },
    poll={"done": "status == 'succeeded'", "failed": "status == 'failed'", "interval": 0.01},
    response="sort_by(tasks.items[0].results.documents, &id)[].class", label="category", score="confidenceScore",
)  # fmt: skip
def azure_language(asked: Asked) -> Any:
    if asked.method == "POST":
        documents = asked.json["analysisInput"]["documents"]
        JOBS[f"l{len(JOBS)}"] = [[d["id"], vendors.sentence(d["text"])[0]] for d in documents]
        where = f"http://{asked.headers['host']}/azure-language/jobs/l{len(JOBS) - 1}?api-version=2022"
        return Said(b"", 202, {"Operation-Location": where})
    job = JOBS[asked.path.rsplit("/", 1)[-1]]
    found = [{"id": str(i), "class": listed(p, "category", "confidenceScore"), "warnings": []} for i, p in job]
    return {"status": "succeeded", "tasks": {"completed": 1, "items": [{"results": {"documents": found[::-1]}}]}}


@speaks(request={"providers": "a,b", "text": "{csv}"}, failed="a.status != 'success'", response="a.items",
        label="label", score="confidence")  # fmt: skip
def eden(asked: Asked) -> Any:
    p = vendors.sentence(asked.json["text"])[0]
    return {"a": {"status": "success", "cost": 0.001, "items": listed(p, "label", "confidence")}, "b": {"status": "fail"}}


@speaks(request={"fields": "$names", "rows": "$rows"}, numbers="text", names="fields", response="score")
def h2o_mlops(asked: Asked) -> Any:
    assert asked.json["fields"] == [f"f{i}" for i in range(4)]
    p = table([[float(cell) for cell in row] for row in asked.json["rows"]])
    return {"id": "m", "fields": [f"y.{name}" for name in NAMES], "score": [list(map(repr, row)) for row in p]}


@speaks(body="csv", request="$records", response="sort_by(data, &rowId)[].predictionValues", label="label", score="value")
def datarobot(asked: Asked) -> Any:
    rows = [record(r) for r in csv.DictReader(io.StringIO(asked.body.decode()))]
    found = [{"rowId": i, "prediction": "cat", "predictionValues": listed(p, "label", "value")}
             for i, p in enumerate(table(rows))]  # fmt: skip
    return {"data": found[::-1]}


@speaks(request={"items": {"$each": {"features": "$record"}}}, basic={"user_env": "ID"}, response="results[*].probas")
def dataiku(asked: Asked) -> Any:
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"id-1234:"
    p = table([record(item["features"]) for item in asked.json["items"]])
    return {"results": [{"ignored": False, "prediction": "cat", "probas": mapped(row)} for row in p]}


@speaks(
    request={"inputs": {"$cells": {"name": "$name", "value": "$value"}}},
    response="outputs[?starts_with(name, 'P_')]", label="name", score="value",
)  # fmt: skip
def sas_score(asked: Asked) -> Any:
    (p,) = table(record({one["name"]: one["value"] for one in asked.json["inputs"]}))
    values = [{"name": "I_class", "value": "cat"}, *({"name": f"P_{n}", "value": q} for n, q in mapped(p).items())]
    return {"moduleId": "m", "stepId": "score", "executionState": "completed", "outputs": values}


@speaks(request={"data": {"names": "$names", "ndarray": "$rows"}}, names="data.names", response="data.ndarray")
def seldon_ndarray(asked: Asked) -> Any:
    return {"data": {"names": [f"t:{n}" for n in NAMES], "ndarray": table(asked.json["data"]["ndarray"])}, "meta": {}}


@speaks(
    request={"data": {"tensor": {"shape": ["$count", 4], "values": "$flat"}}},
    response="chunks(data.tensor.shape[1], data.tensor.values)",
)
def seldon_tensor(asked: Asked) -> Any:
    p = table(asked.json["data"]["tensor"]["values"])
    return {"data": {"names": [], "tensor": {"shape": [len(p), 3], "values": [q for row in p for q in row]}}}


@speaks(request={"model": "model/1", "input_data": "$record", "probability": True}, response="probabilities")
def bigml(asked: Asked) -> Any:
    (p,) = table(record(asked.json["input_data"]))
    return Said({"code": 201, "output": "cat", "probabilities": [[n, q] for n, q in mapped(p).items()]}, 201)


@speaks(request={"data": {"$each": "{csv}"}}, response="[*].classifications", label="tag_name", score="confidence")
def monkeylearn(asked: Asked) -> Any:
    found = [vendors.sentence(text)[0] for text in asked.json["data"]]
    return [{"text": "t", "external_id": None, "error": False, "classifications": listed(p, "tag_name", "confidence")}
            for p in found]  # fmt: skip


@speaks(
    request={"Inputs": {"input1": {"ColumnNames": "$names", "Values": "$rows"}}, "GlobalParameters": {}},
    numbers="text",
    names="Results.output1.value.ColumnNames[1:]",
    response="map(&[1:], Results.output1.value.Values)",
)
def azure_ml_studio(asked: Asked) -> Any:
    values = [[float(cell) for cell in row] for row in asked.json["Inputs"]["input1"]["Values"]]
    names = ["Scored Labels", *(f'Scored Probabilities for Class "{n}"' for n in NAMES)]
    rows = [["cat", *map(repr, p)] for p in table(values)]
    return {"Results": {"output1": {"type": "table", "value": {"ColumnNames": names, "Values": rows}}}}


@speaks(
    request={"table": {"table-spec": {"$cells": {"{name}": "double"}}, "table-data": "$rows"}},
    response='map(&[1:], outputValues.out."table-data")',
)
def knime(asked: Asked) -> Any:
    rows = [["cat", *p] for p in table(asked.json["table"]["table-data"])]
    return {"state": "EXECUTION_FINISHED", "outputValues": {"out": {"table-spec": [], "table-data": rows}}}


@speaks(
    request={"jsonrpc": "2.0", "id": 1, "method": "predict", "params": {"rows": "$rows"}}, failed="error",
    response="result",
)  # fmt: skip
def json_rpc(asked: Asked) -> Any:
    return {"jsonrpc": "2.0", "id": asked.json["id"], "result": table(asked.json["params"]["rows"])}


@speaks(
    request={"$each": {"jsonrpc": "2.0", "id": "$index", "method": "predict", "params": "$row"}},
    response="sort_by(@, &id)[].result",
)
def json_rpc_batch(asked: Asked) -> Any:
    return [{"jsonrpc": "2.0", "id": one["id"], "result": table(one["params"])[0]} for one in asked.json][::-1]


SOAP = (
    '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><Predict>{row}'
    "</Predict></s:Body></s:Envelope>"
)
ONE_ROW = {"$join": ["", {"$cells": '<v n="{name}">{value}</v>'}]}


@speaks(
    body="text", headers={"Content-Type": "text/xml; charset=utf-8", "SOAPAction": "urn:predict"},
    request={"$join": ["", [SOAP.split("{row}")[0], ONE_ROW, SOAP.split("{row}")[1]]]}, answer="xml",
    response="Envelope.Body.PredictResponse.score", label='"@class"', score="text",
)  # fmt: skip
def soap(asked: Asked) -> Any:
    assert asked.headers["soapaction"] == "urn:predict"
    (p,) = table(record(dict(re.findall(r'<v n="(\w+)">([^<]+)</v>', asked.body.decode()))))
    scores = "".join(f'<r:score class="{n}">{q!r}</r:score>' for n, q in mapped(p).items())
    said = f'<r:PredictResponse xmlns:r="urn:r">\n {scores}\n</r:PredictResponse>'
    return SOAP.replace("<Predict>{row}</Predict>", said).encode()


@speaks(
    body="text", headers={"Content-Type": "application/xml"},
    request={"$join": ["", ["<rows>", {"$join": ["", {"$each": "<row>{csv}</row>"}]}, "</rows>"]]},
    answer="xml", response="map(&numbers(@), to_array(predictions.row))",
)  # fmt: skip
def xml_rows(asked: Asked) -> Any:
    rows = [[float(v) for v in row.split(",")] for row in re.findall("<row>([^<]+)</row>", asked.body.decode())]
    return (
        "<predictions>" + "".join(f"<row>{' '.join(map(repr, p))}</row>" for p in table(rows)) + "</predictions>"
    ).encode()


@speaks(body="msgpack", request={"x": "$rows"}, answer="msgpack", response="p")
def msgpack_both_ways(asked: Asked) -> Any:
    return msgpack.packb({"p": table(msgpack.unpackb(asked.body)["x"])})


@speaks(request=ROWS, answer="float64", response="chunks(`3`, @)")
def raw_doubles(asked: Asked) -> Any:
    return np.array(table(asked.json["x"]), "<f8").tobytes()


@speaks(request=ROWS, response="p")
def gzip_answer(asked: Asked) -> Any:
    return Said(gzip.compress(json.dumps({"p": table(asked.json["x"])}).encode()), 200, {"Content-Encoding": "gzip"})


@speaks(
    body="multipart",
    request={"file": {"$file": {"$join": ["\n", {"$each": "{csv}"}]}, "name": "rows.csv", "type": "text/csv"}},
    poll={"url": "/upload-then-download/jobs/{id}", "done": "state == 'done'", "result": "output_file", "interval": 0.01},
    answer="csv", response="@",
)  # fmt: skip
def upload_then_download(asked: Asked) -> Any:
    if asked.method == "POST":
        text = data_parts(asked)["file"].get_payload(decode=True).decode()
        JOBS[f"u{len(JOBS)}"] = table([[float(v) for v in line.split(",")] for line in text.splitlines()])
        return {"id": f"u{len(JOBS) - 1}", "state": "queued"}
    name = asked.path.rsplit("/", 1)[-1]
    if "jobs" in asked.path:
        return {"state": "done", "output_file": f"/upload-then-download/files/{name}"}
    return "\n".join(",".join(map(repr, p)) for p in JOBS[name]).encode()


@speaks(
    request={"messages": [{"role": "user", "content": "Is {csv} a cat? Answer with probabilities as JSON."}]},
    response="parse_json(replace('```', '', replace('```json', '', choices[0].message.content)))",
)
def chat_with_fenced_json(asked: Asked) -> Any:
    (p,) = vendors.sentence(asked.json["messages"][0]["content"])
    return {"choices": [{"message": {"content": f"```json\n{json.dumps(mapped(p))}\n```"}}]}


@speaks(
    request={"id": "1", "arguments": "$record"}, response="items(result)[?starts_with([0], 'probability(')]",
)  # fmt: skip
def openscoring(asked: Asked) -> Any:
    (p,) = table(record(asked.json["arguments"]))
    return {"id": "1", "result": {"y": "cat", **{f"probability({n})": q for n, q in mapped(p).items()}}}


@speaks(
    request={"resourceType": "Parameters", "parameter": {"$cells": {"name": "$name", "valueDecimal": "$value"}}},
    response="prediction", label="outcome.coding[0].code", score="probabilityDecimal",
)  # fmt: skip
def fhir_risk(asked: Asked) -> Any:
    (p,) = table(record({one["name"]: one["valueDecimal"] for one in asked.json["parameter"]}))
    return {"resourceType": "RiskAssessment", "prediction": [
        {"outcome": {"coding": [{"system": "urn:c", "code": n}]}, "probabilityDecimal": q} for n, q in mapped(p).items()
    ]}  # fmt: skip


@speaks(request={"x": "$rows"}, response="map(&numbers(@), predictions)")
def rows_in_strings(asked: Asked) -> Any:
    return {"predictions": [",".join(map(repr, p)) for p in table(asked.json["x"])]}


@speaks(request={"x": "$row"}, response="split(',', replace(')', '', text))", label="split('(', @)[0]",
        score="split('(', @)[1]", total=100)  # fmt: skip
def scores_in_a_sentence(asked: Asked) -> Any:
    ranked = listed(table(asked.json["x"])[0], "n", "s", 100.0)
    return {"text": ", ".join(f"{one['n']} ({one['s']!r}%)" for one in ranked)}


@speaks(body="csv", answer="csv", response="chunks(`3`, [1:])", label="[1]", score="[2]")
def csv_of_one_score_a_line(asked: Asked) -> Any:
    rows = [[float(cell) for cell in line] for line in csv.reader(io.StringIO(asked.body.decode()))]
    lines = [f"{i},{n},{q!r}" for i, p in enumerate(table(rows)) for n, q in mapped(p).items()]
    return "\n".join(["row,label,score", *lines]).encode()


@speaks(request={"x": "$rows"}, response="map(&[[@], alternatives][], predictions)", label="class", score="probability")
def best_and_alternatives(asked: Asked) -> Any:
    ranked = [listed(p, "class", "probability") for p in table(asked.json["x"])]
    return {"predictions": [{**row[0], "alternatives": row[1:]} for row in ranked]}


@speaks(request={"applicant": {"age": "$f0", "income": "$f1"}, "account": {"balance": "$f2", "months": "$f3"}}, response="p")
def columns_in_groups(asked: Asked) -> Any:
    applicant, account = asked.json["applicant"], asked.json["account"]
    return {"p": table([applicant["age"], applicant["income"], account["balance"], account["months"]])[0]}


@speaks(request={"rows": {"$each": {"a": {"f0": "$f0", "f1": "$f1"}, "b": ["$f2", "$f3"]}}}, response="p")
def columns_in_groups_of_each_row(asked: Asked) -> Any:
    return {"p": table([[*one["a"].values(), *one["b"]] for one in asked.json["rows"]])}
