"""Schedulers as real processes, killed in every way: another one goes on, and no pod notices."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_the_leader_is_killed(ha: Any) -> None:
    ha.begin("one", "two")
    ha.create("a", "b")
    ha.all_running(2)
    before = ha.running()
    assert (ha.leader(), ha.leads("two")) == ("one", False)
    os.kill(ha.child("one"), signal.SIGKILL)
    ha.use("two")
    ha.until("the other one to lead", lambda: ha.leads("two"))
    ha.create("c")
    ha.all_running(3)
    assert before.items() <= ha.running().items(), "what ran was not touched"
    ha.assert_each_runs_once()
    ha.ready("one")  # started again by its parent
    assert not ha.leads("one")
