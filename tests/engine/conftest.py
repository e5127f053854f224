"""What the tests of the engine work with: `Desk`, `Cluster`, and a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scheduler.store import Store, open_store
from tests.engine.cluster import Cluster
from tests.engine.desk import Desk, MakeOffer, make_offer


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def offer() -> MakeOffer:
    return make_offer


@pytest.fixture
def new_cluster() -> Callable[[], Cluster]:
    return lambda: Cluster(Desk())


@pytest.fixture
def running(desk: Desk, offer: MakeOffer) -> Desk:
    """Pod `a` runs on agent A1 as task a.1."""
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1"))
    desk.tell("a.1", "RUNNING", pod_status={"phase": "Running"}, server="10.0.0.1:4000")
    desk.watch()
    desk.said.clear()
    return desk


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Open, and the leader's."""
    made = open_store(f"sqlite:{tmp_path}/store.db")
    await made.open()
    await made.lead(1)
    yield made
    await made.close()
