"""Traps whose danger is on the wire or between processes; see `docs/mesos-traps.md` for the numbers."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

pytestmark = [pytest.mark.system]

PODS = "/api/v1/namespaces/default/pods"
ENDED = "gantry: error: Mesos ended the framework"
QUICK = ("--agent_ping_timeout", "1secs", "--max_agent_ping_timeouts", "2")
"""Agents are unreachable after some 3 seconds."""


def node_of(local: Any, name: str) -> str:
    (pod,) = [one for one in local.items() if one["metadata"]["name"] == name]
    return str(pod["spec"].get("nodeName", ""))


def said(local: Any) -> list[tuple[str, str]]:
    """What the executors did: (word, task attempt)."""
    log = local.executors / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(line.split()[0], line.split()[1].rpartition(".")[2]) for line in lines]


def reasons(local: Any) -> set[str]:
    return {one["reason"] for one in local.items("/api/v1/events")}


def stop_agent(local: Any, name: str) -> None:
    """It stands still; its executors do not."""
    local.processes[name].send_signal(signal.SIGSTOP)


def go_on(local: Any, name: str) -> None:
    local.processes[name].send_signal(signal.SIGCONT)


# ---- A. identity


def test_trap_01_of_two_schedulers_with_one_framework_one_remains(local: Any) -> None:
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    assert local.kill("scheduler", signal.SIGTERM) == 0
    for path in local.directory.glob("state.db*"):
        shutil.copy(path, path.with_name(path.name.replace("state", "copy")))
    first = local.spawn_scheduler()
    local.until("the first", lambda: local.get("/readyz") == "ok")
    second = local.spawn_scheduler("--store", "sqlite:copy.db", "--listen", "127.0.0.1:0", name="second")
    assert first.wait(PATIENCE) == 5
    assert local.last_line() == f"{ENDED}: Framework failed over; its state is kept"
    (framework,) = local.operate("GET_FRAMEWORKS")["get_frameworks"]["frameworks"]
    assert framework["connected"]
    assert second.poll() is None, "the loser stays away, the winner stays"
    assert len(local.running()) == 1


def test_trap_02_a_role_that_is_refused_ends_with_one_line(local: Any) -> None:
    local.start_master("--roles", "other")
    process = local.spawn_scheduler()
    assert process.wait(PATIENCE) == 5
    assert local.last_line().startswith(ENDED)
    assert "gantry" in local.last_line()
    assert (local.directory / "state.db").exists()


def test_trap_03_another_user_is_refused_rather_than_believed(local: Any) -> None:
    """Mesos accepts the subscription and ignores the field."""
    local.start_master()
    local.start_agent("agent-1")
    local.start_scheduler("--user", "root")
    local.create("a")
    local.all_running(1)
    before = local.running()
    assert local.kill("scheduler", signal.SIGTERM) == 0
    assert local.spawn_scheduler("--user", "nobody").wait(PATIENCE) == 5
    assert local.last_line() == (
        "gantry: error: the framework is registered with user 'root', and Mesos would silently ignore 'nobody': "
        "start with --user root"
    )
    local.start_scheduler("--user", "root")
    local.all_running(1)
    assert local.running() == before


# ---- B. calls


class Proxy:
    """TCP between the scheduler and the master; every second connection is held up for half a second."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: set[int] = set()
        self.most = 0
        self.delayed = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        number = 0
        while not self._stop.is_set():
            if not select.select([self.listener], [], [], 0.1)[0]:
                continue
            client, _ = self.listener.accept()
            number += 1
            thread = threading.Thread(target=self._carry, args=(client, number), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _carry(self, client: socket.socket, number: int) -> None:
        if number % 2 == 0:
            self.delayed += 1
            self._stop.wait(0.5)
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.target)) as server,
        ):
            pairs = {client: server, server: client}
            while not self._stop.is_set():
                for end in select.select(list(pairs), [], [], 0.1)[0]:
                    data = end.recv(65536)
                    if end is client and b"POST /api/v1/scheduler" in data:
                        self._count(number, open_=True)
                    pairs[end].sendall(data)
                    if not data:
                        self._count(number, open_=False)
                        return
        self._count(number, open_=False)

    def _count(self, number: int, *, open_: bool) -> None:
        with self._lock:
            (self.open.add if open_ else self.open.discard)(number)
            self.most = max(self.most, len(self.open))

    def close(self) -> None:
        self._stop.set()
        for thread in list(self._threads):
            thread.join(60.0)
        self.listener.close()


@pytest.fixture
def proxy(local: Any) -> Iterator[Proxy]:
    made = Proxy(local.mesos)
    try:
        yield made
    finally:
        made.close()


def test_trap_09_calls_keep_their_order_when_connections_are_slow(local: Any, proxy: Proxy) -> None:
    """202 is not "done": with a pool of connections RECONCILE overtakes ACCEPT, and the task is launched twice."""
    local.start_master()
    local.start_agent("agent-1")
    local.start_scheduler("--master", f"127.0.0.1:{proxy.port}")
    for number in range(12):
        local.create(f"p{number}")
    local.all_running(12)
    local.assert_each_runs_once()
    local.call("DELETE", f"{PODS}/p0")
    local.until("the deletion", lambda: len(local.items()) == 11)
    local.assert_each_runs_once()
    assert proxy.delayed
    assert proxy.most <= 2, "one for events, one for calls"


# ---- C. tasks and agents


def test_trap_10_a_new_master_that_misses_an_agent_kills_nothing(local: Any) -> None:
    local.start("agent-1", "agent-2")
    local.create("a", nodeName="agent-1")
    local.create("b", nodeName="agent-2")
    local.all_running(2)
    before = local.running()
    stop_agent(local, "agent-2")
    local.kill("master")
    local.start_master()
    local.until("the connection", lambda: local.get("/readyz") == "ok")
    local.create("c", nodeName="agent-1")
    local.all_running(3)
    assert before.items() <= local.running().items()
    go_on(local, "agent-2")
    local.create("d", nodeName="agent-2")
    local.all_running(4)
    local.assert_each_runs_once()
    assert before.items() <= local.running().items()


def test_trap_11_a_pod_that_was_replaced_and_comes_back_is_ended(local: Any) -> None:
    local.start_master(*QUICK)
    local.start_agent("agent-1")
    local.start_scheduler()
    soon = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    local.create("a", tolerations=[{**soon, "tolerationSeconds": 1}])
    local.all_running(1)
    stop_agent(local, "agent-1")
    local.start_agent("agent-2")
    local.until("the replacement", lambda: ("started", "2") in said(local))
    assert ("ended", "1") not in said(local), "it was only away"
    go_on(local, "agent-1")
    local.until("the end of the first", lambda: ("ended", "1") in said(local))
    assert said(local) == [("started", "1"), ("started", "2"), ("ended", "1")]
    local.all_running(1)
    assert node_of(local, "a") == "agent-2"


def test_trap_12_an_agent_that_comes_back_as_another_one(local: Any) -> None:
    """Same machine, same address, new id: its node stays, its pods start again, nothing is counted twice."""
    port = str(local.free_port())
    local.start_master()
    local.start_agent("agent-1", "--port", port)
    local.start_scheduler()
    local.create("a")
    local.all_running(1)
    (old,) = local.items("/api/v1/nodes")
    local.kill("agent-1")
    for pid in local.executor_pids():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(local.directory / "agent-1")
    local.start_agent("agent-1", "--port", port)
    local.until("the second start", lambda: ("started", "2") in said(local))
    local.all_running(1)
    local.assert_each_runs_once()
    (new,) = local.items("/api/v1/nodes")
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    assert new["spec"]["providerID"] != old["spec"]["providerID"]


def test_trap_13_a_pod_deleted_while_its_agent_was_away_ends_when_it_is_back(local: Any) -> None:
    local.start_master(*QUICK)
    local.start_agent("agent-1")
    local.start_scheduler()
    local.create("a")
    local.all_running(1)
    stop_agent(local, "agent-1")

    def lost() -> bool:
        (pod,) = local.items()
        return bool(pod["status"].get("reason") == "NodeLost")

    local.until("the loss", lost)
    (node,) = local.items("/api/v1/nodes")
    keys = {(one["key"], one["effect"]) for one in node["spec"]["taints"]}
    assert {("node.kubernetes.io/unreachable", effect) for effect in ("NoSchedule", "NoExecute")} <= keys
    assert [one["status"] for one in node["status"]["conditions"] if one["type"] == "Ready"] == ["Unknown"]
    local.call("DELETE", f"{PODS}/a")
    assert len(local.items()) == 1, "its end is not known"
    go_on(local, "agent-1")
    local.until("the deletion", lambda: not local.items())
    assert not local.running()


# ---- D. executors


class Slow(http.server.BaseHTTPRequestHandler):
    """Serves the executor's file; the first request gets no answer before `go`."""

    go = threading.Event()
    asked: list[float] = []  # noqa: RUF012 - shared by all requests on purpose

    def do_GET(self) -> None:
        self.asked.append(time.monotonic())
        if len(self.asked) == 1:
            self.go.wait(PATIENCE)
        body = b"anything"
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def throttled() -> Iterator[str]:
    """A URL that hangs at first."""
    Slow.go.clear()
    Slow.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file"
    finally:
        Slow.go.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_trap_17_an_executor_that_cannot_be_fetched_in_time_is_tried_elsewhere(
    local: Any, throttled: str
) -> None:
    """The agent's patience begins before the fetch."""
    local.start_master()
    for name in ("agent-1", "agent-2"):
        local.start_agent(name, "--executor_registration_timeout", "5secs")
    local.start_scheduler("--executor-uri", throttled)
    local.until("the nodes", lambda: len(local.items("/api/v1/nodes")) == 2)
    local.create("a")
    local.until("the first try", lambda: Slow.asked and node_of(local, "a"))
    first = node_of(local, "a")
    local.all_running(1)
    assert node_of(local, "a") != first
    assert "ExecutorRegistrationTimeout" in reasons(local)
    (pod,) = local.items()
    assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0]


# ---- E. operators


def plan(local: Any, host: str, seconds: float) -> None:
    start = {"nanoseconds": int((time.time() + seconds) * 1e9)}
    window = {
        "machine_ids": [{"hostname": host, "ip": "127.0.0.1"}],
        "unavailability": {"start": start, "duration": {"nanoseconds": 600 * 10**9}},
    }
    local.operate("UPDATE_MAINTENANCE_SCHEDULE", schedule={"windows": [window]})


def test_trap_25_a_pod_leaves_before_the_maintenance_and_is_never_missing(local: Any) -> None:
    local.start("agent-1", "agent-2")
    local.create("a", annotations={"gantry.io/on-maintenance": "start-first"})
    local.all_running(1)
    old = node_of(local, "a")
    plan(local, old, 600.0)
    local.until("the end where it was", lambda: ("ended", "1") in said(local))
    assert said(local) == [("started", "1"), ("started", "2"), ("ended", "1")]
    local.until(
        "its new node", lambda: node_of(local, "a") not in {"", old} and local.phases() == {"a": "Running"}
    )
    assert "MaintenanceMove" in reasons(local)
    status = local.operate("GET_MAINTENANCE_STATUS")["get_maintenance_status"]["status"]
    (machine,) = status["draining_machines"]
    assert [one["status"] for one in machine["statuses"]] == ["ACCEPT"]
    nodes = {one["metadata"]["name"]: one for one in local.items("/api/v1/nodes")}
    assert [one["key"] for one in nodes[old]["spec"]["taints"]] == ["gantry.io/maintenance"]


def test_trap_25_without_leave_a_pod_ends_before_it_starts_elsewhere(local: Any) -> None:
    local.start("agent-1", "agent-2")
    local.create("a")
    local.all_running(1)
    plan(local, node_of(local, "a"), 600.0)
    local.until("its new start", lambda: ("started", "2") in said(local))
    assert said(local) == [("started", "1"), ("ended", "1"), ("started", "2")]
    local.all_running(1)
    local.assert_each_runs_once()


def test_trap_25_a_cancelled_maintenance_is_seen_while_nothing_is_offered(local: Any) -> None:
    """Nobody waits, so the framework is suppressed, and no offer tells."""
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    plan(local, "agent-1", 24 * 3600.0)

    def tainted() -> bool:
        (node,) = local.items("/api/v1/nodes")
        return any(one["key"] == "gantry.io/maintenance" for one in node["spec"].get("taints", ()))

    local.until("the taint", tainted)
    local.operate("UPDATE_MAINTENANCE_SCHEDULE", schedule={"windows": []})
    local.until("no taint", lambda: not tainted())


def test_trap_25_a_job_stays_and_says_so(local: Any) -> None:
    local.start("agent-1")
    local.create("a", restartPolicy="Never")
    local.all_running(1)
    plan(local, "agent-1", 600.0)
    local.until("the event", lambda: "MaintenanceBlocked" in reasons(local))
    assert said(local) == [("started", "1")]


def test_trap_25_a_drained_agent_gives_its_pods_away(local: Any) -> None:
    local.start("agent-1", "agent-2")
    local.create("a")
    local.all_running(1)
    old = node_of(local, "a")
    agents = local.operate("GET_AGENTS")["get_agents"]["agents"]
    (agent,) = [one for one in agents if one["agent_info"]["hostname"] == old]
    agent_id = agent["agent_info"]["id"]
    local.operate("DRAIN_AGENT", agent_id=agent_id, max_grace_period={"seconds": 5})
    local.until("the other node", lambda: node_of(local, "a") not in {"", old})
    local.all_running(1)
    local.assert_each_runs_once()
    (pod,) = local.items()
    assert "deletionTimestamp" not in pod["metadata"]

    def tainted() -> bool:
        nodes = {one["metadata"]["name"]: one for one in local.items("/api/v1/nodes")}
        return "gantry.io/draining" in json.dumps(nodes[old]["spec"].get("taints", []))

    local.until("the taint", tainted)
    assert Path(local.directory / "master" / "registry.json").exists()

    def drained() -> bool:
        agents = local.operate("GET_AGENTS")["get_agents"]["agents"]
        return any((one.get("drain_info") or {}).get("state") == "DRAINED" for one in agents)

    local.until("the end of the drain", drained)
    local.until("the end of its executor", lambda: len(local.executor_pids()) == 1)
    local.operate("REACTIVATE_AGENT", agent_id=agent_id)
    local.until("no taint", lambda: not tainted())
    local.create("b", nodeName=old)
    local.all_running(2)
    assert "TaskDropped" not in reasons(local)
    assert node_of(local, "b") == old
