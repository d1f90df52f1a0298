"""Audit a torch module from its probabilities: ``python examples/audit_torch.py``."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import fimaudit

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
for _ in range(100):
    optimiser.zero_grad()
    nn.functional.cross_entropy(network(x[:1500]), y[:1500]).backward()
    optimiser.step()
network.eval()

# One input. The module returns logits, so the link is softmax; pixels lie in [0, 1].
one = fimaudit.sensitivity(network, x[1501].numpy(), link="softmax", mode="black-box", lower=0, upper=1)
print(f"input 1501: class {one.predicted_class}, spectral norm {one.spectral_norm}, margin radius {one.margin_radius}")

# Many inputs.
report = fimaudit.audit(
    network, x[1500:1520].numpy(), y=labels[1500:1520], link="softmax", mode="black-box", lower=0, upper=1
)
print(f"median margin radius of {len(report.inputs)} inputs: {report.summary.margin_radius.median}")
