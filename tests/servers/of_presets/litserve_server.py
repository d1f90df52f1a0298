"""LitServe, as in its quick start, one row a request: ``python litserve_server.py PORT``; ``MODEL`` is its file."""

from __future__ import annotations

import os
import sys

import joblib
import litserve


class Classifier(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(os.environ["MODEL"])

    def decode_request(self, request):
        return request["input"]

    def predict(self, row):
        return self.model.predict_proba([row])[0]

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu")
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
