"""The one function of the core: events in, effects out, in the order in which they are performed.

`step` is the only writer of a State. It knows no clock and no randomness: both come in as arguments. A frame may hold
many events; what they lead to is saved in one commit and spoken afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from scheduler.framework.core import desired, evictions, maintenance, nodes, offers, reconcile, tasks, volumes
from scheduler.framework.core.effects import Effect, Halt, SaveFramework, in_order
from scheduler.framework.core.events import (
    AgentLost,
    AgentsListed,
    ClaimChanged,
    ClaimGone,
    Disconnected,
    Event,
    ExecutorLost,
    InverseOffersReceived,
    LaunchAborted,
    Loaded,
    MaintenanceListed,
    MasterError,
    NodeChanged,
    NodeGone,
    OfferRescinded,
    OffersReceived,
    PodChanged,
    PodGone,
    QuotaListed,
    Subscribed,
    TaskReported,
    Tick,
)
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.state import Alarm, State


def step(state: State, events: Sequence[Event], now: float, token: str) -> list[Effect]:
    """Handles events and everything whose time has come; `now` in seconds since the epoch, `token`: random letters."""
    frame = Frame(state, now, token)
    for event in events:
        _handle(frame, event)
    for alarm, subject in state.due(now):
        _wake(frame, alarm, subject)
    maintenance.settle(frame)
    volumes.settle(frame)
    offers.match(frame)
    return in_order(frame.effects)


def _handle(frame: Frame, event: Event) -> None:  # noqa: C901 - one line for each event
    match event:
        case PodChanged(pod):
            desired.changed(frame, pod)
        case TaskReported():
            volumes.heard(frame, event)
            tasks.report(frame, event)
        case Loaded():
            desired.loaded(frame)
            volumes.loaded(frame)
        case PodGone(uid):
            desired.gone(frame, uid)
        case NodeChanged(node):
            nodes.changed(frame, node)
        case NodeGone(name):
            nodes.gone(frame, name)
            volumes.node_deleted(frame, name)
        case ClaimChanged(claim):
            volumes.claim_changed(frame, claim)
        case ClaimGone(uid):
            volumes.claim_gone(frame, uid)
        case Subscribed(framework_id):
            _subscribed(frame, framework_id)
        case Disconnected():
            frame.state.connected = False
            frame.state.offers.clear()
        case OffersReceived(many):
            offers.receive(frame, many)
        case OfferRescinded(offer_id):
            frame.state.offers.pop(offer_id, None)
        case InverseOffersReceived(inverse):
            maintenance.asked(frame, inverse)
        case LaunchAborted():
            tasks.aborted(frame, event)
        case ExecutorLost(agent_id, executor_id):
            nodes.executor_lost(frame, agent_id, executor_id)
        case AgentLost(agent_id):
            nodes.lost(frame, agent_id)
        case AgentsListed():
            nodes.listed(frame, event)
        case MaintenanceListed():
            maintenance.listed(frame, event)
        case QuotaListed(limits):
            offers.limited(frame, limits)
        case MasterError(message):
            frame.emit(Halt(message))
        case Tick():
            pass
        case _:
            assert_never(event)


def _wake(frame: Frame, alarm: Alarm, subject: str) -> None:
    match alarm:
        case Alarm.OVERDUE:
            reconcile.overdue(frame, subject)
        case Alarm.KILL:
            tasks.kill_again(frame, subject)
        case Alarm.AWAY:
            tasks.given_up(frame, subject)
        case Alarm.QUEUE:
            frame.demand = True
        case Alarm.REPORT:
            offers.report(frame, subject)
        case Alarm.RECONCILE:
            reconcile.ask_due(frame)
        case Alarm.IMPLICIT:
            reconcile.ask_all(frame)
        case Alarm.REVIVE:
            offers.revive_again(frame, subject)
        case Alarm.TURN:
            pass  # the end of the frame goes on with the pods that the last one did not get to
        case Alarm.EVICT:
            evictions.due(frame, subject)
        case Alarm.MAINTENANCE:
            maintenance.due(frame, subject)
        case _:
            assert_never(alarm)


def _subscribed(frame: Frame, framework_id: str) -> None:
    """Nothing that was offered before counts. A new framework id is taken only when there is nothing to lose by it."""
    state = frame.state
    if framework_id != state.framework_id:
        if state.tasks or state.framework_id:
            known = state.framework_id or "an id that is not in the store"
            frame.emit(Halt(f"Mesos calls this framework {framework_id}, but its tasks belong to {known}"))
            return
        state.framework_id = framework_id
        frame.emit(SaveFramework(framework_id))
    state.connected = True
    state.offers.clear()
    state.left.clear()
    for asking in state.asking.values():
        asking.suppressed, asking.returned = False, True
    frame.demand = True
    reconcile.subscribed(frame)
    state.kills.clear()
    for task in list(state.tasks.values()):
        tasks.send_kill(frame, task)
