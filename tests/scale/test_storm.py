"""Many pods on many agents while everything fails: none is lost, none runs twice.

Simulated agents are lost, come back, flap (which rescinds what was just offered), lose executors and report late;
the scheduler is killed with SIGKILL again and again while pods are still posted. The judge is the simulation's own
record of what ran, held against the API's list. A seed decides what fails and when.

By default a part of the full size, for small machines; GANTRY_SCALE=full is 1,000 pods on 200 agents.
"""

import http.client
import json
import os
import random
import threading
import time
from typing import Any

import pytest

from local.simulation.record import History, read

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.xdist_group("scale")]

FULL = os.environ.get("GANTRY_SCALE") == "full"
PODS, AGENTS, RATE, TIME, KILLS = (1000, 200, 8.0, 20.0, 5) if FULL else (300, 60, 8.0, 8.0, 3)
SEED = int(os.environ.get("GANTRY_SEED", "1"))
PATH = "/api/v1/namespaces/default/pods"
PATIENT = {
    "key": "node.kubernetes.io/unreachable",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 3,
}
"""Longer than any agent is away and comes back. What died while no scheduler listened is replaced after it."""


def pod(number: int) -> dict[str, Any]:
    requests = {"cpu": "2", "memory": "128Mi"}  # eight on an agent, or one agent would hold them all
    container = {"name": "main", "image": "simulated", "resources": {"requests": requests}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{number}"},
        "spec": {"containers": [container], "tolerations": [PATIENT]},
    }


class Poster:
    """Posts pods in a thread, each until it is acknowledged. `acked`: uid by name."""

    def __init__(self, port: int, over: float) -> None:
        self._port = port
        self._pause = over / PODS
        self.acked: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Poster":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        for number in range(PODS):
            body = json.dumps(pod(number))
            while not self._stop.wait(self._pause) and f"pod-{number}" not in self.acked:
                try:
                    self._post(connection, f"pod-{number}", body)
                except (OSError, http.client.HTTPException):
                    connection.close()  # killed: nobody knows whether this one was stored, so it is tried again
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, name: str, body: str) -> None:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        obj = json.loads(answer.read())
        if answer.status == 409:
            connection.request("GET", f"{PATH}/{name}")
            answer = connection.getresponse()
            obj = json.loads(answer.read())
        if answer.status in (200, 201):
            self.acked[name] = obj["metadata"]["uid"]


def kill_schedulers(cluster: Any, until: float) -> None:
    """Kills and restarts it at times that the seed says, while pods are posted and agents fail."""
    dice = random.Random(SEED)
    for at in sorted(dice.uniform(0.1, 0.9) * until for _ in range(KILLS)):
        time.sleep(max(0.0, cluster.began + at - time.monotonic()))
        cluster.kill("scheduler")
        cluster.start_scheduler()
        cluster.until("the API", lambda: cluster.get(PATH + "?limit=1"))


def settled(cluster: Any, acked: dict[str, str]) -> History | None:
    """The record, once every pod runs and the API says so of the very task that runs."""
    listed = (cluster.get(PATH) or {}).get("items", [])
    phases = {one["metadata"]["uid"]: one.get("status", {}).get("phase") for one in listed}
    history = read(cluster.record)
    done = set(phases) == set(acked.values()) == set(history.live) and set(phases.values()) == {"Running"}
    return history if done and all(len(tasks) == 1 for tasks in history.live.values()) else None


def test_none_is_lost_and_none_doubled(cluster: Any) -> None:
    cluster.start_scheduler()
    cluster.start_agents(
        AGENTS, "--seed", str(SEED), "--fault-rate", str(RATE), "--fault-time", f"{TIME:.0f}secs"
    )
    cluster.until("the nodes", lambda: len((cluster.get("/api/v1/nodes") or {}).get("items", [])) >= AGENTS)
    cluster.began = time.monotonic()
    with Poster(cluster.api, over=TIME * 0.7) as poster:
        kill_schedulers(cluster, TIME)
        cluster.until("all pods to be stored", lambda: len(poster.acked) == PODS)
        cluster.until("the last fault", lambda: read(cluster.record).faults.get("over"))
    history = cluster.until(
        "every pod to run once",
        lambda: settled(cluster, poster.acked),
    )
    assert history.doubled == []
    assert set(history.live) == set(poster.acked.values())
    assert len(history.faults) == 6, "not every kind of fault has happened"
    harm = [history.ended["agent lost"], history.ended["executor lost"], cluster.rescinded()]
    enough = all if FULL else any  # where little runs yet, little is lost
    assert enough(harm), f"too little has happened: {harm}"
