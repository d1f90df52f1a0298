"""BentoML, as in its documentation: the argument's name is the key of the request. ``MODEL`` names the model's file."""

from __future__ import annotations

import os

import bentoml
import joblib
import numpy as np


@bentoml.service
class Classifier:
    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL"])

    @bentoml.api
    def predict(self, input_series: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(input_series)
