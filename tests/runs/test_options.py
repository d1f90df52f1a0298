"""What ``audit`` takes: known words in, unknown ones refused with the nearest before anything is opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from fimaudit import audit, compare, sensitivity
from fimaudit.domain import InputDomain
from fimaudit.engines.selection import RayEngine
from fimaudit.errors import UsageError
from fimaudit.models.opening import adapter_option_names, adapters
from fimaudit.runs.auditing import audit as run_audit
from fimaudit.runs.keywords import AuditArgs, AuditKeywords, EndpointArgs, ModelArgs
from fimaudit.runs.options import DOMAIN_OPTIONS, MODEL_OPTIONS, AuditOptions

X = np.linspace(-1, 1, 12).reshape(4, 3)


def model(batch: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-batch[:, :1] - 0.5 * batch[:, 1:2]))
    return np.hstack([p, 1 - p])


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("querys", "queries"), ("wieghts", "weights"), ("timeot", "timeout"), ("input_shap", "input_shape")],
)
def test_an_unknown_word_is_refused_with_the_nearest_before_anything_is_opened(
    word: str, nearest: str, tmp_path: Path
) -> None:
    sentence = f"unknown option '{word}'; did you mean '{nearest}'\\?"
    options: dict[str, Any] = {word: 400}
    with pytest.raises(UsageError, match=sentence):
        audit("nowhere.onnx", "nowhere.npz", out=tmp_path / "run", **options)
    with pytest.raises(UsageError, match=sentence):
        sensitivity("nowhere.onnx", X[0], **options)
    with pytest.raises(UsageError, match=sentence):
        compare("nowhere.onnx", "nowhere.onnx", data=X, second_options=options)
    assert not (tmp_path / "run").exists()


def test_a_word_near_to_none() -> None:
    with pytest.raises(UsageError, match=r"unknown option 'zzz'; help\(fimaudit.AuditOptions\) lists the known ones"):
        audit(model, X, zzz=1)  # type: ignore[call-arg]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "mode": ({"mode": "grey-box"}, "expected mode auto, black-box or white-box, got 'grey-box'"),
    "link": ({"link": "logit"}, "expected link among auto, identity, softmax, sigmoid, labels, got 'logit'"),
    "profile": ({"profile": "dear"}, "expected profile off, cheap or full, got 'dear'"),
    "existing": ({"existing": "keep"}, "expected existing refuse, resume or overwrite, got 'keep'"),
    "engine": ({"engine": "spark"}, "expected engine local or ray, got 'spark'"),
    "queries": ({"queries": "many"}, "expected queries as a valid integer or 'auto', got 'many'"),
    "two queries": ({"queries": 1}, "at least 2 queries an input"),
    "confidence": ({"confidence": 1}, "expected a confidence from 0.5 to below 1, got 1"),
    "budget": ({"budget": 0}, "expected a budget of at least one row, got 0"),
    "batch": ({"batch": 0}, "expected a batch of at least one row, got 0"),
    "precision": ({"precision": 0}, "expected a finite precision above 0, got 0"),
    "threshold": ({"threshold": float("inf")}, "expected a finite threshold above 0, got inf"),
    "failures": ({"max_failures": -1}, "expected a number of failures to allow of 0 or more, got -1"),
    "focus": ({"focus": "top"}, "expected focus='top:K'"),
    "endless": ({"queries": "auto"}, "precision"),
    "both": ({"resume": True, "overwrite": True}, "expected one of resume=True and overwrite=True, got both"),
    "both by word": ({"existing": "overwrite", "resume": True}, "expected one of resume=True and overwrite=True, got both"),
    "domain": ({"domain": InputDomain(0, 1), "lower": 0}, "expected lower within domain=InputDomain"),
    "workers": ({"workers": 2}, "workers= belongs to engine='ray'"),
    "workers twice": ({"engine": RayEngine(workers=2), "workers": 2}, "expected workers within RayEngine"),
    "no workers": ({"engine": RayEngine(workers=0)}, "expected workers= of at least 1, got 0"),
    "no patience": ({"engine": RayEngine(grace=-1.0)}, r"expected RayEngine\(grace=...\) of 0 seconds or more, got -1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_makes_no_sense_is_refused_before_anything_is_opened(case: str) -> None:
    options, sentence = WRONG[case]
    with pytest.raises(UsageError, match=sentence):
        audit("nowhere.onnx", "nowhere.npz", **options)


def test_options_are_checked_once_and_given_on() -> None:
    options = AuditOptions(queries=20, budget=np.int64(300), name="mine", domain=InputDomain(-1, 1))
    report = audit(model, X, **options.given())
    assert report.settings["queries"] == 20
    assert report.settings["budget"] == 300
    assert report.model["name"] == "mine"
    assert report.domain["lower"] == -1
    with pytest.raises(ValueError, match="frozen"):
        options.queries = 30  # type: ignore[misc]


def test_words_for_the_existing_run(tmp_path: Path) -> None:
    first = audit(model, X, queries=20, out=tmp_path / "run")
    with pytest.raises(UsageError, match="already holds a run"):
        audit(model, X, queries=20, out=tmp_path / "run")
    for options in ({"existing": "resume"}, {"resume": True}, {"existing": "overwrite"}, {"overwrite": True}):
        assert audit(model, X, queries=20, out=tmp_path / "run", **options).inputs == first.inputs  # type: ignore[arg-type]


def test_the_typed_words_are_the_checked_ones() -> None:
    fields = set(AuditOptions.model_fields)
    named = set(get_type_hints(run_audit)) - {"model", "x", "return", "options"}
    assert set(AuditKeywords.__annotations__) == named | set(AuditArgs.__annotations__)
    assert fields == set(AuditKeywords.__annotations__) - {"y", "group", "out", "progress"} - _of_adapters()
    assert set(MODEL_OPTIONS) | set(DOMAIN_OPTIONS) <= fields


def test_the_typed_words_are_those_that_adapters_declare() -> None:
    typed = {*ModelArgs.__annotations__, *EndpointArgs.__annotations__, "batch"}
    assert adapter_option_names() == {*typed, "classes"} - (set(MODEL_OPTIONS) - {"input", "output"})
    assert set(adapters()) >= {"function", "http", "onnx_runtime", "pytorch", "scikit_learn"}


def _of_adapters() -> set[str]:
    return {*ModelArgs.__annotations__, *EndpointArgs.__annotations__} - set(MODEL_OPTIONS)


def test_words_of_an_adapter_that_declares_none_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = type("Silent", (), {"accepts": lambda *_: False})()
    seam = importlib.import_module("fimaudit.models.opening")
    monkeypatch.setattr(seam, "adapters", lambda: {"silent": silent, "function": adapters()["function"]})
    with pytest.raises(UsageError, match="does not know the option 'tint'"):
        audit(model, X, tint=1)  # type: ignore[call-arg]
