"""A scripted release gate for a medical model: audit an ONNX file with subgroups, decide a policy, keep evidence.

    python examples/onnx_medical_gate.py [OUT]

Trains a classifier of scikit-learn's breast cancer data, exports it to ONNX, and from then on knows the file alone.
Subgroups are small and large tumours (mean radius below or above the median).
Exits with 0 when the policy passes, with 1 otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fimaudit
from fimaudit.cli.gate import apply_policy, show_verdict
from fimaudit.data.arrays import Inputs
from fimaudit.evidence.bundle import write_bundle

POLICY = """\
name: breast cancer release gate
rules:
  - {name: typical distance, rule: quantile, metric: margin_radius, statistic: median, at_least: 0.3}
  - {name: each tumour size, rule: quantile, metric: margin_radius, statistic: median, at_least: 0.2, group: "*"}
  - {name: fragile patients, rule: share_below_radius, radius: 0.02, at_most: 0.15}
  - {name: peak, rule: quantile, metric: peak_spectral_norm, statistic: median, at_most: 20}
  - {name: all measured, rule: not_ok, at_most: 0.05}
  - {name: right answers, rule: accuracy, at_least: 0.9}
"""


def main(out: Path) -> int:
    """Train, export, audit, gate, bundle."""
    out.mkdir(parents=True, exist_ok=True)
    data = load_breast_cancer()
    x = data.data.astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02)).fit(x[:400], data.target[:400])
    exported = to_onnx(model, x[:1], options={"zipmap": False})
    (out / "model.onnx").write_bytes(exported.SerializeToString())

    test = x[400:]
    size = np.where(test[:, 0] < np.median(x[:, 0]), "small tumour", "large tumour")
    inputs = Inputs(test, data.target[400:], size, tuple(data.feature_names), "breast cancer, last 169 patients")
    report = fimaudit.audit(
        out / "model.onnx", inputs, out=out / "run", output="probabilities", scale="std", queries=120, overwrite=True
    )
    print(f"{report.summary.queries} queries, median margin radius {report.summary.margin_radius.median}")

    (out / "policy.yaml").write_text(POLICY)
    verdict = apply_policy(out / "run", out / "policy.yaml", junit=out / "junit.xml", markdown=out / "summary.md")
    show_verdict(Console(highlight=False), verdict)
    print(f"page: {out / 'run' / 'report.html'}")
    print(f"evidence: {write_bundle(out / 'run', out / 'evidence.zip')}")
    return 0 if verdict.outcome == "pass" else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/medical")))
