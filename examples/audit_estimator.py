"""Audit a scikit-learn pipeline in units of each feature's standard deviation: ``python examples/audit_estimator.py``."""

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fimaudit

x, y = load_breast_cancer(return_X_y=True)
pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:400], y[:400])

# The features' units differ (mm, mm^2, none): scale="std" makes one standard deviation the unit of each.
report = fimaudit.audit(pipeline, x[400:], y=y[400:], scale="std")
for name in ("spectral_norm", "peak_spectral_norm", "margin_radius"):
    print(f"{name}: median {getattr(report.summary, name).median}")
print(f"unit: {report.domain['unit']}")
for warning in report.warnings:
    print(f"warning: {warning}")
