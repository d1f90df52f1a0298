"""What people hold in memory: tensors of every kind, lists, images, loaders and data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fimaudit import audit
from fimaudit.data.objects import found_arrays
from fimaudit.errors import DataError

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
