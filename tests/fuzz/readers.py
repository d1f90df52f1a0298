"""Everything that reads what others wrote, each as one function of bytes: it returns, or raises one of our own errors."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fimaudit_adapters.http.answers import AnswerReader
from fimaudit_adapters.http.calibration import wire_for
from fimaudit_adapters.http.endpoint_file import read_endpoint
from fimaudit_adapters.http.fingerprint import fingerprint
from fimaudit_adapters.http.protocols.base import Reply
from fimaudit_adapters.http.sending.faults import after_status
from fimaudit_adapters.http.settings import Endpoint
from fimaudit_adapters.onnx_runtime.files import read_source
from fimaudit_adapters.onnx_runtime.graph_facts import not_smooth, quantised_weights
from fimaudit_adapters.onnx_runtime.graph_rewrite import with_free_batch

from fimaudit.bounds.importers.onnx_file import graph_of_file
from fimaudit.comparison.two_runs import compare_runs
from fimaudit.data.arrays import Inputs, check_inputs
from fimaudit.data.streams import Shard, Stream, look_at, open_data, survey
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import FimauditError, TargetError
from fimaudit.evidence.verification import verify_bundle
from fimaudit.models.classifier import Options
from fimaudit.policy.gate import decide
from fimaudit.policy.rules import parse_policy, read_policy
from fimaudit.report.page import page_html
from fimaudit.storage.run_folder import read_for_page, read_run
from tests.fuzz import seeds

__all__ = ["READERS", "Reader", "refused"]

Reader = Callable[[bytes], None]
#: A sentence for a user is shorter than this.
LONGEST_SENTENCE = 3000


def refused(reader: Reader, data: bytes) -> str | None:
    """Read; the sentence of the refusal, ``None`` where nothing is wrong with the bytes.

    Raises:
        AssertionError: a sentence that is none.
        Exception: whatever else came, which is a defect.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(data)
    except FimauditError as error:
        sentence: str | None = str(error)
    else:
        sentence = None
    if sentence is not None:
        assert sentence.strip(), "an error without a sentence"
        assert len(sentence) <= LONGEST_SENTENCE, f"a sentence of {len(sentence)} characters"
        assert "Traceback" not in sentence, sentence
    return sentence


def _file(ending: str, data: bytes) -> Path:
    path = _folder() / f"file{ending}"
    path.write_bytes(data)
    return path


@lru_cache(maxsize=1)
def _folder() -> Path:
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fimaudit-fuzz-", dir=shared if shared.is_dir() else None))


def _onnx(data: bytes) -> None:
    source = read_source(str(_file(".onnx", data)))
    graph = source.proto.graph
    try:
        not_smooth(graph, graph.input[0].name if graph.input else "", graph.output[0].name)
        quantised_weights(graph)
        with_free_batch(source.proto, [value.name for value in graph.input], 1)
    except FimauditError:
        raise
    except Exception as exc:  # as the adapter does, which opens a session between the two
        raise TargetError(f"cannot be read as ONNX: {exc!r}"[:300]) from exc


def _onnx_bounds(data: bytes) -> None:
    graph_of_file(str(_file(".onnx", data)), (4,), 1.0, {})


def _safetensors(data: bytes) -> None:
    from fimaudit_adapters.pytorch.files import load_weights

    load_weights(seeds.small_module(), Options(weights=str(_file(".safetensors", data))))


def _data(ending: str) -> Reader:
    def read(data: bytes) -> None:
        path = _file(ending, data)
        found = open_data(path)
        if isinstance(found, Inputs):
            checked = check_inputs(found, None)
            list(checked.rows(range(min(3, len(checked)))))
            checked.fingerprint(), checked.annotations()
        else:
            _stream(found)

    return read


def _shard(ending: str) -> Reader:
    """The same files as parts of a stream, of which single inputs are read."""

    def read(data: bytes) -> None:
        shard = Shard(str(_file(ending, data)), len(data))
        count = survey(shard, TableReading()).count
        if count:
            _stream(Stream("shard", (shard,), (count,)))

    return read


def _stream(stream: Stream) -> None:
    last = len(stream) - 1
    list(stream.rows(sorted({0, last // 2, last})))
    look_at(stream.for_model(None, "float32"), None)


def _endpoint(data: bytes) -> None:
    endpoint = read_endpoint(str(_file(".yaml", data)), Options())
    fingerprint(endpoint, "auto")
    body_and_wire(endpoint)


def body_and_wire(endpoint: Endpoint) -> None:
    """Write two rows as the settings say, where they name a protocol."""
    if endpoint.protocol is not None:
        wire = wire_for(endpoint, endpoint.url, binary=False)
        wire.encode(np.zeros((wire.most_rows or 2, 4), dtype=endpoint.dtype or "float64"))


def _policy(data: bytes) -> None:
    read_policy(_file(".yaml", data))


def _evidence(data: bytes) -> None:
    verify_bundle(_file(".zip", data))


def _report(data: bytes) -> None:
    run = _folder() / "run"
    run.mkdir(exist_ok=True)
    (run / "report.json").write_bytes(data)
    read = read_run(run)
    decide(read, parse_policy(seeds.POLICY), read)
    compare_runs(read, read)
    page_html(read_for_page(run))


def _wire(name: str) -> Reader:
    """An answer of a server: the first byte picks the settings, the second the status, the rest is the body."""

    def read(data: bytes) -> None:
        which, how, body = data[:1] or b"\0", data[1:2] or b"\0", data[2:]
        variants = seeds.ENDPOINTS[name]
        endpoint = Endpoint.model_validate(
            {"url": "https://host/v2/models/m/infer", "protocol": name, **variants[which[0] % len(variants)]}
        )
        headers = httpx.Headers()
        if how[0] & 1 and name == "open_inference":
            headers = httpx.Headers({"Inference-Header-Content-Length": str(int.from_bytes(body[:2], "big"))})
            body = body[2:]
        if how[0] & 2:
            fault = after_status(
                400 + how[0], {"Retry-After": body[:30].decode("latin-1")}, body + b" hunter2-hunter2", ("hunter2-hunter2",)
            )
            assert "hunter2-hunter2" not in fault.detail
            return
        wire = wire_for(endpoint, endpoint.url, binary=bool(headers))
        rows = wire.most_rows or 2
        link: Any = "labels" if endpoint.kind == "labels" else "auto"
        reader = AnswerReader.of(endpoint, link)
        for _ in range(2):
            found = reader.probabilities(wire.decode(Reply(200, headers, body), rows), rows)
            assert found.shape[0] == rows, found.shape
            assert np.isfinite(found).all()

    return read


READERS: dict[str, Reader] = {
    "onnx": _onnx,
    "onnx_bounds": _onnx_bounds,
    "safetensors": _safetensors,
    "npz": _data(".npz"),
    "npz_shard": _shard(".npz"),
    "npy": _data(".npy"),
    "npy_shard": _shard(".npy"),
    "csv": _data(".csv"),
    "parquet": _data(".parquet"),
    "parquet_shard": _shard(".parquet"),
    "tar": _data(".tar"),
    "endpoint_yaml": _endpoint,
    "policy_yaml": _policy,
    "evidence_zip": _evidence,
    "report_json": _report,
    **{f"wire_{name}": _wire(name) for name in seeds.ENDPOINTS},
}
