"""What is done with offers: used together, or given back at once. Nothing is held over a frame.

All offers of an agent to one role go into one ACCEPT with all launches there. Left over in it: hidden for no time when
pods still wait, for long when none does. What fits nothing is declined for long: the filter hides it only until
there is more (`RefusedOfferFilter`), or until a REVIVE. A role that no pod waits for is suppressed; a new pod
revives it, and offers come within milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from scheduler.framework.core import desired, executors, maintenance, nodes, placement, tasks, volumes
from scheduler.framework.core.backoff import grow
from scheduler.framework.core.claims import Held
from scheduler.framework.core.effects import (
    Accept,
    Bound,
    Decline,
    Launch,
    Revive,
    Suppress,
    Unschedulable,
)
from scheduler.framework.core.entities import Executor, Node, Offer, Pod, Task
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import LIVE
from scheduler.framework.core.placement import Candidate, Planner, Topology, Want
from scheduler.framework.core.state import Alarm, Asking, Left, State
from scheduler.framework.core.vectors import ZERO, Vector, join


def receive(frame: Frame, offers: Sequence[Offer]) -> None:
    """New offers are held until the end of the frame."""
    for offer in offers:
        frame.state.offers[offer.id] = offer
        nodes.offered(frame, offer)
        executors.listed(frame, offer)
        maintenance.offered(frame, offer)


def match(frame: Frame) -> None:
    """The end of every frame: offers are answered, and for each role more are asked for or none."""
    state = frame.state
    if not state.connected:
        return
    if state.offers:
        _answer(frame)
        if state.offers:  # kept for a turn that goes on
            return
    wanted = volumes.wanting(state) | _waiting_roles(frame)
    revived, suppressed = [], []
    for role, asking in state.asking.items():
        if role not in wanted:
            if not asking.suppressed:
                asking.suppressed = True
                suppressed.append(role)
        elif frame.demand and (asking.suppressed or asking.returned):
            asking.revives = 0
            revived.append(role)
    if suppressed:
        frame.emit(Suppress(tuple(suppressed)))
    if revived:
        _revive(frame, revived)


def _waiting_roles(frame: Frame) -> set[str]:
    """Roles that some pod waits for; most pods are not even looked at."""
    state = frame.state
    found: set[str] = set()
    for uid in _due(frame):
        found.add(state.role_of(state.pods[uid].needs))
        if len(found) >= len(state.asking):
            break
    return found


def _due(frame: Frame, uids: Iterable[str] | None = None) -> Iterator[str]:
    """Pods that may be launched now: not those whose former task runs, or may run for all we have heard."""
    state = frame.state
    claimed: set[str] = set()
    for uid in list(state.pending) if uids is None else uids:
        entry = state.pending.get(uid)
        if entry is None or entry.not_before > frame.now:
            continue
        if any(_holds(state, one) for one in state.by_pod.get(uid, ())):
            continue
        if volumes.may_go(state, uid, claimed):
            yield uid


def _holds(state: State, task_id: str) -> bool:
    """A task that keeps its pod from another launch."""
    task = state.tasks[task_id]
    return (task.state in LIVE and not tasks.gives_way(task)) or task_id in state.questions


def _revive(frame: Frame, roles: Sequence[str]) -> None:
    """Filters end, everything free is offered again: what was known to be free is no longer."""
    state = frame.state
    for role in roles:
        asking = state.asking[role]
        asking.suppressed = asking.returned = False
        for left in state.left.values():
            left.pop(role, None)
        asking.revives += 1
        asking.revived_at = frame.now
        delay = grow(state.policy.revive_first, asking.revives, state.policy.revive_max)
        asking.next_revive = frame.now + delay
        frame.timer(delay, Alarm.REVIVE, role)
    frame.emit(Revive(tuple(roles)))


def revive_again(frame: Frame, role: str) -> None:
    """Pods still wait: now and then ask for everything, in case a filter hides what would do."""
    state = frame.state
    asking = state.asking.get(role)
    if asking is None or not state.connected or frame.now < asking.next_revive:
        return
    waiting = any(state.role_of(state.pods[uid].needs) == role for uid in _due(frame))
    if waiting or role in volumes.wanting(state):
        _revive(frame, [role])


def _answer(frame: Frame) -> None:
    """Role by role, because one ACCEPT may use offers to one role only."""
    state = frame.state
    by_role: dict[str, dict[str, list[Offer]]] = {}
    alive: dict[str, set[str]] = {}
    for offer in state.offers.values():
        by_role.setdefault(offer.role, {}).setdefault(offer.agent_id, []).append(offer)
        if offer.agent_id in state.executors_of:
            alive.setdefault(offer.agent_id, set()).update(offer.executors)
    state.offers = {}
    for agent_id, listed in alive.items():
        _forget_executors(frame, agent_id, listed)
    wants = _turns(frame, by_role)
    declined: list[str] = []
    for role, by_agent in by_role.items():
        if role in state.asking:
            state.asking[role].returned = True
            turn = _use_spare(frame, role, by_agent, wants.get(role, ()))
            declined += _answer_role(frame, role, by_agent, turn)
        else:  # of a role that was ours before the last restart
            declined += [offer.id for offers in by_agent.values() for offer in offers]
    state.touched.clear()
    if declined:
        frame.emit(Decline(tuple(declined), state.policy.long_filter))


def _turns(frame: Frame, roles: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The pods that get a try at the offers, by role: those that the last frame left over, or else all."""
    state = frame.state
    found = {
        role: state.asking[role].turn for role in roles if role in state.asking and state.asking[role].turn
    }
    if len(found) < len(roles):
        fresh: dict[str, list[str]] = {}
        for uid in _due(frame):
            fresh.setdefault(state.role_of(state.pods[uid].needs), []).append(uid)
        found = {role: tuple(uids) for role, uids in fresh.items()} | found
    return found


def _use_spare(
    frame: Frame, role: str, by_agent: dict[str, list[Offer]], turn: tuple[str, ...]
) -> tuple[str, ...]:
    """Pods that may run on revocable resources go there first. Returns the pods that are left, which may include some
    of those; the offers that were used leave `by_agent`. What else these held comes again in the next cycle."""
    state = frame.state
    spare = {one.agent_id for many in by_agent.values() for one in many if one.spare is not ZERO}
    offering = {name: by_agent[name] for name in sorted(spare)}
    able = [uid for uid in _due(frame, turn) if state.pods[uid].needs.revocable] if offering else []
    if not able:
        return turn
    made = [_candidate(frame, name, role, many, revocable=True) for name, many in offering.items()]
    planner = placement.Planner(
        [one for one in made if state.agents[one.agent_id].avoid_until <= frame.now], state.policy.placement
    )
    planner.run(
        (_want(state, uid) for uid in able),
        _topology(state),
        most_pods=state.policy.frame_pods,
        most_work=state.policy.frame_work,
    )
    placed = {uid for one in planner.candidates for uid in one.uids}
    left = tuple(uid for uid in turn if uid not in placed)
    for one in planner.candidates:
        if one.uids:
            ordinary = _candidate(frame, one.agent_id, role, by_agent[one.agent_id])
            state.left.setdefault(one.agent_id, {})[role] = Left(ordinary.free, one.ports)
            ids = tuple(offer.id for offer in by_agent.pop(one.agent_id))
            refuse = 0.0 if left else state.policy.long_filter
            frame.emit(Accept(one.agent_id, ids, _bind(frame, one, role, revocable=True), refuse, role))
    return left


def _answer_role(
    frame: Frame, role: str, by_agent: Mapping[str, list[Offer]], turn: tuple[str, ...]
) -> list[str]:
    """Returns the ids of offers that nobody uses."""
    state, asking = frame.state, frame.state.asking[role]
    planner = _kept_planner(state, asking, by_agent)
    doomed: dict[str, tuple[Held, ...]] = {}
    claiming = False
    if planner is None:
        made = [_candidate(frame, agent_id, role, offers) for agent_id, offers in by_agent.items()]
        usable = [one for one in made if state.agents[one.agent_id].avoid_until <= frame.now]
        stock = _stock(frame, role, made, by_agent)
        topology = _topology(state)
        claiming = _place_claims(frame, turn, usable, stock, topology)
        doomed = {one.agent_id: stock[one.agent_id].doomed for one in usable if stock[one.agent_id].doomed}
        planner = placement.Planner(usable, state.policy.placement, topology)
        for one in made:
            state.left.setdefault(one.agent_id, {})[role] = Left(one.free, one.ports)
    short = _fill(frame, asking, turn, planner) or claiming
    used = {one.agent_id for one in planner.candidates if one.uids or one.agent_id in doomed}
    for one in planner.candidates:
        if one.agent_id in used:
            state.left[one.agent_id][role] = Left(one.free, one.ports)
            ids = tuple(offer.id for offer in by_agent[one.agent_id])
            gone = doomed.get(one.agent_id, ())
            refuse = 0.0 if short or gone else state.policy.long_filter
            frame.emit(Accept(one.agent_id, ids, _bind(frame, one, role), refuse, role, gone))
    rest = {offer.id: offer for name, offers in by_agent.items() if name not in used for offer in offers}
    if not asking.turn:
        asking.planner, asking.kept = None, frozenset()
        return list(rest)
    planner.go_on(used)
    asking.planner, asking.kept, asking.stamp = planner, frozenset(rest), _stamp(state)
    state.offers |= rest
    return []


def _stock(
    frame: Frame, role: str, made: Iterable[Candidate], by_agent: Mapping[str, list[Offer]]
) -> dict[str, volumes.Stock]:
    return {one.agent_id: volumes.stock(frame, one.node.name, role, by_agent[one.agent_id]) for one in made}


def _place_claims(
    frame: Frame,
    turn: Iterable[str],
    usable: Sequence[Candidate],
    stock: Mapping[str, volumes.Stock],
    topology: Topology,
) -> bool:
    """Pods with claims, one by one: they go only where their volumes are or can be made. True: some fit nowhere."""
    short = False
    for uid in _due(frame, [uid for uid in turn if frame.state.pods[uid].needs.claims]):
        want = _want(frame.state, uid)
        fitting = [one for one in usable if not stock[one.agent_id].lacks(want.needs)]
        planner = placement.Planner(fitting, frame.state.policy.placement)
        short |= bool(planner.run([want], topology).unplaced)
        for one in fitting:
            if uid in one.uids[-1:]:
                stock[one.agent_id].take(want.needs)
    return short


def _kept_planner(state: State, asking: Asking, by_agent: Mapping[str, list[Offer]]) -> Planner | None:
    """That of the last frame, if it still says how things are."""
    planner = asking.planner
    if not isinstance(planner, Planner) or not by_agent.keys().isdisjoint(state.touched):
        return None
    if asking.kept != {offer.id for offers in by_agent.values() for offer in offers}:
        return None
    if asking.stamp == _stamp(state):
        return planner
    return planner if all(state.nodes.get(one.node.name) is one.node for one in planner.candidates) else None


def _stamp(state: State) -> tuple[int, int]:
    """Another one when any Node changed, came or went."""
    return state.node_changes, len(state.nodes)


def _fill(frame: Frame, asking: Asking, turn: tuple[str, ...], planner: Planner) -> bool:
    """Places pods; True when some fit nowhere or are still to come. So many that the frame would become long have
    several: the pods that were not looked at have the next one, and the offers that nobody took are kept for them."""
    state, policy = frame.state, frame.state.policy
    goes_on = bool(asking.turn)
    outcome = planner.run(
        (_want(state, uid) for uid in _due(frame, turn) if not state.pods[uid].needs.claims),
        _topology(state, planner),
        most_pods=policy.frame_pods,
        most_work=policy.frame_work,
    )
    asking.short = bool(outcome.unplaced) or (goes_on and asking.short)
    asking.news = frame.demand or (goes_on and asking.news)
    asking.turn = turn[turn.index(outcome.postponed[0]) :] if outcome.postponed else ()
    if asking.turn:
        frame.timer(0.0, Alarm.TURN)
    elif goes_on:
        frame.demand = asking.news
    return bool(asking.turn) or asking.short


def _want(state: State, uid: str) -> Want:
    pod = state.pods[uid]
    return Want(uid, desired.needs_of(state, pod), pod.namespace, pod.labels)


def _topology(state: State, planner: Planner | None = None) -> Topology:
    """That of the planner's last frame, if nothing but its own placements changed since then."""
    changed = state.residents.refresh(state.resident)
    stamp = _stamp(state)
    if planner is not None and planner.topology is not None and planner.topology.stamp == stamp:
        expected = planner.recent
        if all(state.residents.nodes_of(uid) == (expected.get(uid),) for uid in changed):
            return planner.topology
    return Topology(state.nodes, state.residents, stamp)


def _forget_executors(frame: Frame, agent_id: str, listed: set[str]) -> None:
    """An instance that the master does not list and that has no task left is dead."""
    state = frame.state
    busy = state.hosted.get(agent_id, {})
    for executor_id in sorted(state.executors_of.get(agent_id, set()) - listed - busy.keys()):
        frame.drop_executor(executor_id)


def _candidate(
    frame: Frame, agent_id: str, role: str, offers: list[Offer], *, revocable: bool = False
) -> Candidate:
    node = frame.state.nodes[frame.state.agents[agent_id].node]
    first = offers[0]
    total, ports, listed = first.spare if revocable else first.amounts, first.ports, first.executors
    for offer in offers[1:]:
        total = total + (offer.spare if revocable else offer.amounts)
        ports, listed = join(ports, offer.ports), listed + offer.executors
    left = Left(total, ports)
    return _make(frame, node, agent_id, role, left, listed, offers, revocable=revocable)


def _make(
    frame: Frame,
    node: Node,
    agent_id: str,
    role: str,
    left: Left,
    listed: Collection[str],
    offers: Sequence[Offer] = (),
    *,
    revocable: bool = False,
) -> Candidate:
    state = frame.state
    executor = state.executor_on(agent_id, role, frame.now, revocable=revocable)
    runs = executor is not None and (
        executor.id in listed or (not offers and executors.has_started(state, executor))
    )
    return Candidate(
        agent_id,
        node,
        left.free,
        left.ports,
        overhead=ZERO if runs else state.policy.executor,
        instance=state.policy.executor,
        executor=executor.id if executor is not None else "",
        room=state.policy.max_pods - sum(state.hosted.get(agent_id, {}).values()),
        last_resort=any(one.unavailable_at is not None for one in offers),
    )


def _bind(frame: Frame, one: Candidate, role: str, *, revocable: bool = False) -> tuple[Launch, ...]:
    """Records every launch; it is saved before the ACCEPT that this is for. The shared executor is the one that
    placement reckoned with: another would have to be paid for."""
    launches = []
    shared = frame.state.executors.get(one.executor)
    for uid in one.uids:
        if frame.state.pods[uid].needs.dedicated:
            executor = _instance(frame, one.agent_id, role, uid, revocable)
        else:
            executor = shared = shared or _instance(frame, one.agent_id, role, "", revocable)
        launches.append(_launch(frame, uid, one.node.name, executor))
    return tuple(launches)


def _instance(frame: Frame, agent_id: str, role: str, uid: str, revocable: bool) -> Executor:
    """A new executor, shared or for one pod alone. Its id was never used before."""
    version = frame.state.policy.executor_version
    executor_id = f"gantry.{version}.{frame.token}{frame.state.fresh()}"
    executor = Executor(executor_id, agent_id, version, role, uid, revocable)
    frame.save_executor(executor)
    return executor


def _launch(frame: Frame, uid: str, node: str, executor: Executor) -> Launch:
    state = frame.state
    pod, before = state.pods[uid], state.task_of(uid)
    needs = desired.needs_of(state, pod)
    if before is not None and before.over:
        frame.drop_task(before)
    elif before is not None:
        tasks.supersede(frame, before)
    uses = volumes.use(frame, pod, node, executor.role) if needs.claims else ()
    task = Task(
        id=f"{uid}.{state.attempts.get(uid, 0) + 1}",
        uid=uid,
        namespace=pod.namespace,
        name=pod.name,
        attempt=state.attempts.get(uid, 0) + 1,
        agent_id=executor.agent_id,
        node=node,
        executor_id=executor.id,
        asked_node=needs.node,
        launched_at=frame.now,
        failures=before.failures if before is not None else 0,
        volumes=tuple(one.volume.id for one in uses),
    )
    frame.save_task(task, binds=True)
    volumes.launched(state, task)
    frame.save_pod(pod, Bound(task.id, node, moves=before is not None and tasks.gives_way(before)))
    frame.publish(pod, "Normal", "Scheduled", f"Successfully assigned {pod.key} to {node}")
    state.pods[uid] = replace(pod, node=node)
    waited = frame.now - state.pending.pop(uid).since
    frame.timer(state.policy.launch_overdue, Alarm.OVERDUE, task.id)
    return Launch(task, executor, needs.amounts - Vector(disk=needs.new_disk), needs.ports, uses, waited)


# ---- why a pod waits


def report(frame: Frame, uid: str) -> None:
    """Says why a pod still waits: at once when that changed, else now and then."""
    state = frame.state
    entry, pod = state.pending.get(uid), state.pods.get(uid)
    if entry is None or pod is None or entry.not_before > frame.now:
        return
    asking = state.asking.get(state.role_of(pod.needs))
    if asking and frame.now < asking.revived_at + state.policy.report_after:  # its offers are still to come
        frame.timer(state.policy.report_after, Alarm.REPORT, uid)
        return
    message = volumes.blocked(state, pod) or _why(frame, _want(state, uid))
    if message is None:
        frame.timer(state.policy.report_after / 10, Alarm.REPORT, uid)
        return
    message = _limit(state, pod, message)
    changed = message != entry.said
    if changed or frame.now - entry.said_at >= state.policy.report_again:
        frame.publish(pod, "Warning", "FailedScheduling", message)
        entry.said, entry.said_at = message, frame.now
    if changed and not any(tasks.gives_way(one) for one in state.tasks_of(uid)):
        frame.save_pod(pod, Unschedulable(message))
    frame.timer(state.policy.report_again / 6, Alarm.REPORT, uid)


def limited(frame: Frame, limits: Mapping[str, str]) -> None:
    """Quota that Mesos' operators set: the allocator offers a role no more than that."""
    frame.state.limits = dict(limits)


def _limit(state: State, pod: Pod, message: str) -> str:
    """What may be the reason behind offers that are too small."""
    role = state.role_of(pod.needs)
    limit = state.limits.get(role)
    if limit is None or not any(word in message for word in ("Insufficient", "available to schedule")):
        return message
    return f"{message.rstrip('.')}. Mesos role {role} has a quota limit of {limit}, its other tasks included."


def _why(frame: Frame, want: Want) -> str | None:
    """None: enough was looked at in this frame."""
    state, needs = frame.state, want.needs
    if not state.connected:
        return "not connected to the Mesos master"
    role = state.role_of(needs)
    if role not in state.asking:
        return f"role {role} is not one of this framework's: {', '.join(state.asking)} (see --roles)"
    topology = _topology(state)
    key = want._replace(uid="") if topology.guards else Want("", needs)
    if key not in frame.explained:
        if len(frame.explained) * len(state.nodes) > state.policy.frame_work // 4:
            return None
        known = {}
        for node in state.nodes.values():
            if node.agent_id in state.agents:
                left = state.left.get(node.agent_id, {}).get(role, Left())
                known[node.name] = _make(frame, node, node.agent_id, role, left, ())
        frame.explained[key] = placement.explain(key, placement.all_nodes(state.nodes, known), topology)
    return frame.explained[key]
