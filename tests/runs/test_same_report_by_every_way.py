"""The same thing brought in another way gives the same report: tables by every reader, an estimator by every runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fimaudit import audit
from fimaudit.audit_report import Report

RNG = np.random.default_rng(0)
NAMES = ["age", "creatinine", "pressure"]
NUMBERS = pd.DataFrame(RNG.normal([50, 1, 120], [10, 0.3, 15], (120, 3)), columns=NAMES)
STAGES = np.array(["early", "late", "none"])[
    (NUMBERS @ [0.1, 1.0, 0.02] + RNG.normal(0, 0.5, 120)).rank(pct=True).mul(3).astype(int).clip(0, 2)
]
MODEL = make_pipeline(StandardScaler(), LogisticRegression()).fit(NUMBERS, STAGES)
MIXED = NUMBERS.assign(sex=RNG.choice(["f", "m"], 120))
PIPELINE = make_pipeline(
    ColumnTransformer([("n", StandardScaler(), NAMES), ("w", OneHotEncoder(sparse_output=False), ["sex"])]),
    LogisticRegression(),
).fit(MIXED, STAGES)
ASKED = 8
#: An answer in float32 instead of float64 moves a norm by less (measured: 1.4e-4 at most).
NOISE = 2e-3


def asked(model: Any, x: Any, **options: Any) -> Report:
    return audit(model, x, queries=60, scale="std", integrity=False, **options)


def same(one: Report, other: Report, *, noise: float = 0.0) -> None:
    assert one.model["class_names"] == other.model["class_names"]
    assert one.domain["unit"] == other.domain["unit"]
    assert [s.label for s in one.inputs] == [s.label for s in other.inputs]
    assert [s.predicted_class for s in one.inputs] == [s.predicted_class for s in other.inputs]
    if not noise:
        assert [s.model_dump() for s in one.inputs] == [s.model_dump() for s in other.inputs]
        return
    for a, b in zip(one.inputs, other.inputs, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
        assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=noise)
        assert a.spectral_norm.lower <= b.spectral_norm.upper
        assert b.spectral_norm.lower <= a.spectral_norm.upper
        assert a.margin_radius.value == pytest.approx(b.margin_radius.value, rel=noise)


def test_tables_by_every_reader(tmp_path: Path) -> None:
    datasets, polars = pytest.importorskip("datasets"), pytest.importorskip("polars")
    table, labels = MIXED[:ASKED], STAGES[:ASKED]
    table.assign(stage=labels).to_csv(tmp_path / "t.csv", index=False)
    table.assign(stage=labels).to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    table.assign(stage=labels).to_parquet(tmp_path / "t.parquet")
    table.assign(stage=labels)[:5].to_parquet(tmp_path / "part-0.parquet")
    table.assign(stage=labels)[5:].to_parquet(tmp_path / "part-1.parquet")
    named = table.assign(stage=labels)
    ways: dict[str, Any] = {
        "csv": tmp_path / "t.csv",
        "tsv": tmp_path / "t.tsv",
        "parquet": tmp_path / "t.parquet",
        "parts": str(tmp_path / "part-*.parquet"),
        "polars": polars.from_pandas(named),
        "data set": datasets.Dataset.from_pandas(named, preserve_index=False),
        "records": named.astype({"sex": "U1", "stage": "U5"}).to_records(index=False),
    }
    first = asked(PIPELINE, named, y="stage")
    assert [first.data["feature_names"][k] for k in first.domain["frozen"]] == ["sex"]
    for x in ways.values():
        same(first, asked(PIPELINE, x, y="stage"))
    same(first, asked(PIPELINE, table, y=labels))


def test_numbers_with_their_names_or_without() -> None:
    table, labels = NUMBERS[:ASKED], STAGES[:ASKED]
    first = asked(MODEL, table, y=labels)
    named = np.array([tuple(row) for row in table.to_numpy()], dtype=[(name, "f8") for name in NAMES])
    same(first, asked(MODEL, named, y=labels))
    # A plain array lies in memory in another order, which the last digits of a product depend on.
    same(first, asked(MODEL, table.to_numpy(), y=labels), noise=1e-9)


def test_an_estimator_and_its_exports() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    labels = STAGES[:ASKED]
    one_tensor = skl2onnx.to_onnx(MODEL, NUMBERS[:1].to_numpy(np.float32), options={"zipmap": False})
    same(asked(MODEL, NUMBERS[:ASKED], y=labels), asked(one_tensor, NUMBERS[:ASKED], y=labels), noise=NOISE)
    kinds = [*((name, FloatTensorType([None, 1])) for name in NAMES), ("sex", StringTensorType([None, 1]))]
    for zipmap in (False, True):
        by_column = skl2onnx.to_onnx(PIPELINE, initial_types=kinds, options={"zipmap": zipmap})
        first = asked(PIPELINE, MIXED[:ASKED], y=labels)
        same(first, asked(by_column, MIXED[["sex", *NAMES]][:ASKED][MIXED.columns], y=labels), noise=NOISE)


@contextmanager
def scoring(model: Any, folder: Path) -> Iterator[str]:
    """MLflow's own scoring server for an estimator, answering with ``predict_proba``."""
    mlflow = pytest.importorskip("mlflow.sklearn")
    uvicorn = pytest.importorskip("uvicorn")
    pyfunc = pytest.importorskip("mlflow.pyfunc")
    server_code = pytest.importorskip("mlflow.pyfunc.scoring_server")
    mlflow.save_model(model, folder / "model", pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"])
    app = server_code.init(pyfunc.load_model(str(folder / "model")))
    started = threading.Event()

    class Server(uvicorn.Server):  # type: ignore[misc, name-defined, unused-ignore]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about signatures and versions
def test_an_estimator_behind_mlflow(tmp_path: Path) -> None:
    labels, table = STAGES[:ASKED], MIXED[:ASKED]
    first = asked(PIPELINE, table, y=labels)
    with scoring(PIPELINE, tmp_path) as url:
        report = asked(url, table, y=labels, protocol="mlflow", classes=list(PIPELINE.classes_), trust_env=False)
    assert report.model["adapter"] == "http"
    same(first, report, noise=1e-9)
