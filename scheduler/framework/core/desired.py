"""What users want: pods that appear, change, are deleted, vanish."""

from __future__ import annotations

from dataclasses import replace

from scheduler.framework.core import evictions, maintenance, tasks, volumes
from scheduler.framework.core.entities import Needs, Pod
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import AWAY, TaskState
from scheduler.framework.core.state import Alarm, State


def loaded(frame: Frame) -> None:
    """Takes up what a former run left: pods without tasks, tasks without pods, times that run on."""
    state = frame.state
    for pod in sorted(state.pods.values(), key=lambda one: (one.created, one.key)):
        changed(frame, pod)
    for task in list(state.tasks.values()):
        if task.uid not in state.pods and task.over:
            frame.drop_task(task)
        elif task.uid not in state.pods:
            if (task.namespace, task.name) not in state.unreadable:
                tasks.want_kill(frame, task, 0.0)
        elif task.state in AWAY:
            tasks.watch_away(frame, task)
        elif task.state is TaskState.STAGED:
            state.set_timer(task.launched_at + state.policy.launch_overdue, Alarm.OVERDUE, task.id)
    for uid in list(state.current):
        _recall_speaker(state, uid)
    for node in list(state.nodes.values()):
        evictions.check_node(frame, node)
    maintenance.loaded(frame)


def _recall_speaker(state: State, uid: str) -> None:
    """The task that speaks for a pod is the newest that no other took over from."""
    speaking = [one for one in state.tasks_of(uid) if not one.superseded]
    if speaking:
        state.current[uid] = max(speaking, key=lambda one: one.attempt).id


def changed(frame: Frame, pod: Pod) -> None:
    """A pod as the watch tells it. It may be older than what we know: an end and a deletion are never undone."""
    state = frame.state
    if pod.uid in state.removed:
        return
    old = state.pods.get(pod.uid)
    if old is not None:
        deletion = old.deletion if pod.deletion is None else pod.deletion
        if (old.done and not pod.done) or deletion != pod.deletion:
            pod = replace(pod, done=pod.done or old.done, deletion=deletion)
    state.pods[pod.uid] = pod
    volumes.pod_seen(state, pod)
    state.residents.dirty.add(pod.uid)
    if pod.deletion is not None:
        _delete(frame, pod, pod.deletion)
    elif pod.done:
        state.pending.pop(pod.uid, None)
    elif pod.uid in state.pending:
        frame.demand = frame.demand or old is None or old.needs != pod.needs
    else:
        task = state.task_of(pod.uid)
        if task is None:
            frame.enqueue(pod.uid)
        elif task.over:
            frame.enqueue(pod.uid, tasks.not_before(task))
        elif old is not None and old.needs.tolerations != pod.needs.tolerations:
            evictions.check(frame, pod.uid)


def _delete(frame: Frame, pod: Pod, grace: float) -> None:
    frame.state.pending.pop(pod.uid, None)
    alive = [
        one for one in frame.state.tasks_of(pod.uid) if not one.over and not (one.superseded and one.kill)
    ]
    if not alive:
        frame.remove_pod(pod)
    for task in alive:
        tasks.want_kill(frame, task, grace)


def gone(frame: Frame, uid: str) -> None:
    """The object left the store, by us or by force. What of it still runs is killed."""
    state = frame.state
    state.removed.discard(uid)
    pod = state.pods.pop(uid, None)
    state.pending.pop(uid, None)
    for task in state.tasks_of(uid):
        if task.over:
            frame.drop_task(task)
        else:
            tasks.want_kill(frame, task, pod.deletion if pod and pod.deletion is not None else 0.0)
    if uid not in state.by_pod:
        state.attempts.pop(uid, None)


def needs_of(state: State, pod: Pod) -> Needs:
    """The pod's needs with the node that the user asked for; the one we chose for an earlier attempt binds nobody."""
    task = state.task_of(pod.uid)
    asked = task.asked_node if task is not None and pod.node == task.node else pod.node
    needs = volumes.resolved(state, pod.needs) if pod.needs.claims else pod.needs
    return replace(needs, node=asked) if asked else needs
