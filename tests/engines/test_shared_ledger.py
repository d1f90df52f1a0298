"""The coordinator as a worker sees it: its errors arrive as they were raised."""

from __future__ import annotations

import pytest

from fimaudit.engines.ray.coordinator import SharedLedger
from fimaudit.errors import StorageFailure


class TaskError(Exception):
    """As ``ray.exceptions.RayTaskError``: an account of several lines, and what was raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback of another process\n{cause!r}")
        self.cause = cause


@pytest.mark.parametrize("cause", [StorageFailure("the disk is full"), ValueError("a mistake")])
def test_a_full_disk_beside_the_driver_is_the_same_sentence_in_a_worker(cause: Exception) -> None:
    class Call:
        def remote(self, *_: object) -> None:
            return None

    class Coordinator:
        reserve = Call()

    def get(_: object) -> object:
        raise TaskError(cause)

    expected = StorageFailure if isinstance(cause, StorageFailure) else TaskError
    with pytest.raises(expected):
        SharedLedger(Coordinator(), get, keeps=True).reserve(1, b"")
