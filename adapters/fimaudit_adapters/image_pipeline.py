"""The adapter for Hugging Face pipelines of image classification, measured from the image's own 8-bit values.

The pipeline's own preparation (resizing, scaling, normalising) is part of the model then: results are in grey levels of the
images as they are given, which is what a caller of the pipeline can change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, MissingExtraError, TargetError
from fimaudit.models.classes import finding_names, finding_position
from fimaudit.models.classifier import Classifier, ModelInfo, Options
from fimaudit.models.links import chosen_finding, to_probabilities
from fimaudit_adapters.options import refuse_unused

__all__ = ["ADAPTER", "ImagePipelineAdapter", "ImagePipelineClassifier"]

#: What the name of the pipeline's kind must be.
TASK = "image-classification"
#: Grey, colour, and colour with opacity.
CHANNELS = (1, 3, 4)


class ImagePipelineAdapter:
    """Takes pipelines of transformers; of other tasks than image classification it says what to give instead."""

    option_names = ("batch", "name")

    def accepts(self, target: object) -> bool:
        """Objects of ``transformers.pipelines``, without importing it."""
        return any(kind.__module__.startswith("transformers.pipelines") for kind in type(target).__mro__)

    def open(self, target: Any, options: Options) -> Classifier:
        """Wrap a pipeline; images are (B, height, width, channels) or (B, height, width) in uint8.

        Raises:
            TargetError: another task than image classification, or an option that makes no sense.
            MissingExtraError: Pillow is not there.
        """
        refuse_unused(options, "image_pipeline", used=("finding",), extra=self.option_names)
        task = str(getattr(target, "task", type(target).__name__))
        if task != TASK:
            raise TargetError(
                f"expected a pipeline for {TASK}, got one for {task}, whose inputs have no small displacements; give "
                "pipeline.model with numbers as inputs (embeddings, features)"
            )
        return ImagePipelineClassifier(target, options)


class ImagePipelineClassifier:
    """A pipeline for image classification as a ``Classifier``."""

    def __init__(self, pipeline: Any, options: Options) -> None:
        try:
            from PIL import Image
        except ImportError as exc:  # pragma: no cover - transformers' image pipelines need it too
            raise MissingExtraError("asking a pipeline for images", "Pillow", "http") from exc
        self._image, self._pipeline = Image, pipeline
        names = pipeline.model.config.id2label
        self._names = tuple(str(names[i]) for i in sorted(names))
        if len(set(self._names)) < len(self._names):
            raise TargetError("expected labels that differ in the model's id2label; give pipeline.model instead")
        self._finding = finding_position(options.finding, self._names)
        self._info = ModelInfo(
            finding=self._finding,
            name=str(options.extra.get("name") or getattr(pipeline.model.config, "name_or_path", "") or TASK),
            adapter="image_pipeline",
            input_shape=None,
            dtype="uint8",
            classes=len(self._names) if self._finding is None else 2,
            class_names=finding_names(self._finding, self._names) or self._names,
            preferred_batch=options.extra.get("batch"),
            details={
                "task": TASK,
                "model": type(pipeline.model).__name__,
                "domain": {"lower": 0.0, "upper": 255.0, "quantum": 1.0},
            },
        )

    @property
    def info(self) -> ModelInfo:
        """What the pipeline says of itself."""
        return self._info

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, height, width[, channels]) images with (B, K) probabilities in the order of ``id2label``.

        Raises:
            DataError: no image, or values that are not whole levels from 0 to 255.
        """
        rows = np.asarray(batch)
        if len(rows) == 0 or rows.ndim not in (3, 4):
            raise DataError(f"expected images of shape (B, height, width, channels), got an array of shape {rows.shape}")
        images = [self._image.fromarray(one) for one in _channels_last(rows.astype("uint8"))]
        answers = self._pipeline(images, top_k=len(self._names), batch_size=len(images))
        scores = [{one["label"]: one["score"] for one in answer} for answer in answers]
        table = np.array([[of.get(name, 0.0) for name in self._names] for of in scores], dtype=np.float32)
        return to_probabilities(chosen_finding(table, self._finding), "identity", rows=len(rows))

    def close(self) -> None:
        """Nothing to give back."""


def _channels_last(rows: NDArray[Any]) -> NDArray[Any]:
    """(B, height, width, channels) of images whose channels stand first or last; (B, height, width) of one channel."""
    if rows.ndim == 4 and rows.shape[1] in CHANNELS and rows.shape[-1] not in CHANNELS:
        rows = np.moveaxis(rows, 1, -1)
    return np.squeeze(rows, -1) if rows.shape[-1] == 1 else np.ascontiguousarray(rows)


ADAPTER = ImagePipelineAdapter()
