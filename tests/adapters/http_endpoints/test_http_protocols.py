"""The same model behind each protocol gives the same probabilities as in process."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit.errors import LinkError, OutputError, TargetError
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows


def apart(a, b):
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(
    ("path", "options", "tolerance", "protocol"),
    [
        ("/v2/models/cancer/infer", {"binary": False, "dtype": "float64"}, 1e-12, "open_inference"),
        ("/v2/models/cancer/infer", {"binary": True}, 1e-6, "open_inference"),
        ("/v2/models/cancer", {}, 1e-6, "open_inference"),
        ("/", {"protocol": "open_inference", "model_name": "cancer"}, 1e-6, "open_inference"),
        ("/v1/models/cancer:predict", {}, 1e-12, "tensorflow_serving"),
        ("", {"protocol": "tensorflow_serving", "model_name": "cancer"}, 1e-12, "tensorflow_serving"),
    ],
)
def test_kserve(kserve, cancer, connect, path, options, tolerance, protocol):
    model = connect(kserve.url + path, **options)
    rows = cancer.rows[:250]
    got = model.probabilities(rows)
    assert apart(got, cancer.truth(rows)) < tolerance
    assert model.info.details["protocol"] == protocol
    assert model.info.classes == 2
    assert model.info.preferred_batch == 100


def test_kserve_negotiates_binary(kserve, cancer, connect):
    model = connect(kserve.url + "/v2/models/cancer/infer")
    model.probabilities(cancer.rows[:3])
    assert model.info.details["binary"] is True
    assert model.info.dtype == "float32"


def test_kserve_root_url_names_the_models(kserve, connect):
    with pytest.raises(TargetError, match=r"cancer.*digits|digits.*cancer"):
        connect(kserve.url)


def test_kserve_wrong_width_is_said(kserve, connect):
    model = connect(kserve.url + "/v1/models/cancer:predict")
    with pytest.raises(Exception, match="HTTP 500"):
        model.probabilities(np.zeros((3, 7)))


def test_triton_metadata_and_batch_cap(triton, digits, connect):
    model = connect(triton.url + "/v2/models/digits/infer")
    assert model.info.input_shape == (64,)
    assert model.info.classes == 10
    assert model.endpoint.input == "rows"
    assert model.endpoint.output == "probabilities"
    meter = Meter(model)
    (got,) = meter.ask([PlainRows(digits.rows[:200].astype(np.float32))])
    assert apart(got, digits.truth(digits.rows[:200])) < 1e-5
    assert model.info.preferred_batch == 64
    assert (meter.usage.rows, meter.usage.refused) == (1 + 200, 100)


def test_triton_classification_is_top_k(triton, digits, connect):
    model = connect(triton.url + "/v2/models/digits/infer", top_k=3)
    rows, truth = digits.rows[:90], digits.truth(digits.rows[:90])
    got = model.probabilities(rows)
    details = model.info.details
    assert details["top_k"] == 3
    assert details["labels"][-1] == "(rest)"
    assert details["resolution"] == 1e-6
    assert np.allclose(got.sum(axis=1), 1)
    column = {int(label): k for k, label in enumerate(details["labels"]) if label.isdigit()}
    for i, row in enumerate(truth):
        for k in np.argsort(-row)[:3]:
            assert got[i, column[int(k)]] == pytest.approx(row[k], abs=2e-6)
    assert any("lower bound" in note for note in model.info.notes)


@pytest.mark.parametrize("rows_as", ["inputs", "instances", "dataframe_split", "dataframe_records"])
def test_mlflow(mlflow, cancer, connect, rows_as):
    columns = [f"f{i}" for i in range(30)] if rows_as.startswith("dataframe") else None
    model = connect(mlflow.url, rows_as=rows_as, columns=columns)
    assert model.info.details["protocol"] == "mlflow"
    rows = cancer.rows[:30]
    assert apart(model.probabilities(rows), cancer.truth(rows)) < 1e-12


def test_mlflow_labels_are_refused_with_the_remedy(mlflow_labels, cancer, connect):
    model = connect(mlflow_labels.url + "/invocations")
    with pytest.raises(OutputError, match="predict_proba"):
        model.probabilities(cancer.rows[:4])


def test_label_scores_align_by_label(plain, digits, connect):
    model = connect(plain.url + "/classify", protocol="label_scores")
    rows = digits.rows[:150]
    assert apart(model.probabilities(rows), digits.truth(rows)) < 1e-12
    assert model.info.details["labels"] == [f"LABEL_{k}" for k in range(10)]
    assert model.info.details["top_k"] is None


def test_label_scores_top_k_has_a_rest(plain, digits, connect):
    model = connect(plain.url + "/classify", protocol="label_scores", top_k=5, labels=[f"LABEL_{k}" for k in range(10)])
    rows, truth = digits.rows[:50], digits.truth(digits.rows[:50])
    got = model.probabilities(rows)
    assert got.shape == (50, 11)
    top = np.sort(truth, axis=1)[:, ::-1][:, :5].sum(axis=1)
    assert np.allclose(got[:, -1], 1 - top, atol=1e-9)


def test_images_as_png_body_and_raw_bytes(plain, digits, connect):
    levels = np.rint(digits.rows[:6] / 16 * 255).astype(np.uint8).reshape(-1, 8, 8)
    truth = digits.truth(levels / 255 * 16)
    png = connect(plain.url + "/image", protocol="label_scores", image="png")
    assert apart(png.probabilities(levels), truth) < 1e-12
    assert png.info.dtype == "uint8"
    assert png.info.details["domain"] == {"lower": 0.0, "upper": 255.0, "quantum": 1.0}
    raw = connect(plain.url + "/raw", protocol="json", image="raw", response="[p]", kind="probs")
    assert apart(raw.probabilities(levels), truth) < 1e-12


def test_images_in_base64_with_log_probabilities(plain, digits, connect):
    levels = np.rint(digits.rows[:20] / 16 * 255).reshape(-1, 8, 8)
    model = connect(
        plain.url + "/images64", request={"pictures": "$rows"}, response="result.rows[*].logp", kind="logprobs",
        image="png-base64", pixel_max=1,
    )  # fmt: skip
    assert apart(model.probabilities(levels / 255), digits.truth(levels / 255 * 16)) < 1e-9


def test_table_records_with_logits(plain, cancer, connect):
    model = connect(
        plain.url + "/table", request={"data": {"records": "$records"}}, response="map(&scores, out)", kind="logits",
        columns=",".join(f"f{i}" for i in range(30)),
    )  # fmt: skip
    assert apart(model.probabilities(cancer.rows[:120]), cancer.truth(cancer.rows[:120])) < 1e-12


def test_one_column_is_the_probability_of_class_1(plain, cancer, connect, tmp_path):
    path = tmp_path / "endpoint.yaml"
    names = [f"f{i}" for i in range(30)]
    path.write_text(
        f"url: {plain.url}/columns\nprotocol: json\nkind: probs\nrequest: $columns\nresponse: p1\ncolumns: {names}\n"
    )
    model = connect(str(path))
    assert apart(model.probabilities(cancer.rows[:9]), cancer.truth(cancer.rows[:9])) < 1e-12


def test_one_row_a_request_and_rounding(plain, digits, connect):
    model = connect(plain.url + "/one", request={"x": "$row"}, response="p", kind="probs")
    got = model.probabilities(digits.rows[:12])
    assert apart(got, digits.truth(digits.rows[:12])) <= 0.0005 + 1e-12
    assert model.info.preferred_batch == 1
    assert model.info.details["resolution"] == pytest.approx(1e-3)


def test_noise_is_seen_by_asking_again(plain, digits, connect):
    model = connect(plain.url + "/noisy", request={"x": "$rows"}, response="p", kind="probs")
    meter, question = Meter(model), [PlainRows(digits.rows[:40])]
    assert 1e-5 < apart(meter.ask(question)[0], meter.ask(question, occasion="again")[0]) < 0.1


def test_labels_in_place_of_probabilities_are_refused(plain, digits, connect):
    model = connect(plain.url + "/labels", request={"x": "$rows"}, response="p", kind="probs")
    with pytest.raises(OutputError, match="class labels"):
        model.probabilities(digits.rows[:4])


def test_null_rows_are_refused(plain, digits, connect):
    options = {"request": {"x": "$rows"}, "kind": "probs"}
    model = connect(plain.url + "/some-null", response="map(&scores, predictions)", **options)
    with pytest.raises(OutputError, match="null rows"):
        model.probabilities(digits.rows[:4])
    dropping = connect(plain.url + "/some-null", response="predictions[*].scores", **options)
    with pytest.raises(OutputError, match=r"1 rows|1 inputs"):
        dropping.probabilities(digits.rows[:4])


def test_logits_are_never_taken_for_probabilities(plain, cancer, connect):
    options = {"request": {"data": {"records": "$records"}}, "response": "map(&scores, out)"}
    model = connect(plain.url + "/table", kind="probs", columns=[f"f{i}" for i in range(30)], **options)
    with pytest.raises(LinkError, match=r"logits|sum to 1"):
        model.probabilities(cancer.rows[:20])
