"""Schedulers as real processes, ended in every way: another one goes on, and no pod notices."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
from typing import Any

import pytest

from tests.waiting import gone

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("failover")]

PODS = "/api/v1/namespaces/default/pods"


def goes_on(pair: Any, other: str, before: dict[str, list[str]]) -> None:
    """The other one leads, launches, and what ran was not touched."""
    pair.use(other)
    pair.until("the other one to lead", lambda: pair.leads(other))
    pair.launch("after")
    assert before.items() <= pair.running().items()
    pair.assert_each_runs_once()


def takes_writes(pair: Any) -> bool:
    """While sessions are found again, a write may be refused for a second, as clients expect (Retry-After)."""
    try:
        pair.launch("probe")
    except urllib.error.HTTPError as refused:
        with refused as answer:
            assert (answer.code, answer.headers["Retry-After"]) == (503, "1")
        return False
    return True


def test_the_scheduler_is_killed(pair: Any) -> None:
    leader, other = pair.roles()
    before, epoch = pair.running(), pair.metric(leader, "gantry_leader_epoch")
    os.kill(pair.child(leader), signal.SIGKILL)
    goes_on(pair, other, before)
    pair.ready(leader)  # its parent has started it again
    assert not pair.leads(leader)
    assert pair.metric(other, "gantry_leader") == 1
    assert pair.metric(other, "gantry_leader_epoch") == epoch + 1
    assert pair.metric(leader, "gantry_leader") == 0


def test_the_parent_is_killed(pair: Any) -> None:
    """Its child ends the session in its place, so nobody waits for the time-out."""
    leader, other = pair.roles()
    before, child, said = pair.running(), pair.child(leader), pair.log(leader)
    pair.kill(leader)
    goes_on(pair, other, before)
    pair.until("the orphan to end", lambda: gone(child))
    last_words = pair.log(leader).removeprefix(said)
    assert "gone or hung; what runs is not touched" in last_words
    assert "it will time out" not in last_words


def test_an_orderly_end_hands_over(pair: Any) -> None:
    leader, other = pair.roles()
    before = pair.running()
    assert pair.kill(leader, signal.SIGTERM) == 0
    goes_on(pair, other, before)


def test_both_are_killed_and_the_session_times_out(pair: Any) -> None:
    leader, other = pair.roles()
    before, child = pair.running(), pair.child(leader)
    os.kill(pair.processes[leader].pid, signal.SIGSTOP)  # lest it sees its child die
    os.kill(child, signal.SIGKILL)
    pair.kill(leader)
    goes_on(pair, other, before)


def test_a_stopped_leader_is_fenced_when_it_wakes(pair: Any) -> None:
    leader, other = pair.roles()
    before = pair.running()
    pids = [pair.processes[leader].pid, pair.child(leader)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    goes_on(pair, other, before)
    running = pair.running()
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    pair.until("it to give in", lambda: _gave_in(pair, leader))
    assert pair.leads(other)
    assert pair.running() == running
    pair.assert_each_runs_once()


def _gave_in(pair: Any, name: str) -> bool:
    """Whoever of the two processes noticed first: it ended, or follows."""
    code = pair.processes[name].poll()
    assert code in (None, 6)
    return code == 6 or (pair.ask(name, "/readyz") == "ok" and not pair.leads(name))


def test_a_leader_whose_parent_is_stopped_ends_by_itself(pair: Any) -> None:
    """It cannot know whether its session has ended, and makes sure of it."""
    leader, other = pair.roles()
    before = pair.running()
    parent, child = pair.processes[leader], pair.child(leader)
    os.kill(parent.pid, signal.SIGSTOP)
    goes_on(pair, other, before)
    pair.until("the old leader to end", lambda: gone(child))
    os.kill(parent.pid, signal.SIGCONT)
    pair.until("it to give in", lambda: _gave_in(pair, leader))


def test_without_zookeeper_reads_go_on_and_writes_wait(pair: Any, zookeeper: Any) -> None:
    """Of both instances; what runs is not touched; one of them goes on."""
    leader, other = pair.roles()
    before = pair.running()
    zookeeper.kill()
    try:
        pair.until("the loss to be seen", lambda: "ZooKeeper" in pair.ask(leader, "/readyz"))
        assert len(json.loads(pair.ask(leader, PODS))["items"]) == len(before)
        assert len(json.loads(pair.ask(other, f"{PODS}?resourceVersion=0"))["items"]) == len(before)
        with pytest.raises(urllib.error.HTTPError) as refused:
            pair.create("refused")
        with refused.value as answer:
            assert (answer.code, answer.headers["Retry-After"]) == (503, "1")
        assert pair.running() == before
    finally:
        zookeeper.start()
    pair.use(pair.leader())
    pair.ready(other)
    pair.until("writes to be taken again", lambda: takes_writes(pair))
    pair.launch("after")
    assert before.items() <= pair.running().items()


def test_leaders_that_crash_over_and_over_give_way(pair: Any) -> None:
    for _ in range(3):
        leader, other = pair.roles()
        os.kill(pair.child(leader), signal.SIGKILL)
        pair.until("the other one to lead", lambda name=other: pair.leads(name))
        pair.ready(leader)
    pair.use(pair.leader())
    pair.assert_each_runs_once()


def test_who_does_not_belong_here_is_refused_at_the_start(pair: Any) -> None:
    for flags, code, said in (
        (("--cluster-id", "other"), 4, "belongs to cluster 'gantry', this is 'other'"),
        (("--user", "nobody"), 5, "start with --user"),
        (("--zk-session-timeout", "0"), 2, "--zk-session-timeout: must be 1 to 300 seconds"),
        (("--advertise", "http://x"), 2, "--advertise 'http://x': expected HOST or HOST:PORT"),
    ):
        assert pair.start_one("three", *flags).wait(60) == code
        assert said in pair.last_line("three")
        pair.processes.pop("three")
        del pair.ports["three"]


def test_the_parent_is_small(pair: Any) -> None:
    pid = pair.processes["two"].pid
    with open(f"/proc/{pid}/status") as file:
        assert next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) < 48 * 1024
    with open(f"/proc/{pid}/maps") as file:
        loaded = file.read()
    assert not [one for one in ("pydantic_core", "_http_parser", "uvloop") if one in loaded]


def test_zookeeper_comes_later_than_the_scheduler(ha: Any, zookeeper: Any) -> None:
    zookeeper.kill()
    try:
        ha.start_one("one")
        ha.until("it to say why", lambda: "waiting for ZooKeeper" in ha.ask("one", "/readyz"))
        assert ha.ask("one", "/livez") == "ok"
        assert json.loads(ha.ask("one", PODS))["code"] == 503
    finally:
        zookeeper.start()
    ha.until("it to lead", lambda: ha.leads("one"))
    assert json.loads(ha.ask("one", PODS))["items"] == []
