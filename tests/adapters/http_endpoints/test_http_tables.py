"""Tables with text, truth values, dates and gaps behind an endpoint: every cell is sent as it is, numbers are displaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fimaudit_adapters.http.fingerprint import fingerprint
from fimaudit_adapters.http.settings import Endpoint
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fimaudit import Report, audit, open_classifier
from fimaudit.errors import DataError, TargetError
from fimaudit.models.columns import TableColumn
from tests.command_line import run_command
from tests.servers.vendors import Asked, LoopbackServer, serving

RNG = np.random.default_rng(5)
NUMBERS, TEXTS = ["age", "lab"], ["sex", "smoker", "ward"]
TABLE = pd.DataFrame(
    {
        "sex": RNG.choice(["f", "m"], 200),
        "age": RNG.normal(50, 10, 200),
        "smoker": RNG.choice([True, False], 200),
        "lab": RNG.normal(1, 0.3, 200),
        "ward": RNG.choice(["north", None], 200),
    }
)
TABLE.loc[::3, "lab"] = np.nan
Y = (TABLE.age / 10 + (TABLE.sex == "m") + RNG.normal(0, 1, 200) > 5.5).astype(int)
WORDS = make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder(handle_unknown="ignore"))
MODEL = make_pipeline(
    ColumnTransformer([("n", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS), ("w", WORDS, ["sex", "ward"]),
                       ("t", "passthrough", ["smoker"])]),
    LogisticRegression(max_iter=1000),
).fit(TABLE, Y)  # fmt: skip
ASKED = TABLE[:5]


def framed(records: list[dict[str, Any]]) -> pd.DataFrame:
    """As a server makes a table of what it is sent; it refuses what has the wrong type."""
    assert all(isinstance(r["sex"], str) and isinstance(r["smoker"], bool) for r in records)
    assert all(r["ward"] is None or isinstance(r["ward"], str) for r in records)
    return pd.DataFrame(records, columns=[*TABLE.columns]).astype(TABLE.dtypes.to_dict())


def answer(records: list[dict[str, Any]]) -> list[list[float]]:
    return MODEL.predict_proba(framed(records)).tolist()


def by_records(asked: Asked) -> Any:
    return {"predictions": answer(asked.json["instances"])}


def by_split(asked: Asked) -> Any:
    split = asked.json["dataframe_split"]
    return {"predictions": answer([dict(zip(split["columns"], row, strict=True)) for row in split["data"]])}


@pytest.fixture(scope="module")
def server() -> Any:
    with serving({"records": by_records, "invocations": by_split}) as running:
        yield running


RECORDS = {"protocol": "json", "request": {"instances": "$records"}, "response": "predictions", "kind": "probs"}
OPTIONS: dict[str, Any] = {"scale": "std", "queries": 30, "profile": "off"}
WAYS = {
    "records": ("records", RECORDS),
    "records, columns in another order": ("records", {**RECORDS, "columns": ["ward", "age", "lab", "sex", "smoker"]}),
    "dataframe_split": ("invocations", {"protocol": "mlflow"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_behind_an_endpoint_it_is_the_estimator(way: str, server: LoopbackServer) -> None:
    path, endpoint = WAYS[way]
    remote = audit(f"{server.url}/{path}", ASKED, endpoint=endpoint, **OPTIONS)
    local = audit(MODEL, ASKED, **OPTIONS)
    assert [TABLE.columns[k] for k in remote.domain["frozen"]] == TEXTS
    for one, other in zip(remote.inputs, local.inputs, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-12)
        assert one.spectral_norm.value == pytest.approx(other.spectral_norm.value, rel=1e-4)


def test_the_command_line_takes_the_same_from_csv(server: LoopbackServer, tmp_path: Path) -> None:
    ASKED.to_csv(tmp_path / "asked.csv", index=False)
    settings = {"url": f"{server.url}/records", **RECORDS}
    (tmp_path / "endpoint.yaml").write_text(json.dumps(settings))
    words = ["--data", "asked.csv", "--scale", "std", "--queries", 30, "--profile", "off", "--yes", "--out", "run"]
    done = run_command("audit", "endpoint.yaml", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    local = audit(MODEL, ASKED, **OPTIONS)
    found = Report.read(tmp_path / "run").inputs
    assert [one.probability for one in found] == pytest.approx([one.probability for one in local.inputs], abs=1e-12)


def test_other_columns_than_the_file_says_are_refused_before_a_row_is_sent(server: LoopbackServer) -> None:
    with pytest.raises(DataError, match="without height"):
        audit(f"{server.url}/records", ASKED, endpoint={**RECORDS, "columns": [*TABLE.columns[:-1], "height"]}, **OPTIONS)


def test_text_is_not_sent_as_numbers() -> None:
    column = [TableColumn("sex", "text", ("f", "m"))]
    with pytest.raises(TargetError, match="sends numbers, but column 'sex'"):
        Endpoint(url="http://host/x", columns=("sex",), body="npy").with_table(column)
    options = {"protocol": "tensorflow_serving", "model_name": "m", "columns": ["sex"]}
    with pytest.raises(DataError, match="takes numbers, but column 'sex'"):
        audit("http://127.0.0.1:9/v1/models/m", pd.DataFrame({"sex": ["f", "m"]}), endpoint=options, **OPTIONS)


def test_the_ledger_is_tied_to_what_the_numbers_stand_for() -> None:
    endpoint = Endpoint(url="http://host/x", columns=("sex",))
    one, other = (endpoint.with_table([TableColumn("sex", "text", values)]) for values in (("f", "m"), ("m", "f")))
    assert fingerprint(one, "auto") != fingerprint(other, "auto")
    plain = endpoint.with_table([TableColumn("sex", "number")])
    assert fingerprint(plain, "auto") == fingerprint(endpoint, "auto")


def test_a_classifier_that_was_opened_says_that_it_takes_columns(server: LoopbackServer) -> None:
    table = [TableColumn("sex", "text", ("f", "m")), TableColumn("age", "number")]
    endpoint = {**RECORDS, "columns": ["sex", "age"]}
    with_text = open_classifier(f"{server.url}/records", endpoint=endpoint, table=table)
    assert with_text.info.takes_columns
    with_text.close()
