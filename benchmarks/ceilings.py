"""How often honest classifiers have a largest probability that is one number at many inputs: false alarms of ``ceiling``.

    python benchmarks/ceilings.py [--draws 300] [--inputs 16]

Around a small network on the digits, with its oddities (``hostile.py``); models that saturate or are clipped; and other
kinds of classifiers, fitted to half of the digits. Of 256 inputs, so many are drawn each time. Of two classes the check says
nothing.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))  # this folder last: its http.py must not hide the standard library's

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _subjects import Answer, Subject, softmax, trained_subject
from hostile import capped, logs, margins, oddities
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import AdaBoostClassifier, ExtraTreesClassifier, GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fimaudit.estimation.integrity import PILED, at_ceiling, ceiling_rounded, reaches_one, runner_up_movement
from fimaudit.number_format import output_resolution
from fimaudit.runs.integrity.ceiling import LEAST, SHARE

#: Random numbers of the draws.
SEED = 0


def odds(answer: Answer, batch: np.ndarray) -> np.ndarray:
    """Logits with mean 0."""
    z = logs(answer(batch))
    return z - z.mean(axis=1, keepdims=True)


def saturated(s: Subject) -> dict[str, Answer]:
    """Honest models whose confidence is bounded in one way or another."""
    a, o = s.answer, s.other
    return {
        "logits 4 tanh(z / 4)": lambda b: softmax(4 * np.tanh(logs(a(b)) / 4)),
        "logits 2 tanh(z / 2)": lambda b: softmax(2 * np.tanh(logs(a(b)) / 2)),
        "margins 4 tanh(m / 4)": margins(a, lambda m: 4 * np.tanh(m / 4)),
        "logits clipped to 3": lambda b: softmax(np.clip(odds(a, b), -3, 3)),
        "logits clipped to 0 ... 6": lambda b: softmax(np.clip(odds(a, b), 0, 6)),
        "p clipped to 0.01 ... 0.99": lambda b: np.clip(a(b), 0.01, 0.99),
        "p smoothed by 0.1": lambda b: 0.9 * a(b) + 0.1 / a(b).shape[1],
        "mean of two sharp": lambda b: (softmax(20 * logs(a(b))) + softmax(20 * logs(o(b)))) / 2,
        "mean of two sharp and a soft": lambda b: (softmax(20 * logs(a(b))) + softmax(20 * logs(o(b))) + a(b)) / 3,
        "0.95 sharp, 0.05 soft": lambda b: 0.95 * softmax(30 * logs(a(b))) + 0.05 * softmax(logs(o(b)) / 3),
        "0.9 sharp, 0.1 of another": lambda b: 0.9 * softmax(30 * logs(a(b))) + 0.1 * o(b),
    }


def fitted() -> Iterator[tuple[str, np.ndarray]]:
    """Answers of other kinds of classifiers to digits that they were not fitted to."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x / 16
    kinds: dict[str, Any] = {
        "logistic regression": LogisticRegression(max_iter=2000),
        "sharp logistic regression": LogisticRegression(C=1e4, max_iter=2000),
        "isotonic calibration": CalibratedClassifierCV(LogisticRegression(max_iter=2000), method="isotonic"),
        "sigmoid calibration": CalibratedClassifierCV(LogisticRegression(max_iter=2000), method="sigmoid"),
        "support vectors": SVC(probability=True, random_state=0),
        "Gaussian naive Bayes": GaussianNB(),
        "Bernoulli naive Bayes": BernoulliNB(binarize=0.5),
        "linear discriminant": LinearDiscriminantAnalysis(),
        "5 neighbours": KNeighborsClassifier(5),
        "5 neighbours by distance": KNeighborsClassifier(5, weights="distance"),
        "tree": DecisionTreeClassifier(max_depth=8, random_state=0),
        "extra trees": ExtraTreesClassifier(100, min_samples_leaf=3, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=20, random_state=0),
        "AdaBoost": AdaBoostClassifier(n_estimators=30, random_state=0),
        "MLP": MLPClassifier(64, max_iter=300, random_state=0),
        "MLP of logistic units": MLPClassifier(32, activation="logistic", max_iter=300, random_state=0),
    }
    for name, kind in kinds.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield name, kind.fit(x[:900], y[:900]).predict_proba(x[900 : 900 + 256])


def shows(p: np.ndarray) -> bool:
    """Whether ``ceiling`` would be contradicted by answers to these inputs."""
    tops = p.max(axis=1)
    most = float(tops.max())
    if p.shape[1] < 3 or reaches_one(most) or ceiling_rounded(most, output_resolution(p)):
        return False
    return at_ceiling(tops, most).sum() >= max(LEAST, SHARE * len(tops)) and runner_up_movement(p, most) >= PILED


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--draws", type=int, default=300)
    reader.add_argument("--inputs", type=int, default=16)
    options = reader.parse_args()
    torch.set_num_threads(1)
    rng, alarms, draws = np.random.default_rng(SEED), 0, 0

    def judged(name: str, kind: str, p: np.ndarray) -> int:
        found = sum(shows(p[rng.choice(len(p), options.inputs, replace=False)]) for _ in range(options.draws))
        print(f"{kind:14} {name:32} {found} of {options.draws}", flush=True)
        return found

    for name, p in fitted():
        alarms, draws = alarms + judged(name, "other kinds", p), draws + options.draws
    subject = trained_subject("digits", 256)
    made = {name: make() for name, make in oddities(subject).items()} | saturated(subject)
    for name, answer in made.items():
        alarms, draws = alarms + judged(name, "honest", answer(subject.x)), draws + options.draws
    for most in (0.7, 0.9, 0.95, 0.99):
        judged(f"capped at {most}", "hostile", capped(subject.answer, most)(subject.x))
    print(f"honest: {alarms} of {draws} draws")


if __name__ == "__main__":
    main()
