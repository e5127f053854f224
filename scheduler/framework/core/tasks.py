"""What happens to tasks: reports, kills, absence and return, the end and what follows from it."""

from __future__ import annotations

from dataclasses import replace

from scheduler.framework.core import backoff, evictions, executors, volumes
from scheduler.framework.core.effects import (
    Acknowledge,
    Away,
    Back,
    Bound,
    Ended,
    KillTask,
    Publish,
    Reported,
    Requeued,
)
from scheduler.framework.core.entities import Kill, Pod, Taint, Task
from scheduler.framework.core.events import LaunchAborted, TaskReported
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import AWAY, LIVE, Action, TaskState, transition
from scheduler.framework.core.placement import tolerates
from scheduler.framework.core.state import Alarm, Question
from scheduler.framework.core.status import FINAL_PHASES
from scheduler.framework.core.verdict import Fate, Verdict, describe, judge

UNREACHABLE_TAINT = Taint("node.kubernetes.io/unreachable", "", "NoExecute")

PHASE = {
    TaskState.STAGED: "Pending",
    TaskState.STARTING: "Pending",
    TaskState.RUNNING: "Running",
    TaskState.KILLING: "Running",
    TaskState.FINISHED: "Succeeded",
}
"""The pod's phase by its task, when the executor does not say; Failed for the rest."""


def report(frame: Frame, event: TaskReported) -> None:
    """A status update or a reply to reconciliation. Acknowledged whatever it says, after the saves."""
    state = frame.state
    task = state.tasks.get(event.task_id)
    agent_id = event.agent_id or (task.agent_id if task else "")
    if event.uuid:
        frame.emit(Acknowledge(agent_id, event.task_id, event.uuid))
    if state.questions.pop(event.task_id, None) and task and task.uid in state.pending:
        frame.demand = True
    move = transition(task.state if task else TaskState.ABSENT, event.state)
    if not move.legal:
        state.counters["illegal task transitions"] += 1
        return
    if Action.KILL in move.actions:
        state.counters["unwanted tasks killed"] += 1
        frame.emit(KillTask(event.task_id, agent_id, None))
    if task is None or task.over:
        return
    new = _moved(frame, task, event, move.state)
    if new != task:
        frame.save_task(new)
        volumes.reported(frame, new)
    _tell(frame, new, event, changed=new.state is not task.state)
    if Action.SETTLE in move.actions:
        _settle(frame, new, event)
    elif Action.AWAY in move.actions:
        _away(frame, new, event)
    elif new.state in AWAY:
        watch_away(frame, new)
    elif Action.RETURN in move.actions:
        _returned(frame, new)
    evictions.check(frame, task.uid)
    _end_moved(frame, task.uid)
    agent = state.agents.get(new.agent_id)
    if new.state is TaskState.RUNNING and agent is not None and agent.strikes:
        state.agents[agent.id] = replace(agent, strikes=0)


def _moved(frame: Frame, task: Task, event: TaskReported, to: TaskState) -> Task:
    """The record after a report; times are set once."""
    ran = to in {TaskState.RUNNING, TaskState.KILLING} or _container_ran(event)
    away = task.away_since if to in AWAY else 0.0
    if to in AWAY and (not away or (to is TaskState.UNKNOWN and task.state is not to)):
        away = frame.now
    return replace(
        task,
        state=to,
        server=event.server or task.server,
        started_at=task.started_at or (frame.now if ran else 0.0),
        away_since=away,
    )


def _container_ran(event: TaskReported) -> bool:
    status = event.pod_status or {}
    listed = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return any({"running", "terminated"} & (one.get("state") or {}).keys() for one in listed)


def speaker(frame: Frame, task: Task) -> Pod | None:
    """The pod of a task, if that is the task which speaks for it."""
    if task.superseded or frame.state.current.get(task.uid) != task.id:
        return None
    return frame.state.pods.get(task.uid)


def _tell(frame: Frame, task: Task, event: TaskReported, *, changed: bool) -> None:
    """Events and status of a task that goes on; the end is told by `_settle`."""
    pod = speaker(frame, task)
    if pod is None:
        return
    for one in event.events:
        frame.emit(
            Publish(
                *(pod.uid, pod.namespace, pod.name, one.type, one.reason, one.message, one.container),
                component="gantry-executor",
                host=task.node,
            )
        )
    if task.state not in LIVE:
        return
    if event.pod_status is not None:
        frame.save_pod(pod, Reported(event.pod_status, PHASE[task.state]))
    elif changed and task.state is TaskState.RUNNING:
        frame.save_pod(pod, Reported(None, PHASE[task.state]))


# ---- kills


def want_kill(frame: Frame, task: Task, grace: float) -> None:
    """Remembers a kill until the task has ended; a shorter grace replaces a longer one."""
    if task.over or (task.kill is not None and task.kill.grace <= grace):
        return
    wanted = replace(task, kill=Kill(frame.now, grace))
    frame.save_task(wanted)
    if wanted.state in AWAY:
        watch_away(frame, wanted)
    send_kill(frame, wanted)


def send_kill(frame: Frame, task: Task) -> None:
    """Sends a wanted kill, if anybody can hear it now, and again later."""
    state = frame.state
    if task.kill is None or task.state not in LIVE or not state.connected:
        return
    tries = state.kills[task.id].tries + 1 if task.id in state.kills else 1
    delay = backoff.grow(state.policy.kill_retry, tries, state.policy.kill_retry_max)
    state.kills[task.id] = Question(tries, frame.now + delay)
    frame.timer(delay, Alarm.KILL, task.id)
    frame.emit(KillTask(task.id, task.agent_id, task.kill.grace))


def kill_again(frame: Frame, task_id: str) -> None:
    """A timer: the kill is sent once more, unless the task has ended or it was sent since."""
    task, sent = frame.state.tasks.get(task_id), frame.state.kills.get(task_id)
    if task is not None and sent is not None and sent.next_at <= frame.now:
        send_kill(frame, task)


# ---- absence


def _away(frame: Frame, task: Task, event: TaskReported) -> None:
    watch_away(frame, task)
    pod = speaker(frame, task)
    if pod is not None:
        frame.save_pod(pod, Away(describe(event)))
        frame.publish(pod, "Warning", "NodeLost", f"node {task.node} cannot be reached: {describe(event)}")


def watch_away(frame: Frame, task: Task) -> None:
    """Sets the timer by which the task's pod is given up; none for pods that wait for ever."""
    if _machine_replaced(frame, task):
        frame.state.set_timer(frame.now, Alarm.AWAY, task.id)
        return
    patience = patience_of(frame, task)
    if patience is not None:
        frame.state.set_timer(task.away_since + patience, Alarm.AWAY, task.id)


def patience_of(frame: Frame, task: Task) -> float | None:
    """Seconds a pod waits for its node, None for ever: its tolerations of node.kubernetes.io/unreachable."""
    pod = speaker(frame, task)
    if pod is None or task.kill is not None:
        return frame.state.policy.away
    if pod.stateful:
        return None
    found = [one for one in pod.needs.tolerations if tolerates(one, UNREACHABLE_TAINT)]
    if not found:
        return frame.state.policy.away
    limits = [max(one.seconds, 0.0) for one in found if one.seconds is not None]
    return min(limits) if limits else None


def given_up(frame: Frame, task_id: str) -> None:
    """An absent task's time is over. Its record stays until its end is known, to kill it should it return.

    Not while we have no answer about it on this connection: it may have come back and we were not there to hear it.
    """
    task = frame.state.tasks.get(task_id)
    if (
        task is None
        or task.state not in AWAY
        or not frame.state.connected
        or task_id in frame.state.questions
    ):
        return
    if _machine_replaced(frame, task):
        message = f"node {task.node} came back as another agent"
        report(frame, TaskReported(task.id, TaskState.GONE, task.agent_id, message=message))
        return
    patience = patience_of(frame, task)
    if patience is None or frame.now < task.away_since + patience:
        return
    pod = speaker(frame, task)
    if task.kill is not None or pod is None:
        if (
            task.state is TaskState.UNKNOWN
        ):  # the master never heard of it, or forgot it: nothing is left to ask
            report(frame, TaskReported(task.id, TaskState.LOST, message="the master does not know the task"))
        return
    if pod.uid in frame.state.pending:
        return
    frame.publish(pod, "Warning", "NodeLost", f"node {task.node} was away too long: replacing the pod")
    if pod.restart == "Never" and task.started_at > 0:
        frame.save_pod(pod, Ended("NodeLost", f"node {task.node} cannot be reached"))
        frame.state.pods[pod.uid] = replace(pod, done=True)
        supersede(frame, task)
    else:
        frame.enqueue(pod.uid)


def _machine_replaced(frame: Frame, task: Task) -> bool:
    """Another agent has registered with the hostname and port of a task's: Mesos, too, takes the old one for removed
    then (`src/master/master.cpp`, `_registerSlave`), and it never comes back."""
    node = frame.state.nodes.get(task.node)
    if node is None or node.agent_id in {"", task.agent_id} or task.agent_id in frame.state.registered:
        return False
    return node.ready


def supersede(frame: Frame, task: Task) -> None:
    """Nobody waits for an absent task any more: should it come back, it is killed and the newer wins. One that only
    gives way to the new one runs on until that runs (`_end_moved`)."""
    if gives_way(task):
        frame.save_task(replace(task, superseded=True))
        return
    frame.save_task(replace(task, superseded=True, kill=task.kill or Kill(frame.now, 0.0)))
    frame.timer(frame.state.policy.away, Alarm.AWAY, task.id)


def gives_way(task: Task) -> bool:
    """It runs, and its pod may be started elsewhere before it ends."""
    return task.moving and task.kill is None and task.state in LIVE


def _end_moved(frame: Frame, uid: str) -> None:
    """A pod that moved runs elsewhere now: where it was, it ends."""
    new, pod = frame.state.task_of(uid), frame.state.pods.get(uid)
    if new is None or new.state is not TaskState.RUNNING or new.superseded:
        return
    for old in frame.state.tasks_of(uid):
        if old.superseded and gives_way(old):
            want_kill(frame, old, pod.grace if pod is not None else 0.0)


def _keep_oldest(frame: Frame, task: Task) -> bool:
    """A task that was replaced came back, and its pod wants it rather than the replacement, which is ended."""
    state = frame.state
    pod, newer = state.pods.get(task.uid), state.task_of(task.uid)
    if pod is None or not pod.keep_oldest or pod.deletion is not None or pod.done or not task.superseded:
        return False
    if newer is not None and newer.id != task.id:
        if newer.superseded:
            return False  # it was decided before
        if newer.over:
            frame.drop_task(newer)
        else:
            frame.save_task(replace(newer, superseded=True))
            want_kill(frame, state.tasks[newer.id], pod.grace)
    state.current[task.uid] = task.id
    frame.save_task(replace(task, superseded=False, kill=None))
    state.pods[pod.uid] = replace(pod, node=task.node)
    state.pending.pop(pod.uid, None)
    frame.save_pod(pod, Bound(task.id, task.node))
    frame.save_pod(pod, Reported(None, PHASE[task.state]))
    frame.publish(pod, "Normal", "NodeBack", f"node {task.node} is back: keeping the pod there, as it asks")
    return True


def _returned(frame: Frame, task: Task) -> None:
    if _keep_oldest(frame, task):
        return
    if task.kill is not None:
        send_kill(frame, task)
        return
    pod = speaker(frame, task)
    if pod is not None:
        frame.state.pending.pop(pod.uid, None)
        frame.save_pod(pod, Back())
        frame.publish(pod, "Normal", "NodeBack", f"node {task.node} is back")


# ---- the end


def _settle(frame: Frame, task: Task, event: TaskReported) -> None:
    pod = speaker(frame, task)
    if pod is None:
        frame.drop_task(task)
        left = frame.state.pods.get(task.uid)
        if left is not None and left.deletion is not None and task.uid not in frame.state.by_pod:
            frame.remove_pod(left)
        frame.demand = frame.demand or task.uid in frame.state.pending
        return
    if pod.deletion is not None:
        frame.remove_pod(pod)
        return
    verdict = judge(task, event, pod.restart)
    if event.state is TaskState.DROPPED and event.reason == "AGENT_DRAINING":
        executors.dismiss(frame, task.agent_id)
    if verdict.executor_dead:
        frame.drop_executor(task.executor_id)
    if verdict.agent_strikes:
        _strike(frame, task, verdict.agent_strikes)
    if verdict.fate in {Fate.SUCCEEDED, Fate.FAILED}:
        _finish(frame, pod, task, event, verdict)
    else:
        _relaunch(frame, pod, task, verdict)


def _finish(frame: Frame, pod: Pod, task: Task, event: TaskReported, verdict: Verdict) -> None:
    """The record stays as long as the pod: it tells where the logs are."""
    phase = "Succeeded" if verdict.fate is Fate.SUCCEEDED else "Failed"
    status = dict(event.pod_status or {})
    if status.get("phase") not in FINAL_PHASES:
        status["phase"] = phase
        if verdict.reason:
            status.update(reason=verdict.reason, message=verdict.message)
    if event.pod_status is None and verdict.fate is Fate.FAILED:
        frame.save_pod(pod, Ended(verdict.reason, verdict.message))
    else:
        frame.save_pod(pod, Reported(status if event.pod_status is not None else None, phase))
    frame.state.pods[pod.uid] = replace(pod, done=True)
    frame.state.pending.pop(pod.uid, None)
    frame.save_task(replace(task, ended_at=frame.now))


def _relaunch(frame: Frame, pod: Pod, task: Task, verdict: Verdict) -> None:
    """The record of the attempt that ended stays until the next one is saved: it holds the count of attempts."""
    stable = task.started_at > 0 and frame.now - task.started_at >= backoff.STABLE_SECONDS
    failures = 0 if stable else task.failures
    if verdict.fate is Fate.RETRY:
        failures += 1
    ended = replace(task, failures=failures, ended_at=frame.now)
    frame.save_task(ended)
    frame.save_pod(pod, Requeued(task.asked_node, verdict.reason, verdict.message))
    frame.publish(pod, "Warning", verdict.reason, f"{verdict.message}; the pod is launched again")
    frame.state.pods[pod.uid] = replace(pod, node=task.asked_node)
    frame.enqueue(pod.uid, not_before(ended) if verdict.fate is Fate.RETRY else 0.0)


def not_before(task: Task) -> float:
    """When the pod of an attempt that is over may be launched again."""
    return task.ended_at + backoff.relaunch_delay(task.failures) if task.failures else 0.0


def _strike(frame: Frame, task: Task, count: int) -> None:
    """The agent is left alone for a while. Tasks launched before its last strike ended by the same incident."""
    state = frame.state
    agent = state.agents.get(task.agent_id)
    if agent is None or task.launched_at < agent.struck_at:
        return
    strikes = agent.strikes + count
    delay = backoff.agent_delay(strikes)
    state.agents[agent.id] = replace(
        agent, strikes=strikes, struck_at=frame.now, avoid_until=frame.now + delay
    )
    if delay:
        frame.timer(delay, Alarm.QUEUE)


def aborted(frame: Frame, event: LaunchAborted) -> None:
    """The launch was not saved, because its pod was deleted meanwhile: the watch will tell what is to be done."""
    task = frame.state.tasks.get(event.task_id)
    if task is not None:
        frame.drop_task(task)
