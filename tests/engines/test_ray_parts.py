"""What the Ray engine is made of, without a cluster: the shared coordinator, a model on its way, and how a pass is cut."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fimaudit.data.streams import Shard, Stream
from fimaudit.engines.ray import coordinator as ray_coordinator
from fimaudit.engines.ray.coordinator import Coordinator, SharedLedger
from fimaudit.errors import BudgetExhausted, TargetError, UsageError
from fimaudit.models.leases import Usage
from fimaudit.models.shipping import ship_model
from fimaudit.storage.ledger import open_ledger

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: fimaudit[ray]")


class BaseAnswers:
    """An actor's handle in one process: ``remote`` calls, and ``get`` is the identity."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._held, name)
        return type("Method", (), {"remote": staticmethod(method)})


def shared(coordinator: Coordinator, *, keeps: bool) -> SharedLedger:
    return SharedLedger(BaseAnswers(coordinator), lambda value: value, keeps=keeps)


def test_all_ledgers_of_a_coordinator_spend_one_budget() -> None:
    coordinator = Coordinator(10, Usage(2, 1, 0), None)
    one, two = shared(coordinator, keeps=False), shared(coordinator, keeps=False)
    one.reserve(4, b"")
    two.reserve(4, b"")
    with pytest.raises(BudgetExhausted, match="the budget of 10 rows is spent: 10 were sent and the next call needs 1"):
        one.reserve(1, b"")
    assert one.usage() == two.usage() == Usage(10, 3, 0)
    coordinator.count(3, 1)
    assert two.usage().rows == 13
    one.remember("fact", [1])
    assert two.note("fact") == [1]


def test_answers_go_through_one_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    open_ledger(path, "f").close()
    coordinator = Coordinator(None, Usage(), (str(path), "f"))
    one, two = shared(coordinator, keeps=True), shared(coordinator, keeps=True)
    ticket = one.reserve(2, b"key")
    one.commit(ticket, 2, np.array([[0.5, 0.5], [0.1, 0.9]]), "ok", 7)
    known = two.recall(b"key")
    assert known is not None
    np.testing.assert_array_equal(known, [[0.5, 0.5], [0.1, 0.9]])
    assert two.usage() == Usage(2, 1, 7)
    coordinator.close()
    again = open_ledger(path, "f", resume=True)
    assert again.usage().rows == 2
    again.close()


def test_turns_are_a_gap_apart_and_wait_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(ray_coordinator.time, "monotonic", lambda: now[0])
    coordinator = Coordinator(None, Usage(), None, rate=4.0)
    assert [coordinator.turn() for _ in range(3)] == [0.0, 0.25, 0.5]
    now[0] = 101.0
    assert coordinator.turn() == 0.0
    coordinator.pause(5.0)
    assert [coordinator.turn(), coordinator.turn()] == [5.0, 5.25]
    free = Coordinator(None, Usage(), None)
    assert [free.turn(), free.turn()] == [0.0, 0.0]


def test_the_coordinator_knows_what_was_begun_and_not_finished() -> None:
    coordinator = Coordinator(None, Usage(), None)
    assert [coordinator.begin("piece", 3), coordinator.begin("piece", 3), coordinator.begin("block", 3)] == [0, 1, 0]
    coordinator.finish("piece", 3)
    assert coordinator.begin("piece", 3) == 0
    coordinator.stop()
    assert coordinator.begin("piece", 4) == -1


def test_workers_of_lost_nodes_are_named_once() -> None:
    coordinator = Coordinator(None, Usage(), None)
    for name, node in (("a", "north"), ("b", "south"), ("c", "south")):
        coordinator.register(name, f"handle {name}", node)
    coordinator.register("c", "handle c", "north")  # restarted there
    assert coordinator.on_lost_nodes(["north"]) == ["handle b"]
    assert coordinator.on_lost_nodes(["north"]) == []


def test_a_model_file_travels_with_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr("fimaudit.models.shipping.open_classifier", lambda *a, **k: opened.append((*a, k)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    there = tmp_path / "model"
    (there / "weights").mkdir(parents=True)
    (there / "net.onnx").write_bytes(b"graph")
    (there / "weights" / "net.data").write_bytes(b"numbers")
    target = there / "net.onnx"
    shipped = ship_model(target, "softmax", {"device": "cpu"}, lambda data: data, {"weights/net.data": "sha"})
    shipped.open(lambda handle: handle)
    assert opened.pop() == (str(target), "softmax", {"device": "cpu"})  # it is here under its own path
    target.rename(there / "gone")
    shipped.open(lambda handle: handle)
    path = Path(opened.pop()[0])
    assert path.read_bytes() == b"graph"
    assert (path.parent / "weights" / "net.data").read_bytes() == b"numbers"

    def never(_: Any) -> bytes:
        raise AssertionError("fetched again")

    shipped.open(never)
    assert opened.pop()[0] == str(path)


@needs_ray
def test_an_object_travels_pickled_or_is_refused() -> None:
    import threading

    shipped = ship_model(np.tanh, "auto", {}, lambda data: data, {})
    assert isinstance(shipped.target, bytes)
    assert os.getcwd() in shipped.paths
    lock = threading.Lock()
    with pytest.raises(UsageError, match="engine='ray' give a file"):
        ship_model(lambda x: lock and x, "auto", {}, lambda data: data, {})
    broken = type(shipped)(b"no pickle", "auto", {}, {}, ())
    with pytest.raises(TargetError, match="does not unpickle there"):
        broken.open(lambda handle: handle)


@needs_ray
def test_a_pass_is_cut_at_blocks_and_at_files() -> None:
    from fimaudit.engines.ray.engine import MOST_INPUTS, cut

    whole = np.arange(10_000)
    for workers in (1, 2, 64, 1000):
        cuts = cut(whole, 32, None, workers)
        assert cuts[0] == 0
        assert cuts[-1] == 10_000
        assert (np.diff(cuts) > 0).all()
        assert np.diff(cuts).max() <= MOST_INPUTS
        assert (cuts[:-1] % 32 == 0).all()
    missing = np.array([0, 1, 2, 3, 8, 9, 10, 11, 5000, 5001])
    assert cut(missing, 4, None, 1).tolist() == [0, 4, 8, 10]
    stream = Stream("x", (Shard("a", 1), Shard("b", 1)), (10, 10))
    cuts = cut(np.arange(20), 4, stream, 1)
    assert cuts.tolist() == [0, 4, 8, 12, 16, 20]  # the block 8 to 11 spans both files and stays whole
    assert cut(np.arange(0), 4, None, 1).tolist() == [0]
