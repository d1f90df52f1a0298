"""Audit an ONNX file: ``python examples/audit_onnx.py model.onnx x.npz runs/onnx`` (after ``make demo``:
``python examples/audit_onnx.py runs/demo/digits.onnx runs/demo/digits.npz runs/digits``)."""

import sys

import fimaudit

model, data, out = sys.argv[1:4]

# The demo's files return logits; leave the link out for a model that returns probabilities.
report = fimaudit.audit(model, data, link="softmax", out=out)

median = report.summary.spectral_norm.median
print(f"spectral norm, median over {len(report.inputs)} inputs: {median.value:.3g} [{median.lower:.3g}, {median.upper:.3g}]")
closest = min((s for s in report.inputs if s.margin_radius.value is not None), key=lambda s: s.margin_radius.value)
print(f"closest to another decision: input {closest.index}, estimated distance {closest.margin_radius}")
print(f"queries: {report.summary.queries}; run folder: {out}")
