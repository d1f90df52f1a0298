"""Small servers in the formats of the shelf: each reads and writes what its vendor's page says, on linear softmax models."""

from __future__ import annotations

import base64
import csv
import email
import email.policy
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "eel")
SIDE, FEATURES = 6, 4
_rng = np.random.default_rng(3)
TABLE = 0.8 * _rng.standard_normal((3, FEATURES))
PIXELS = 0.4 * _rng.standard_normal((3, SIDE * SIDE)) / 255.0


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def table(rows: Any) -> list[list[float]]:
    return softmax(np.array(rows, dtype=np.float64).reshape(-1, FEATURES) @ TABLE.T).tolist()


def pixels(rows: Any) -> list[list[float]]:
    return softmax(np.array(rows, dtype=np.float64).reshape(-1, SIDE * SIDE) @ PIXELS.T).tolist()


def exact(weights: np.ndarray, x: np.ndarray) -> float:
    """lambda_max of W^T (diag p - p p^T) W."""
    p = softmax(x.reshape(1, -1) @ weights.T)[0]
    return float(np.linalg.eigvalsh(weights.T @ (np.diag(p) - np.outer(p, p)) @ weights).max())


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Said:
    """One answer."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Service = Callable[[Asked], Any]


def png(raw: bytes) -> list[list[float]]:
    image = Image.open(io.BytesIO(raw))
    assert image.format == "PNG"
    return pixels(np.asarray(image, dtype=np.float64))


def png64(text: str) -> list[list[float]]:
    return png(base64.b64decode(text, validate=True))


def data_url(text: str) -> list[list[float]]:
    head, _, rest = text.partition(",")
    assert head == "data:image/png;base64"
    return png64(rest)


def sentence(text: str) -> list[list[float]]:
    return table([float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)])


def listed(p: list[float], label: str, score: str, times: float = 1.0) -> list[dict[str, Any]]:
    """Sorted by score, as vendors do."""
    pairs = sorted(zip(NAMES, p, strict=True), key=lambda pair: -pair[1])
    return [{label: name, score: times * value} for name, value in pairs]


def mapped(p: list[float]) -> dict[str, float]:
    return dict(zip(NAMES, p, strict=True))


def lists(p: list[float], label: str, score: str) -> dict[str, Any]:
    pairs = sorted(zip(NAMES, p, strict=True), key=lambda pair: -pair[1])
    return {label: [name for name, _ in pairs], score: [value for _, value in pairs]}


def azure_custom_vision(asked: Asked) -> Any:
    assert asked.headers["content-type"] == "application/octet-stream"
    assert asked.headers["prediction-key"] == "key-1234"
    return {"id": "1", "predictions": listed(png(asked.body)[0], "tagName", "probability")}


def vertex_image(asked: Asked) -> Any:
    (one,) = asked.json["instances"]
    return {"predictions": [lists(png64(one["content"])[0], "displayNames", "confidences")], "deployedModelId": "5"}


def vertex_tabular(asked: Asked) -> Any:
    rows = asked.json["instances"]
    assert all(isinstance(value, str) for row in rows for value in row.values())
    return {
        "predictions": [
            lists(p, "classes", "scores") for p in table([[float(row[f"f{i}"]) for i in range(4)] for row in rows])
        ]
    }


def sagemaker_csv(asked: Asked) -> Any:
    assert asked.headers["content-type"] == "text/csv"
    rows = list(csv.reader(io.StringIO(asked.body.decode())))
    return ",".join(map(str, table([[float(v) for v in row] for row in rows]))).encode()


def sagemaker_json(asked: Asked) -> Any:
    rows = [one["features"] for one in asked.json["instances"]]
    return {"predictions": [{"score": p} for p in table(rows)]}


def sagemaker_image(asked: Asked) -> Any:
    assert asked.headers["content-type"] == "application/x-image"
    return png(asked.body)[0]


def rekognition(asked: Asked) -> Any:
    assert asked.headers["x-amz-target"] == "RekognitionService.DetectCustomLabels"
    assert asked.headers["content-type"] == "application/x-amz-json-1.1"
    return {"CustomLabels": listed(png64(asked.json["Image"]["Bytes"])[0], "Name", "Confidence", 100.0)}


def roboflow(asked: Asked) -> Any:
    assert asked.query["api_key"] == "key-1234"
    p = png64(asked.body.decode())[0]
    return {"time": 0.1, "predictions": listed(p, "class", "confidence"), "top": NAMES[int(np.argmax(p))]}


def clarifai(asked: Asked) -> Any:
    images = [png64(one["data"]["image"]["base64"])[0] for one in asked.json["inputs"]]
    return {"outputs": [{"data": {"concepts": listed(p, "name", "value")}} for p in images]}


def snowflake(asked: Asked) -> Any:
    rows = asked.json["data"]
    assert [row[0] for row in rows] == list(range(len(rows)))
    return {"data": [[i, p] for i, p in enumerate(table([row[1:] for row in rows]))]}


def azure_mlflow(asked: Asked) -> Any:
    sent = asked.json["input_data"]
    assert sent["columns"] == ["f0", "f1", "f2", "f3"]
    assert sent["index"] == list(range(len(sent["data"])))
    return table(sent["data"])


def databricks(asked: Asked) -> Any:
    sent = asked.json["dataframe_split"]
    assert sent["columns"] == ["f0", "f1", "f2", "f3"]
    return {"predictions": table(sent["data"])}


def openai(asked: Asked) -> Any:
    sent = asked.json
    assert (sent["logprobs"], sent["max_tokens"]) == (True, 1)
    p = sentence(sent["messages"][-1]["content"])[0]
    tokens = {"yes": 0.9 * p[0], " yes": 0.1 * p[0], "No": p[1], "maybe": p[2]}
    top = [
        {"token": t, "logprob": float(np.log(v)), "bytes": None} for t, v in sorted(tokens.items(), key=lambda kv: -kv[1])
    ]
    return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"token": "x", "top_logprobs": top}]}}]}


def watson(asked: Asked) -> Any:
    assert asked.headers["authorization"] == "Bearer token-1"
    assert asked.query == {"version": "2021-05-01"}
    rows = asked.json["input_data"][0]["values"]
    values = [[NAMES[int(np.argmax(p))], p] for p in table(rows)]
    return {"predictions": [{"fields": ["prediction", "probability"], "values": values}]}


def perspective(asked: Asked) -> Any:
    assert asked.query["key"] == "key-1234"
    numbers = sentence(asked.json["comment"]["text"])[0]
    scores = {"TOXICITY": numbers[0], "INSULT": 0.3}
    return {"attributeScores": {k: {"summaryScore": {"value": v, "type": "PROBABILITY"}} for k, v in scores.items()}}


def cohere(asked: Asked) -> Any:
    rows = [sentence(text)[0] for text in asked.json["inputs"]]
    return {"classifications": [{"labels": {n: {"confidence": v} for n, v in mapped(p).items()}} for p in rows]}


def mlserver(asked: Asked) -> Any:
    if asked.method == "GET":
        return Said({"error": "no metadata"}, 404)
    if "inference-header-content-length" in asked.headers:
        return Said({"error": "no binary tensors"}, 400)
    tensor = asked.json["inputs"][0]
    p = table(tensor["data"])
    flat = [value for row in p for value in row]
    return {"outputs": [{"name": "predict_proba", "datatype": "FP64", "shape": [len(p), 3], "data": flat}]}


def upload(asked: Asked) -> Any:
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + asked.body, policy=email.policy.HTTP)
    (part,) = message.iter_parts()
    assert part.get_param("name", header="content-disposition") == "file"
    assert (part.get_filename(), part.get_content_type()) == ("image.png", "image/png")
    return {"probabilities": mapped(png(part.get_payload(decode=True))[0])}


class Background:
    """Replicate and Gradio: work that is submitted, and looked for twice before it is done."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[float]] = {}
        self.looks: dict[str, int] = {}

    def submit(self, p: list[float]) -> str:
        name = f"job{len(self.jobs)}"
        self.jobs[name], self.looks[name] = p, 0
        return name

    def replicate(self, asked: Asked) -> Any:
        name = asked.path.rsplit("/", 1)[-1]
        if asked.method == "POST":
            name = self.submit(data_url(asked.json["input"]["image"])[0])
            where = f"http://{asked.headers['host']}/replicate/v1/predictions/{name}"
            return Said({"id": name, "status": "starting", "urls": {"get": where}}, 201)
        self.looks[name] += 1
        if self.looks[name] < 2:
            return {"status": "processing", "output": None}
        return {"status": "succeeded", "output": listed(self.jobs[name], "label", "score")}

    def gradio(self, asked: Asked) -> Any:
        if asked.method == "POST":
            return {"event_id": self.submit(table(asked.json["data"][0])[0])}
        label = {"label": "cat", "confidences": listed(self.jobs[asked.path.rsplit("/", 1)[-1]], "label", "confidence")}
        return b"event: heartbeat\ndata: null\n\nevent: complete\ndata: " + json.dumps([label]).encode() + b"\n\n"


_work = Background()

#: By preset: what serves it, and whether its rows are images.
SERVICES: dict[str, tuple[Service, bool]] = {
    "azure-custom-vision": (azure_custom_vision, True),
    "azure-ml": (lambda asked: table(asked.json["data"]), False),
    "azure-ml-mlflow": (azure_mlflow, False),
    "bentoml": (lambda asked: table(asked.json["input_series"]), False),
    "clarifai": (clarifai, True),
    "cohere-classify": (cohere, False),
    "databricks": (databricks, False),
    "fastapi": (lambda asked: {"probabilities": mapped(table([asked.json[f"f{i}"] for i in range(4)])[0])}, False),
    "fastapi-upload": (upload, True),
    "gradio": (_work.gradio, False),
    "huggingface-image": (lambda asked: listed(png64(asked.json["inputs"])[0], "label", "score"), True),
    "huggingface-scores": (lambda asked: [listed(p, "label", "score") for p in table(asked.json["inputs"])], False),
    "huggingface-text-table": (lambda asked: [listed(sentence(asked.json["inputs"])[0], "label", "score")], False),
    "litserve": (lambda asked: {"output": table(asked.json["input"])[0]}, False),
    "mlflow": (databricks, False),
    "mlserver": (mlserver, False),
    "nvidia-nim": (
        lambda asked: {"data": [{
            "index": 0, "is_ai_generated": 0.5, "possible_sources": mapped(data_url(asked.json["input"][0])[0]),
            "status": "SUCCESS",
        }]},
        True,
    ),
    "openai-logprobs": (openai, False),
    "perspective": (perspective, False),
    "ray-serve": (lambda asked: {"result": table([asked.json[f"f{i}"] for i in range(4)])[0]}, False),
    "rekognition-custom-labels": (rekognition, True),
    "replicate": (_work.replicate, True),
    "roboflow": (roboflow, True),
    "sagemaker-csv": (sagemaker_csv, False),
    "sagemaker-image": (sagemaker_image, True),
    "sagemaker-json": (
        sagemaker_json, False,
    ),
    "snowflake": (snowflake, False),
    "tensorflow-serving": (lambda asked: {"predictions": table(asked.json["instances"])}, False),
    "triton": (mlserver, False),
    "vertex-custom": (
        lambda asked: {
            "predictions": table(asked.json["instances"]), "deployedModelId": "5", "model": "projects/1/models/2",
            "modelDisplayName": "m", "modelVersionId": "1",
        },
        False,
    ),
    "vertex-image": (vertex_image, True),
    "vertex-tabular": (vertex_tabular, False),
    "watson": (watson, False),
}  # fmt: skip


@dataclass
class LoopbackServer:
    """Answers ``/NAME/...`` by the service of that name; keeps what it was asked, and what went wrong."""

    services: dict[str, Service]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> Said:
        self.asked.append(asked)
        name = asked.path.split("/")[1]
        try:
            said = self.services[name](asked)
        except Exception as exc:
            self.errors.append(f"{name}: {type(exc).__name__}: {exc}")
            return Said({"error": str(exc)}, 400)
        return said if isinstance(said, Said) else Said(said)


@contextmanager
def serving(services: dict[str, Service], wrap: Callable[[Any], Any] = lambda socket: socket) -> Iterator[LoopbackServer]:
    """A server on 127.0.0.1 for as long as the block lasts."""
    loopback = LoopbackServer(services)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for the client's acknowledgement of its headers

        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = loopback.answer(Asked(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body))
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.content)))
            self.end_headers()
            self.wfile.write(said.content)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = wrap(server.socket)
    loopback.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
