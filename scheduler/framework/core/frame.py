"""One frame: the events handled together, the time they share, and the effects they led to.

Every change of a record goes through here, so that the state and what is saved cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scheduler.framework.core.effects import (
    DropExecutor,
    DropTask,
    Effect,
    PodChange,
    Publish,
    RemovePod,
    SaveExecutor,
    SavePod,
    SaveTask,
)
from scheduler.framework.core.entities import Executor, Pod, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.placement import Want
from scheduler.framework.core.state import Alarm, State, Waiting


@dataclass(slots=True)
class Frame:
    """`token`: some random letters for new executor ids. `demand`: something new wants offers."""

    state: State
    now: float
    token: str
    effects: list[Effect] = field(default_factory=list)
    demand: bool = False
    explained: dict[Want, str] = field(default_factory=dict)

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def save_task(self, task: Task, *, binds: bool = False) -> None:
        before = self.state.tasks.get(task.id)
        if before is not None and task.newest < before.newest:
            task = replace(task, newest=before.newest)
        if before is not None and task.over and before.state not in {TaskState.STAGED, task.state}:
            self.state.empty_since[task.executor_id] = self.now  # of the last one that ended this counts
        self.state.put_task(task)
        self.emit(SaveTask(task, binds))

    def drop_task(self, task: Task) -> None:
        """The count of attempts lives on in another record of the pod, if there is one."""
        left = [one for one in self.state.tasks_of(task.uid) if one.id != task.id]
        if left and self.state.attempts[task.uid] > max(max(one.attempt, one.newest) for one in left):
            self.save_task(replace(left[-1], newest=self.state.attempts[task.uid]))
        self.state.drop_task(task.id)
        self.emit(DropTask(task.id))

    def save_pod(self, pod: Pod, change: PodChange) -> None:
        self.emit(SavePod(pod, change))

    def remove_pod(self, pod: Pod) -> None:
        """The object leaves the store; records of attempts that are over leave with it."""
        for task in self.state.tasks_of(pod.uid):
            if task.over:
                self.drop_task(task)
        self.state.pods.pop(pod.uid, None)
        self.state.pending.pop(pod.uid, None)
        self.state.removed.add(pod.uid)
        self.emit(RemovePod(pod))

    def save_executor(self, executor: Executor) -> None:
        self.state.put_executor(executor)
        self.state.empty_since[executor.id] = self.now
        self.emit(SaveExecutor(executor))

    def drop_executor(self, executor_id: str) -> None:
        if self.state.drop_executor(executor_id):
            self.emit(DropExecutor(executor_id))

    def publish(self, pod: Pod, type_: str, reason: str, message: str) -> None:
        self.emit(Publish(pod.uid, pod.namespace, pod.name, type_, reason, message))

    def timer(self, after: float, alarm: Alarm, subject: str = "") -> None:
        self.state.set_timer(self.now + after, alarm, subject)

    def enqueue(self, uid: str, not_before: float = 0.0) -> None:
        """The pod wants a (new) launch, not before then."""
        state = self.state
        if uid in state.pending:
            return
        start = max(not_before, self.now)
        state.pending[uid] = Waiting(not_before, since=start)
        state.set_timer(start + state.policy.report_after, Alarm.REPORT, uid)
        if not_before > self.now:
            state.set_timer(not_before, Alarm.QUEUE, uid)
        else:
            self.demand = True
