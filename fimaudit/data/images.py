"""Encoded images (PNG, JPEG, WebP) to the arrays that a model takes. No resizing: that is part of a model's input."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, MissingExtraError
from fimaudit.foreign_errors import translated

__all__ = ["IMAGE_SUFFIXES", "as_model_takes", "decode_image", "levels", "require_decoder"]

#: Pixels of one image: a file of some kilobytes can unpack to any number.
MOST_PIXELS = 2**26
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

#: The note of an EXIF block that says how a viewer turns the picture, and what it says where it does not.
EXIF_ORIENTATION, UPRIGHT = 0x0112, 1
#: Alpha of a pixel that hides what is behind.
OPAQUE = 255


def require_decoder() -> None:
    """Say before the start, not at each image, that Pillow is missing."""
    try:
        import PIL  # noqa: F401
    except ImportError as exc:
        raise MissingExtraError("reading images", "Pillow", "ray") from exc


def decode_image(data: bytes, shape: Sequence[int | None] | None, dtype: str) -> NDArray[Any]:
    """One image as the model takes it.

    Args:
        data: the encoded file.
        shape: the model's shape of one input: (H, W), (C, H, W) or (H, W, C) with C of 1 or 3; ``None``: (3, H, W).
        dtype: ``uint8`` keeps the levels 0 to 255; any other type gets levels / 255 in float32.

    Raises:
        DataError: no image, or a model whose inputs are none.
    """
    from PIL import Image

    channels = _layout(shape)[1]
    with (
        translated(DataError, "the image cannot be decoded"),
        warnings.catch_warnings(),
        Image.open(io.BytesIO(data)) as image,
    ):
        warnings.simplefilter("ignore")  # Pillow's own word on large images, which are refused here
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, of at most {MOST_PIXELS:,}")
        pixels = levels(image, grey=channels == 1)
    return as_model_takes(pixels, shape, dtype)


def levels(image: Any, *, grey: bool | None = None) -> NDArray[np.uint8]:
    """A Pillow image as (H, W) or (H, W, 3) levels of 0 to 255; ``grey`` as the image is when left out.

    Raises:
        DataError: a conversion would decide something: more than 8 bits, a turn that only viewers make, transparency,
            several frames.
    """
    if image.mode.partition(";")[0] in ("I", "F"):
        raise DataError(
            f"the image holds values of more than 8 bits (mode {image.mode}), of which it is open what the model takes; "
            "give the arrays that the model takes (.npz), or images of 8 bits"
        )
    _require_one_picture(image)
    grey = image.mode in ("L", "1", "LA") if grey is None else grey
    return np.asarray(image.convert("L" if grey else "RGB"))


def _require_one_picture(image: Any) -> None:
    """What is stored is what a viewer shows, so that it is not open which of the two the model takes."""
    turn = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    if turn not in (0, UPRIGHT):
        raise DataError(
            f"the image is stored turned (EXIF orientation {turn}), and it is open whether the model takes it so; "
            "store it as the model takes it (PIL.ImageOps.exif_transpose turns it and drops the note)"
        )
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < OPAQUE:
        raise DataError(
            "the image is transparent in places, and it is open what the model sees there; "
            "store it without an alpha channel, on the background that the model was trained with"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's picture with others beside it
        raise DataError(f"the image holds {frames} frames, and it is open which the model takes; store that one alone")


def as_model_takes(pixels: NDArray[Any], shape: Sequence[int | None] | None, dtype: str) -> NDArray[Any]:
    """(H, W) or (H, W, 3) levels of 0 to 255 in a model's layout and type; see ``decode_image``.

    Raises:
        DataError: a model whose inputs are no images, or of another number of channels.
    """
    layout, channels = _layout(shape)
    if pixels.ndim == 2 and shape is None:
        channels = 1
    if (pixels.shape[2] if pixels.ndim == 3 else 1) != channels:
        raise DataError(f"the model takes images of {channels} channels, got images of shape {pixels.shape}; convert them")
    if layout == "HWC":
        pixels = pixels.reshape(*pixels.shape[:2], channels)
    elif layout == "CHW":
        pixels = np.moveaxis(pixels.reshape(*pixels.shape[:2], channels), -1, 0)
    pixels = np.ascontiguousarray(pixels)
    return pixels if dtype == "uint8" else pixels.astype(np.float32) / np.float32(255)


def _layout(shape: Sequence[int | None] | None) -> tuple[str, int]:
    if shape is None:
        return "CHW", 3
    if len(shape) == 2:
        return "HW", 1
    if len(shape) == 3 and shape[0] in (1, 3):
        return "CHW", int(shape[0])
    if len(shape) == 3 and shape[2] in (1, 3):
        return "HWC", int(shape[2])
    raise DataError(f"the model takes inputs of shape {tuple(shape)}, which no image has: (H, W), (C, H, W) or (H, W, C)")
