"""What is kept so that it need not be counted or read again says the same as counting and reading would."""

import random
from dataclasses import replace
from typing import Any

from scheduler.framework.core.entities import Task
from scheduler.framework.core.events import PodChanged, PodGone
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.state import State
from scheduler.framework.engine import delay_until
from scheduler.framework.feed import PodReader
from scheduler.framework.reading import OfferReader, offer_from_json
from scheduler.store import Entry, Key, WatchEvent


def counted(state: State) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for task in state.tasks.values():
        if not task.over:
            counts = found.setdefault(task.agent_id, {})
            counts[task.executor_id] = counts.get(task.executor_id, 0) + 1
    return found


def test_the_tasks_of_each_executor_are_counted_right() -> None:
    dice = random.Random(3)
    state = State()
    for _ in range(2000):
        task_id = f"pod-{dice.randrange(40)}.1"
        if task_id in state.tasks and dice.random() < 0.2:
            state.drop_task(task_id)
            continue
        new = Task(
            id=task_id,
            uid=task_id.partition(".")[0],
            namespace="default",
            name="p",
            attempt=1,
            agent_id=f"agent-{dice.randrange(3)}",
            node="node",
            executor_id=f"executor-{dice.randrange(3)}",
        )
        old = state.tasks.get(task_id, new)
        state.put_task(replace(old, state=dice.choice(list(TaskState))))
        assert state.hosted == counted(state)
    for task_id in list(state.tasks):
        state.drop_task(task_id)
    assert state.hosted == {}


def versions() -> list[dict[str, Any]]:
    """A pod's life: ours share what they do not change, a user's comes from the wire."""
    toleration = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    container = {"name": "main", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    created: dict[str, Any] = {
        "metadata": {"uid": "u", "namespace": "default", "name": "p", "labels": {"app": "a"}},
        "spec": {"containers": [container], "tolerations": [toleration], "restartPolicy": "Always"},
        "status": {"phase": "Pending"},
    }
    bound = {**created, "spec": {**created["spec"], "nodeName": "node-1"}}
    running = {**bound, "status": {"phase": "Running"}}
    labelled = {**running, "metadata": {**running["metadata"], "labels": {"app": "b"}}}
    tolerating = {**labelled, "spec": {**labelled["spec"], "tolerations": [{**toleration, "key": "b"}]}}
    annotated = {
        **tolerating,
        "metadata": {**tolerating["metadata"], "annotations": {"gantry.io/executor": "dedicated"}},
    }
    deleted = {
        **annotated,
        "metadata": {**annotated["metadata"], "deletionTimestamp": "now", "deletionGracePeriodSeconds": 7},
    }
    done = {**deleted, "status": {"phase": "Succeeded"}}
    unbound = {**done, "spec": {key: one for key, one in done["spec"].items() if key != "nodeName"}}
    return [created, bound, running, labelled, tolerating, annotated, deleted, done, unbound, created]


def test_a_pod_that_is_read_from_its_changes_is_the_pod_that_is_read_whole() -> None:
    reader = PodReader()
    for number, obj in enumerate(versions()):
        stamped = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(number)}}
        entry = Entry(Key("pods", "default", "p"), stamped, number, b"")
        assert reader.event(WatchEvent("MODIFIED", entry, None)) == PodChanged(pod_from_object(stamped))
        if number == 5:
            assert reader.event(WatchEvent("DELETED", entry, None)) == PodGone("u")


def test_a_timer_never_fires_too_early() -> None:
    """The loop rounds to milliseconds: what is woken early finds nothing due, and waits again, and again."""
    for microseconds in range(1, 5000, 37):
        rounded = int(delay_until(1.0 + microseconds / 1e6, 1.0) * 1000) / 1000
        assert rounded >= microseconds / 1e6 - 1e-9
    assert delay_until(1.0, 1.0) == delay_until(0.5, 1.0) == 0.0


def test_an_offer_that_comes_again_is_read_as_if_it_were_new() -> None:
    dice = random.Random(5)
    reader = OfferReader()
    for number in range(500):
        role = dice.choice(["a", "b"])
        cpus = {"name": "cpus", "type": "SCALAR", "scalar": {"value": dice.choice([1.0, 2.0])}}
        offer: dict[str, Any] = {
            "id": {"value": f"offer-{number}"},
            "agent_id": {"value": dice.choice(["agent-1", "agent-2"])},
            "hostname": "host",
            "resources": [{**cpus, "allocation_info": {"role": role}}],
            "allocation_info": {"role": role},
            "executor_ids": [{"value": "e"}] * dice.randrange(2),
        }
        if dice.random() < 0.3:
            offer["unavailability"] = {"start": {"nanoseconds": dice.randrange(2) * 10**9}}
        assert reader.read(offer) == offer_from_json(offer)
        if dice.random() < 0.1:
            reader.forget("agent-1")
