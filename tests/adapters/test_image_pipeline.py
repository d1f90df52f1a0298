"""Hugging Face for real: an image pipeline from the grey levels it is given, its model, and datasets of images."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from fimaudit_adapters.image_pipeline import ADAPTER
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from fimaudit import audit, open_classifier
from fimaudit.errors import LinkError, TargetError
from fimaudit.models.classifier import Options

NAMES = {0: "cat", 1: "dog", 2: "eel"}
LEVELS = np.random.default_rng(0).integers(40, 216, (3, 16, 16, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(one) for one in LEVELS]
#: The processor maps levels 0 to 255 to -1 to 1.
MIDDLE = 127.5


@pytest.fixture(scope="module")
def pipe() -> Any:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        id2label=NAMES, label2id={name: k for k, name in NAMES.items()},
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    return pipeline("image-classification", model=model, image_processor=processor)


@pytest.fixture(scope="module")
def opened(pipe: Any) -> Any:
    return ADAPTER.open(pipe, Options())


def exact(pipe: Any) -> list[float]:
    """Spectral norms in grey levels, from the model's derivatives at what the processor makes of the images."""
    x = np.moveaxis((LEVELS.astype(np.float32) - MIDDLE) / np.float32(MIDDLE), -1, 1)
    report = audit(pipe.model, x, link="softmax", mode="white-box")
    return [one.spectral_norm.value / MIDDLE**2 for one in report.inputs]


def test_a_pipeline_is_measured_in_the_levels_that_it_is_given(pipe: Any, opened: Any) -> None:
    report = audit(opened, IMAGES, queries=300)
    assert report.domain["quantum"] == 1
    assert report.model["class_names"] == list(NAMES.values())
    best = [max(answer, key=lambda one: one["score"]) for answer in pipe(IMAGES)]
    for one, truth, said in zip(report.inputs, exact(pipe), best, strict=True):
        assert one.status == "ok"
        assert one.spectral_norm.lower <= truth <= one.spectral_norm.upper
        assert (NAMES[one.predicted_class], one.probability) == (said["label"], pytest.approx(said["score"], abs=1e-6))


def test_channels_first_last_or_none(opened: Any) -> None:
    last = opened.probabilities(LEVELS)
    assert np.allclose(opened.probabilities(np.moveaxis(LEVELS, -1, 1)), last)
    grey = LEVELS[..., 0]
    assert np.allclose(opened.probabilities(grey[:, None]), opened.probabilities(grey))


def test_a_dataset_brings_images_and_the_names_of_its_labels(opened: Any) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES.values()))})
    held = datasets.Dataset.from_dict({"image": IMAGES, "label": [1, 1, 2]}, features=features)
    report = audit(opened, held, queries=20, profile="off")
    assert [one.label for one in report.inputs] == [1, 1, 2]
    assert [one.probability for one in report.inputs] == pytest.approx(opened.probabilities(LEVELS).max(axis=1).tolist())


def test_a_pipeline_of_another_task_says_what_to_give_instead(pipe: Any) -> None:
    class TextPipeline(type(pipe)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.task = "text-classification"

    with pytest.raises(TargetError, match=r"got one for text-classification.*give pipeline\.model"):
        ADAPTER.open(TextPipeline(), Options())


def test_it_is_found_by_itself(pipe: Any) -> None:
    assert open_classifier(pipe).info.adapter == "image_pipeline"


def test_findings_that_do_not_exclude_each_other(pipe: Any) -> None:
    """The model says so itself, and its columns are logits of their own, whatever link was meant."""
    config = pipe.model.config.__class__(**{**pipe.model.config.to_dict(), "problem_type": "multi_label_classification"})
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    x = np.moveaxis((LEVELS.astype(np.float32) - MIDDLE) / np.float32(MIDDLE), -1, 1)
    with torch.no_grad():
        dog = torch.sigmoid(model(torch.tensor(x)).logits)[:, 1].numpy()
    for link in ("auto", "softmax", "sigmoid"):
        with pytest.raises(TargetError, match=r"do not exclude each other .*\(cat, dog, eel\).* finding=NAME"):
            audit(model, x, link=link, queries=12)
    report = audit(model, x, finding="dog", y=[0, 1, 1], queries=12)
    assert report.model["class_names"] == ["not dog", "dog"]
    assert [s.label for s in report.inputs] == [0, 1, 1]
    assert [s.probability for s in report.inputs] == pytest.approx(np.maximum(dog, 1 - dog).tolist(), abs=1e-5)
    several = pipeline("image-classification", model=model, image_processor=pipe.image_processor)
    with pytest.raises(LinkError, match="do not exclude each other"):
        audit(several, LEVELS, queries=12)
    piped = audit(several, LEVELS, finding="dog", queries=12)
    assert [s.probability for s in piped.inputs] == pytest.approx([s.probability for s in report.inputs], abs=1e-5)
