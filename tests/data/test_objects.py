"""What people hold in memory: tensors of every kind, lists, images, loaders and data sets."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fimaudit import audit
from fimaudit.data.dataset import as_data
from fimaudit.data.images import decode_image
from fimaudit.data.objects import found_arrays
from fimaudit.errors import DataError, UsageError

X = np.random.default_rng(0).random((6, 3)).astype(np.float32)
Y = np.arange(6) % 2
SET = TensorDataset(torch.tensor(X), torch.tensor(Y))


class Dictionaries(Dataset[Any]):
    """Samples as Hugging Face has them."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"pixel_values": torch.tensor(X[place]), "label": int(Y[place])}


HELD: dict[str, tuple[Any, bool]] = {
    "tensor with a gradient": (torch.tensor(X, requires_grad=True), False),
    "sparse tensor": (torch.tensor(X).to_sparse(), False),
    "sparse matrix": (scipy.sparse.csr_matrix(X), False),
    "list of arrays": (list(X), False),
    "list of lists": (X.tolist(), False),
    "list of tensors": ([torch.tensor(row) for row in X], False),
    "data set": (SET, True),
    "loader that shuffles": (DataLoader(SET, batch_size=4, shuffle=True), True),
    "dictionaries": (Dictionaries(), True),
}


@pytest.mark.parametrize("name", HELD)
def test_every_object_is_the_same_array(name: str) -> None:
    held, labelled = HELD[name]
    found = found_arrays(held)
    np.testing.assert_allclose(found.x, X, rtol=1e-6)
    assert (found.y is not None) == labelled
    if found.y is not None:
        assert found.y.tolist() == Y.tolist()


def test_types_that_numpy_lacks_and_masks() -> None:
    assert found_arrays(torch.tensor(X, dtype=torch.bfloat16)).x.dtype == np.float32
    masked = np.ma.masked_array(X, X > 0.9)
    assert np.array_equal(np.isnan(found_arrays(masked).x), X > 0.9)


def test_images_are_laid_out_as_the_model_takes_them() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)).eval()
    report = audit(network, [Image.fromarray(one) for one in pixels], link="softmax", input_shape=(3, 8, 8))
    truth = audit(network, np.moveaxis(pixels, -1, 1).astype(np.float32) / 255, link="softmax", lower=0, upper=1)
    assert report.inputs == truth.inputs


def test_refusals_in_words() -> None:
    for held, words in (
        ([np.zeros(2), np.zeros(3)], "different shapes"),
        ([torch.zeros(2), torch.zeros(3)], r"inputs of one shape, got \(2,\) and \(3,\)"),
        (Image.new("RGB", (4, 4)), "got one image"),
        (object(), "got object"),
        ([{"text": "a"}], "expected samples with one of"),
    ):
        with pytest.raises(DataError, match=words):
            found_arrays(held)


def test_labels_of_a_data_set_are_used() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2).eval()
    report = audit(network, DataLoader(SET, batch_size=2), link="softmax")
    assert [s.label for s in report.inputs] == Y.tolist()


def test_a_function_is_fed_the_datas_own_type_and_may_answer_tensors() -> None:
    network = torch.nn.Linear(3, 2)  # with gradients, and in float32 only

    def answer(rows: Any) -> torch.Tensor:
        return torch.softmax(network(torch.from_numpy(rows)), 1)

    assert {s.status for s in audit(answer, X).inputs} == {"ok"}


def test_a_loader_gives_what_its_collate_function_and_its_sampler_make_of_the_data_set() -> None:
    def doubled(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([x * 2 for x, _ in samples]), torch.stack([y for _, y in samples])

    found = found_arrays(DataLoader(SET, batch_size=4, shuffle=True, collate_fn=doubled))
    np.testing.assert_array_equal(found.x, X * 2)
    assert found.y is not None
    assert found.y.tolist() == Y.tolist()
    np.testing.assert_array_equal(found_arrays(DataLoader(SET, sampler=[4, 1])).x, X[[4, 1]])
    np.testing.assert_array_equal(found_arrays(DataLoader(SET, batch_sampler=[[5, 0], [2]])).x, X[[5, 0, 2]])
    with pytest.raises(DataError, match="draws its inputs by WeightedRandomSampler"):
        found_arrays(DataLoader(SET, sampler=WeightedRandomSampler([1.0] * 6, 3)))
    with pytest.raises(DataError, match="got 3 parts"):
        found_arrays(TensorDataset(*SET.tensors, SET.tensors[1]))


class Endless(IterableDataset[Any]):
    """Samples that can only be gone through."""

    def __iter__(self) -> Any:
        return iter((torch.tensor(row), int(label)) for row, label in zip(X, Y, strict=True))


class Named(Dictionaries):
    """A data set that names its classes, as torchvision's do."""

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes


def test_parts_of_data_sets_are_their_parts() -> None:
    assert found_arrays(Subset(SET, [4, 2])).x.tolist() == X[[4, 2]].tolist()
    assert found_arrays(DataLoader(SET, sampler=SubsetRandomSampler([1]))).x.tolist() == X[[1]].tolist()
    for held in (Endless(), DataLoader(Endless(), batch_size=4)):
        found = found_arrays(held)
        assert found.x.tolist() == X.tolist()
        assert found.y is not None
        assert found.y.tolist() == Y.tolist()


def test_objects_that_hold_no_numbers_are_refused() -> None:
    for held, words in (
        ({"x": X}, "a dict of x; give one of its entries"),
        (torch.empty(2, 3, device="meta"), "no data"),
        (X.astype(complex), "real numbers, got dtype complex"),
        (X.astype(str), "real numbers, got dtype <U"),
    ):
        with pytest.raises(DataError, match=words):
            as_data(held, None, None)


def test_hugging_face_data_sets() -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["ill", "well"])
    arrays = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()})
    table = datasets.Dataset.from_dict({"a": X[:, 0], "b": X[:, 1], "label": Y}).cast_column("label", names)
    np.testing.assert_allclose(found_arrays(arrays.with_format("torch")).x, X, rtol=1e-6)
    found = as_data(table.select([3, 1]), "label", None)
    assert (found.names, found.classes) == (("a", "b"), ("ill", "well"))
    assert found.x[:, 0].tolist() == X[[3, 1], 0].tolist()
    with pytest.raises(DataError, match="a DatasetDict of train; give one of its splits"):
        as_data(datasets.DatasetDict({"train": arrays}), None, None)


def test_classes_of_a_data_set_meet_those_of_the_model_by_name() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2).eval()
    alone = audit(network, Named(["ill", "well"]), link="softmax", queries=12)
    assert alone.model["class_names"] == ["ill", "well"]
    assert any("taken to be those of the data: ill, well" in warning for warning in alone.warnings)
    turned = audit(network, Named(["ill", "well"]), link="softmax", queries=12, classes="well,ill")
    assert [s.label for s in turned.inputs] == (1 - Y).tolist()
    others = audit(network, Named(["ill", "well"]), link="softmax", queries=12, classes="a,b")
    assert [s.label for s in others.inputs] == Y.tolist()
    assert any("labels are taken by their positions" in warning for warning in others.warnings)
    with pytest.raises(UsageError, match=r"3 classes are named \(a, b, c\), but the model answers 2"):
        audit(network, Named(["a", "b", "c"]), link="softmax", queries=12)


def turned() -> Image.Image:
    image = Image.fromarray(np.full((4, 6, 3), 9, dtype=np.uint8))
    image.getexif()[0x0112] = 6
    return image


def frames() -> Image.Image:
    kept = io.BytesIO()
    one, two = (Image.fromarray(np.full((4, 4), level, dtype=np.uint8)) for level in (1, 200))
    one.save(kept, "GIF", save_all=True, append_images=[two])
    return Image.open(kept)


def see_through(alpha: int) -> Image.Image:
    pixels = np.full((4, 4, 4), 255, dtype=np.uint8)
    pixels[0, 0, 3] = alpha
    return Image.fromarray(pixels)


OPEN = {
    "a turn": (turned, "stored turned (EXIF orientation 6)"),
    "transparency": (lambda: see_through(254), "transparent in places"),
    "frames": (frames, "2 frames"),
}


@pytest.mark.parametrize("name", OPEN)
def test_images_that_leave_open_what_the_model_sees_are_refused(name: str) -> None:
    made, words = OPEN[name]
    with pytest.raises(DataError, match=re.escape(words)):
        found_arrays([made()])


def test_an_alpha_channel_that_hides_nothing_is_left_out() -> None:
    assert found_arrays([see_through(255)]).x.shape[1:] == (4, 4, 3)


def test_images_of_more_than_8_bits_are_refused() -> None:
    """They were cut to 8 bits, as Pillow's conversion does."""
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(DataError, match="more than 8 bits"):
        found_arrays([deep])
    kept = io.BytesIO()
    deep.save(kept, "PNG")
    with pytest.raises(DataError, match="more than 8 bits"):
        decode_image(kept.getvalue(), (1, 4, 4), "float32")


def test_labels_of_one_finding_among_several(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sigmoid()).eval()
    findings = np.random.default_rng(2).integers(0, 2, (6, 4))
    np.savez(tmp_path / "whole.npz", x=X, y=findings)
    for k in range(2):
        np.savez(tmp_path / f"part-{k}.npz", x=X[3 * k : 3 * k + 3], y=findings[3 * k : 3 * k + 3])
    held = TensorDataset(torch.tensor(X), torch.tensor(findings))
    options: dict[str, Any] = {"link": "identity", "queries": 12}
    for x, y in (
        (X, findings),
        (X, findings[:, 0]),
        (held, None),
        (tmp_path / "whole.npz", None),
        (f"{tmp_path}/part*", None),
    ):
        report = audit(network, x, y=y, finding=0, **options)
        assert [s.label for s in report.inputs] == findings[:, 0].tolist()
        assert report.model["class_names"] == ["not class 0", "class 0"]
    named = audit(network, X, y=findings, finding="c", classes="a,b,c,d", **options)
    assert [s.label for s in named.inputs] == findings[:, 2].tolist()
    with pytest.raises(DataError, match=r"one label for each input, got 4; .*choose one with finding=NAME"):
        audit(network, X, y=findings, **options)
    with pytest.raises(DataError, match=r"each input has 2 labels, but finding= names position 2"):
        audit(network, X, y=findings[:, :2], finding=2, **options)
