"""A Gradio interface with a Label: ``python gradio_app.py PORT``; ``MODEL`` names the model's file."""

from __future__ import annotations

import json
import os
import sys

import gradio
import joblib

model = joblib.load(os.environ["MODEL"])


def predict(row):
    values = json.loads(row) if isinstance(row, str) else row
    return {str(k): float(p) for k, p in enumerate(model.predict_proba([values])[0])}


label = gradio.Label(num_top_classes=len(model.classes_))
gradio.Interface(predict, gradio.JSON(), label).launch(server_name="127.0.0.1", server_port=int(sys.argv[1]))
