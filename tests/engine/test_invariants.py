"""Random histories of users, agents, masters and crashes; what must never happen, and what must come in the end.

GANTRY_HISTORIES says how many, if more than usual are wanted; each then takes twice as many steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scheduler.framework.core import events as ev
from scheduler.framework.core.claims import Held
from scheduler.framework.core.entities import Taint
from scheduler.framework.core.lifecycle import LIVE, TERMINAL, TaskState
from scheduler.framework.core.policy import Policy

PICK = st.integers(min_value=0, max_value=1_000_000)
NOTES = st.sampled_from(
    [
        {},
        {"gantry.io/on-return": "keep-oldest"},
        {"gantry.io/on-maintenance": "start-first"},
        {"gantry.io/on-return": "keep-oldest", "gantry.io/on-maintenance": "start-first"},
        {"gantry.io/on-return": "keep-oldest", "gantry.io/on-maintenance": "stay"},
    ]
)
ROLE = Policy().roles[0]
RESTART = st.sampled_from(["Always", "OnFailure", "Never"])
NEXT = {TaskState.STAGED: [TaskState.STARTING, TaskState.RUNNING], TaskState.STARTING: [TaskState.RUNNING]}
ENDS = [TaskState.FINISHED, TaskState.FAILED, TaskState.DROPPED, TaskState.KILLED]


class Histories(RuleBasedStateMachine):
    new_cluster: Callable[[], Any]

    def __init__(self) -> None:
        super().__init__()
        self.cluster = type(self).new_cluster()
        self.desk = self.cluster.desk
        self.pods = 0
        self.claims = 0

    @initialize(agents=st.integers(1, 3))
    def begin(self, agents: int) -> None:
        for _ in range(agents):
            self.cluster.add_agent(cpus=500)
        self.cluster.subscribe()

    # ---- users

    @rule(restart=RESTART, count=st.integers(1, 3), notes=NOTES)
    def create(self, restart: str, count: int, notes: dict[str, str]) -> None:
        for _ in range(count):
            self.pods += 1
            uid = f"p{self.pods:03}"
            self.desk.create(uid, restartPolicy=restart)
            obj = self.desk.pods[uid]
            self.desk.put({**obj, "metadata": {**obj["metadata"], "annotations": notes}})

    @rule(which=st.sampled_from("ab"), pods=st.integers(0, 2))
    def claim(self, which: str, pods: int) -> None:
        """A claim, unless there is one of that name, and pods that want it."""
        if f"default/{which}" not in self.desk.claims:
            self.claims += 1
            self.desk.create_claim(which, f"c{self.claims}")
        for _ in range(pods):
            self.pods += 1
            volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": which}}]
            self.desk.create(f"p{self.pods:03}", restartPolicy="Always", volumes=volumes)

    @precondition(lambda self: self.desk.claims)
    @rule(pick=PICK, force=st.booleans())
    def unclaim(self, pick: int, force: bool) -> None:
        keys = sorted(self.desk.claims)
        claim = self.desk.claims[keys[pick % len(keys)]]
        if force:
            self.desk.remove_claim(claim)
        else:
            self.desk.delete_claim(claim.name)

    @rule(pick=PICK)
    def stray(self, pick: int) -> None:
        """Something of ours that the store does not know, as after the loss of a backup."""
        agents = list(self.cluster.agents.values())
        agent = agents[pick % len(agents)]
        agent.disks[Held(ROLE, f"stray-{pick}" if pick % 2 else "", f"s{pick}", "default/gone")] = 1000

    @precondition(lambda self: self.desk.pods)
    @rule(pick=PICK, grace=st.sampled_from([0, 1, 30]))
    def delete(self, pick: int, grace: int) -> None:
        uids = sorted(self.desk.pods)
        self.desk.delete(uids[pick % len(uids)], grace)

    @rule()
    def watch(self) -> None:
        self.desk.watch()

    # ---- Mesos

    @rule()
    def allocate(self) -> None:
        self.cluster.allocate()

    @precondition(lambda self: self.cluster.offers)
    @rule(pick=PICK)
    def rescind(self, pick: int) -> None:
        ids = sorted(self.cluster.offers)
        self.cluster.rescind(ids[pick % len(ids)])

    @precondition(lambda self: self.cluster.stream)
    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.cluster.deliver(count)

    @rule(told=st.booleans())
    def reconnect(self, told: bool) -> None:
        self.cluster.disconnect()
        if told:
            self.desk.frame(ev.Disconnected())
        self.cluster.subscribe()

    # ---- agents

    def _tasks(self, states: frozenset[TaskState] = LIVE) -> list[Any]:
        return [
            (agent, one)
            for agent in self.cluster.agents.values()
            for one in agent.tasks.values()
            if one.state in states and one.task.executor_id in agent.executors
        ]

    @precondition(lambda self: self._tasks(frozenset(NEXT)))
    @rule(pick=PICK, which=PICK)
    def advance(self, pick: int, which: int) -> None:
        tasks = self._tasks(frozenset(NEXT))
        agent, one = tasks[pick % len(tasks)]
        to = NEXT[one.state]
        self.cluster.update(agent, one, to[which % len(to)])

    @precondition(lambda self: self._tasks())
    @rule(pick=PICK, end=st.sampled_from(ENDS))
    def end(self, pick: int, end: TaskState) -> None:
        tasks = self._tasks()
        agent, one = tasks[pick % len(tasks)]
        self.cluster.update(agent, one, end)

    @precondition(lambda self: any(agent.executors for agent in self.cluster.agents.values()))
    @rule(pick=PICK)
    def executor_dies(self, pick: int) -> None:
        running = [(a, name) for a in self.cluster.agents.values() for name in a.executors if a.reachable]
        if running:
            self.cluster.kill_executor(*running[pick % len(running)])

    @rule(pick=PICK)
    def partition(self, pick: int) -> None:
        agents = [one for one in self.cluster.agents.values() if one.reachable]
        if agents:
            self.cluster.partition(agents[pick % len(agents)])

    @precondition(lambda self: len(self.cluster.agents) > 1)
    @rule(pick=PICK)
    def outage(self, pick: int) -> None:
        """So long that what ran there is replaced."""
        self.partition(pick)
        self.calm()
        self.desk.later(400.0)
        self.calm()

    @rule(pick=PICK)
    def heal(self, pick: int) -> None:
        agents = [one for one in self.cluster.agents.values() if not one.reachable]
        if agents:
            self.cluster.heal(agents[pick % len(agents)])

    @rule(pick=PICK)
    def reboot(self, pick: int) -> None:
        """The agent comes back with another id and without its tasks."""
        agents = list(self.cluster.agents.values())
        self.cluster.rebirth(agents[pick % len(agents)])

    @rule()
    def look(self) -> None:
        """The master's list of agents, as the scheduler asks for it."""
        if self.cluster.heard:
            self.cluster.list_agents()

    @rule(pick=PICK)
    def deafen(self, pick: int) -> None:
        agents = list(self.cluster.agents.values())
        agents[pick % len(agents)].deaf ^= True

    @rule()
    def calm(self) -> None:
        """A while in which everything works: what was created runs."""
        if not self.cluster.connected:
            self.cluster.subscribe()
        for _ in range(3):
            self.desk.watch()
            self.cluster.allocate()
            self.cluster.deliver(1000)
            for agent, one in self._tasks(frozenset(NEXT)):
                self.cluster.update(agent, one, TaskState.RUNNING)

    # ---- operators

    @precondition(lambda self: self.desk.nodes)
    @rule(pick=PICK, on=st.booleans())
    def taint(self, pick: int, on: bool) -> None:
        names = sorted(self.desk.nodes)
        node = self.desk.state.nodes[names[pick % len(names)]]
        taints = (Taint("sick", "", "NoExecute"),) if on else ()
        self.desk.frame(ev.NodeChanged(replace(node, taints=taints)))

    @rule(pick=PICK, after=st.sampled_from([0.0, 60.0, 600.0, 7200.0]))
    def plan_maintenance(self, pick: int, after: float) -> None:
        agents = list(self.cluster.agents.values())
        self.cluster.plan(agents[pick % len(agents)], self.desk.now + after, 100.0)

    @rule(pick=PICK)
    def cancel_maintenance(self, pick: int) -> None:
        agents = list(self.cluster.agents.values())
        self.cluster.cancel(agents[pick % len(agents)])

    # ---- time and crashes

    @rule(seconds=st.sampled_from([0.5, 5.0, 70.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.desk.later(seconds)

    @rule(count=st.integers(0, 5), after=st.integers(0, 6))
    def crash(self, count: int, after: int) -> None:
        """The process dies in the middle of a frame, and starts again."""
        try:
            self.cluster.deliver(count, crash_after=after)
        except AssertionError:
            raise
        except Exception as error:
            if type(error).__name__ != "Crash":
                raise
        self.cluster.disconnect()
        self.desk.start()

    # ---- what always holds

    @invariant()
    def nothing_is_held(self) -> None:
        assert not self.desk.state.offers

    @invariant()
    def only_moves_overlap(self) -> None:
        for uid in self.desk.state.by_pod:
            going = [
                one for one in self.desk.state.tasks_of(uid) if one.moving and not one.kill and not one.over
            ]
            assert len(going) <= 1, f"{uid} moves from {len(going)} nodes"

    @invariant()
    def no_pod_runs_twice(self) -> None:
        uids = {one.task.uid for agent in self.cluster.agents.values() for one in agent.tasks.values()}
        for uid in uids:
            wanted = [
                one.task.id
                for one in self.cluster.alive(uid)
                if not (record := self.desk.tasks.get(one.task.id))
                or not (record.kill or (record.moving and record.superseded))
            ]
            assert len(wanted) <= 1, f"{uid} runs as {wanted}"

    @invariant()
    def the_store_knows_every_task(self) -> None:
        for agent in self.cluster.agents.values():
            for one in agent.tasks.values():
                if one.state in LIVE:
                    assert one.task.id in self.desk.tasks, f"{one.task.id} runs and has no record"

    @invariant()
    def state_and_store_agree(self) -> None:
        assert self.desk.state.tasks == self.desk.tasks
        assert set(self.desk.state.executors) == set(self.desk.executors)
        assert self.desk.state.storage.volumes == self.desk.volumes

    @invariant()
    def no_volume_is_mounted_twice(self) -> None:
        for agent in self.cluster.agents.values():
            agent.held()  # asserts it

    # ---- what comes in the end

    def teardown(self) -> None:
        for agent in self.cluster.agents.values():
            agent.deaf = False
            self.cluster.cancel(agent)
            self.cluster.heal(agent)
        for node in list(self.desk.state.nodes.values()):
            self.desk.frame(ev.NodeChanged(replace(node, taints=())))
        self.cluster.subscribe()
        for _ in range(60):
            if self.cluster.heard:
                self.cluster.list_agents()  # as the scheduler does every 15 seconds
            self.desk.watch()
            self.cluster.allocate()
            self.cluster.deliver(1000)
            for agent, one in self._tasks(frozenset(NEXT)):
                self.cluster.update(agent, one, TaskState.RUNNING)
            self.desk.later(20.0)
        self._assert_settled()

    def _assert_settled(self) -> None:
        uids = [one.uid for one in self.desk.tasks.values()]
        assert len(uids) == len(set(uids)) <= len(self.desk.pods), "records of old attempts were left behind"
        room = sum(4 for _ in self.cluster.agents)
        for uid, obj in self.desk.pods.items():
            assert "deletionTimestamp" not in obj["metadata"], f"{uid} was never deleted"
            alive = self.cluster.alive(uid)
            if obj["status"]["phase"] in {"Succeeded", "Failed"}:
                assert not alive
            elif len(self.desk.pods) <= room and not obj["spec"].get("volumes"):
                assert len(alive) == 1, f"{uid} runs {len(alive)} times"
                assert obj["status"]["phase"] == "Running"
        self._assert_storage_settled(room)
        for agent in self.cluster.agents.values():
            for one in agent.tasks.values():
                assert one.task.uid in self.desk.pods or one.state in TERMINAL, "a task outlived its pod"
                assert not one.updates, "an update was never acknowledged"

    def _assert_storage_settled(self, room: int) -> None:
        """One of those who want a claim has it, and no disk is reserved for a claim that is gone."""
        uids = {one.uid for one in self.desk.claims.values()}
        for agent in self.cluster.agents.values():
            if agent.free().cpus <= 0:
                continue  # Mesos offers no disk alone
            idle = [one for one in agent.disks if one.id not in agent.held()]
            assert all(one.claim_uid in uids and one.id in self.desk.volumes for one in idle)
        held = {name for agent in self.cluster.agents.values() for name in agent.held()}
        gone = [one for one in self.desk.volumes.values() if one.claim_uid not in uids]
        gone = [one for one in gone if one.id not in held]
        full = {a.info.id for a in self.cluster.agents.values() if a.free().cpus <= 0}
        assert not gone or full, f"records of {gone} were left behind"
        for claim in self.desk.claims.values():
            users = [
                uid
                for uid, obj in self.desk.pods.items()
                if obj["status"]["phase"] not in {"Succeeded", "Failed"}
                and any(
                    one["persistentVolumeClaim"]["claimName"] == claim.name
                    for one in obj["spec"].get("volumes", ())
                )
            ]
            running = [uid for uid in users if self.cluster.alive(uid)]
            own = {one.id for one in self.desk.volumes.values() if one.claim_uid == claim.uid}
            if any(not own & set(self.cluster.alive(uid)[0].task.volumes) for uid in running):
                continue  # they have the volume of an earlier claim of that name, removed by force
            if users and not claim.deleted and len(self.desk.pods) <= room:
                assert len(running) == 1 or full, f"claim {claim.name} is used by {running} of {users}"
                assert not running or claim.phase == "Bound"
            assert not claim.deleted or users, f"claim {claim.name} was never removed"


MANY = int(os.environ.get("GANTRY_HISTORIES", "0"))


def machine(new_cluster: Callable[[], Any]) -> type[RuleBasedStateMachine]:
    return type("Random", (Histories,), {"new_cluster": staticmethod(new_cluster)})


def test_histories(new_cluster: Callable[[], Any]) -> None:
    run_state_machine_as_test(
        machine(new_cluster),
        settings=settings(
            max_examples=MANY or 100,
            stateful_step_count=100 if MANY else 50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
