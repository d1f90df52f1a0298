"""Attacks that check the others: at one eps PGD and AutoAttack; HopSkipJump, which sees decisions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._study_data import Split
from benchmarks._study_training import Recipe, pgd_examples
from fimaudit.models.classifier import Classifier
from fimaudit.models.counted_passes import CountedModel
from fimaudit.models.meter import Meter
from fimaudit.results import Sensitivity
from fimaudit.space import Space
from fimaudit.validation.art_estimator import quiet
from fimaudit.validation.attacks import seen_as_image
from fimaudit.validation.smallest_perturbation import smallest_perturbation

# isort: split
from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, DeepFool, SquareAttack
from art.estimators.classification import PyTorchClassifier

__all__ = ["autoattack", "hop_skip_jump", "within_eps"]

#: Steps and random starts of each part of AutoAttack: 100 and 5, 100, and 5,000 in its own standard, a tenth of which the
#: time of two cores allows; the attacks before it are the stronger part of the truth.
GRADIENT_STEPS, STARTS, DEEPFOOL_STEPS, SQUARE_STEPS = 40, 1, 50, 300
#: Steps of PGD at one eps.
WITHIN_STEPS = 40


def autoattack(network: nn.Module, split: Split, x: np.ndarray, eps: float, seed: int) -> dict[str, Any]:
    """Which of (n, *shape) inputs AutoAttack decides otherwise within an l2 ball of ``eps``.

    Source: Croce and Hein 2020, arXiv 2003.01690, by adversarial-robustness-toolbox: APGD by cross-entropy, APGD by the
    difference of logits (three classes or more: it needs a third), DeepFool, Square (images). The labels are the network's
    own decisions.
    """
    if split.lower is None or split.upper is None:
        clip = None
    else:
        clip = (np.float32(np.min(split.lower)), np.float32(np.max(split.upper)))
    model = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), x.shape[1:], split.classes, clip_values=clip, device_type="cpu"
    )
    common = {"norm": 2, "eps": eps, "batch_size": len(x), "verbose": False}
    losses = ["cross_entropy", *(["difference_logits_ratio"] if split.classes > 2 else [])]
    parts: list[Any] = [
        AutoProjectedGradientDescent(
            model, eps_step=eps / 4, max_iter=GRADIENT_STEPS, nb_random_init=STARTS, loss_type=loss, **common
        )
        for loss in losses
    ]
    parts.append(DeepFool(model, max_iter=DEEPFOOL_STEPS, epsilon=1e-3, nb_grads=10, batch_size=len(x), verbose=False))
    if seen_as_image(x.shape[1:]):
        parts.append(SquareAttack(model, norm=2, eps=eps, max_iter=SQUARE_STEPS, p_init=0.8, nb_restarts=1, verbose=False))
    with quiet(seed):
        decided = model.predict(x).argmax(axis=1)
        found = AutoAttack(model, norm=2, eps=eps, eps_step=eps / 4, attacks=parts, batch_size=len(x)).generate(x)
        changed = model.predict(found).argmax(axis=1) != decided
    near = np.linalg.norm((found - x).reshape(len(x), -1), axis=1) <= eps * (1 + 1e-4)
    return {"eps": eps, "flipped": (changed & near).tolist(), "losses": losses}


def within_eps(network: nn.Module, split: Split, x: np.ndarray, eps: float) -> dict[str, list[bool]]:
    """Which of (n, *shape) inputs PGD, as in training but of many steps, decides otherwise within eps.

    Carlini-Wagner minimises a length and has no ball: it stands among the smallest perturbations instead.
    """
    with torch.no_grad():
        decided = network(torch.tensor(x)).argmax(dim=1)
    moved = pgd_examples(network, torch.tensor(x), decided, split, Recipe(1, eps, WITHIN_STEPS, 0.0))
    with torch.no_grad():
        changed = (network(moved).argmax(dim=1) != decided).numpy()
    near = np.linalg.norm((moved.numpy() - x).reshape(len(x), -1), axis=1) <= eps * (1 + 1e-4)
    return {"pgd": (changed & near).tolist()}


def hop_skip_jump(
    classifier: Classifier, space: Space, x: np.ndarray, inputs: Sequence[Sensitivity], count: int, rows: int, seed: int
) -> list[float | None]:
    """What HopSkipJump finds for the first inputs, from decisions alone, with so many rows each."""
    passes = CountedModel(Meter(classifier))
    others = (x, np.array([s.predicted_class for s in inputs]))
    found = []
    for s in inputs[:count]:
        unit = s.margin_radius.value or 1.0
        at = {"seed": 1000 * seed + s.index, "others": others, "most": rows}
        found.append(smallest_perturbation(passes, x[s.index], space, unit, ["hopskipjump"], **at).distance)  # type: ignore[arg-type]
    return found
