"""The life of volumes: made where the first pod of a claim goes, used by one task at a time, destroyed with the claim.

    claim ──first pod──▶ CREATING ──a task ran, or it was offered──▶ BOUND ──claim gone──▶ RELEASED ──▶ nothing
                             └──────offered without it: it was never made──▶ nothing

Operations have no feedback, so what is there is what offers show. That is why a record is kept until an offer of
its agent came without the volume, and why what carries our labels and has no record (a stray) is destroyed
after a grace. What carries other labels is never touched.

A node that is not there may come back with its volumes, so records of what was on it are kept. It does not when Mesos'
operators marked its agent gone, which every reconciliation with that agent says, or when somebody deleted the Node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scheduler.framework.core.claims import Claim, Held, Use, Volume, VolumeState
from scheduler.framework.core.effects import (
    DropVolume,
    Publish,
    Reconcile,
    ReleaseClaim,
    SaveClaim,
    SaveNode,
    SaveVolume,
)
from scheduler.framework.core.entities import Needs, Offer, Pod, Task
from scheduler.framework.core.events import TaskReported
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.state import Alarm, State
from scheduler.framework.core.vectors import Vector

CONFLICT = "node(s) had volume node affinity conflict"
TOO_SMALL = "node(s) did not have enough free storage"

PROBE = "gantry-volumes-of."
"""Begins the id of a task that never was, to ask Mesos about an agent by."""

_THERE = frozenset({TaskState.STARTING, TaskState.RUNNING, TaskState.KILLING})
_RAN = _THERE | {TaskState.FINISHED}


# ---- what users do


def claim_changed(frame: Frame, claim: Claim) -> None:
    """A claim as the watch tells it; its phase is ours to know."""
    storage = frame.state.storage
    storage.put_claim(claim)
    frame.demand = frame.demand or bool(storage.users.get(claim.key))


def claim_gone(frame: Frame, uid: str) -> None:
    """The object left the store: what was made for it must go."""
    storage = frame.state.storage
    storage.drop_claim(uid)
    volume = storage.volumes.get(storage.by_claim.get(uid, ""))
    if volume is not None and volume.state is not VolumeState.RELEASED:
        _save(frame, replace(volume, state=VolumeState.RELEASED))
        frame.demand = True


def pod_seen(state: State, pod: Pod) -> None:
    """Remembers who uses a claim."""
    for key in pod.needs.claims:
        state.storage.users.setdefault(key, set()).add(pod.uid)


def loaded(frame: Frame) -> None:
    """Takes up what a former run left: claims that vanished meanwhile, tasks that hold volumes."""
    state = frame.state
    for task in state.tasks.values():
        for one in task.volumes:
            if one not in state.storage.tasks or not task.over:
                state.storage.tasks[one] = task.id
    for volume in list(state.storage.volumes.values()):
        if volume.claim_uid not in state.storage.keys:
            claim_gone(frame, volume.claim_uid)


# ---- which pods may go, and where


def blocked(state: State, pod: Pod) -> str:
    """Why no node will do for a pod at present, in kube-scheduler's words; "" when one may."""
    storage = state.storage
    for key in pod.needs.claims:
        claim = storage.claims.get(key)
        name = key.partition("/")[2]
        if claim is None:
            return f'persistentvolumeclaim "{name}" not found'
        if claim.deleted:
            return f'persistentvolumeclaim "{name}" is being deleted'
        volume = storage.of_claim(claim)
        if volume is None:
            continue
        if volume.state is VolumeState.RELEASED or (
            volume.state is VolumeState.CREATING and not volume.lost and not in_use(state, volume)
        ):
            return f'persistentvolumeclaim "{name}": whether its volume was made is not known yet'
        if volume.lost:
            return f'persistentvolumeclaim "{name}" bound to volume "{volume.id}", whose node {volume.node} is gone'
        if in_use(state, volume):
            return f'persistentvolumeclaim "{name}" is in use by another pod'
    return ""


def in_use(state: State, volume: Volume) -> bool:
    """Whether a task that is not known to be over holds it."""
    task = state.tasks.get(state.storage.tasks.get(volume.id, ""))
    return task is not None and not task.over


def may_go(state: State, uid: str, taken: set[str]) -> bool:
    """Whether a waiting pod can be placed in this frame; of two pods with one claim (`taken`) only the first."""
    pod = state.pods.get(uid)
    if pod is None or not pod.needs.claims:
        return True
    if not taken.isdisjoint(pod.needs.claims) or blocked(state, pod):
        return False
    taken.update(pod.needs.claims)
    return True


def resolved(state: State, needs: Needs) -> Needs:
    """Needs with what the claims ask of a node: its volumes, or disk to make them of."""
    volumes: list[str] = []
    size, node = 0, ""
    for key in needs.claims:
        claim = state.storage.claims.get(key)
        volume = state.storage.of_claim(claim) if claim is not None else None
        if volume is not None:
            volumes.append(volume.id)
            node = volume.node
        elif claim is not None:
            size += claim.size
    if not volumes and not size:
        return needs
    amounts = needs.amounts + Vector(disk=size)
    return replace(needs, amounts=amounts, volumes=tuple(volumes), volume_node=node, new_disk=size)


@dataclass(slots=True)
class Stock:
    """The storage in the offers of one node to one role. `doomed`: to be destroyed. `raw`: disk to make volumes of."""

    volumes: frozenset[str]
    doomed: tuple[Held, ...]
    raw: int

    def lacks(self, needs: Needs) -> str:
        """What is missing for a pod, in kube-scheduler's words; "" for nothing."""
        if not self.volumes.issuperset(needs.volumes):
            return CONFLICT
        return TOO_SMALL if needs.new_disk > self.raw else ""

    def take(self, needs: Needs) -> None:
        self.volumes -= set(needs.volumes)
        self.raw -= needs.new_disk


def use(frame: Frame, pod: Pod, node: str, role: str) -> tuple[Use, ...]:
    """The volumes of a launch; those of claims that have none are recorded, to be made."""
    storage, found = frame.state.storage, []
    for key in pod.needs.claims:
        claim = storage.claims[key]
        volume = storage.of_claim(claim)
        if volume is not None:
            found.append(Use(volume, create=False))
            continue
        made = Volume(
            id=f"pvc-{claim.uid}-{frame.token}{frame.state.fresh()}",
            claim_uid=claim.uid,
            namespace=claim.namespace,
            claim=claim.name,
            size=claim.size,
            node=node,
            role=role,
            modes=claim.modes,
        )
        _save(frame, made)
        found.append(Use(made, create=True))
    return tuple(found)


def launched(state: State, task: Task) -> None:
    """The task holds its volumes from now on."""
    for one in task.volumes:
        state.storage.tasks[one] = task.id


# ---- what Mesos shows


def reported(frame: Frame, task: Task) -> None:
    """A task that came as far as its executor had its volumes; one that is there has them still."""
    for one in task.volumes:
        volume = frame.state.storage.volumes.get(one)
        if volume is None or volume.state is VolumeState.RELEASED:
            continue
        ran = task.state in _RAN or task.started_at > 0
        if (ran and volume.state is VolumeState.CREATING) or (volume.lost and task.state in _THERE):
            _confirm(frame, volume)


def stock(frame: Frame, node: str, role: str, offers: Iterable[Offer]) -> Stock:
    """What the offers of a node to a role have of storage; all that is known of volumes there is brought up to date."""
    held: list[Held] = []
    raw = 0
    for offer in offers:
        held += offer.held
        raw += offer.raw_disk
    return offered(frame, node, role, held, raw)


def offered(frame: Frame, node: str, role: str, held: Iterable[Held], raw: int) -> Stock:
    """All offers of a node to a role, answered together: what they show exists, and what they do not show does not."""
    storage, there = frame.state.storage, set(held)
    if not there and node not in storage.by_node:
        return Stock(frozenset(), (), raw)
    usable, doomed = [], []
    for one in sorted(there, key=lambda each: (each.id, each.claim_uid)):
        volume = storage.volumes.get(one.id)
        if volume is None:
            if _is_stray(frame, node, one):
                doomed.append(one)
            continue
        if volume.node != node:  # the machine's Node has another name now
            storage.drop(volume.id)
            volume = replace(volume, node=node)
        if volume.state is VolumeState.RELEASED:
            doomed.append(one)
            storage.put(volume)
        else:
            _confirm(frame, volume)
            usable.append(volume.id)
    _forget(frame, node, role, there)
    return Stock(frozenset(usable), tuple(doomed), raw)


def _is_stray(frame: Frame, node: str, one: Held) -> bool:
    """Whether something of ours that has no record has been there for long enough."""
    grace = frame.state.policy.stray_grace
    since = frame.state.storage.strays.get((node, one))
    if since is None:
        since = frame.state.storage.strays[node, one] = frame.now
        frame.timer(grace, Alarm.REVIVE, one.role)
    return frame.now - since >= grace


def _forget(frame: Frame, node: str, role: str, there: set[Held]) -> None:
    """What was not offered and is in nobody's hands does not exist."""
    storage, ids = frame.state.storage, {one.id for one in there}
    for volume in storage.on_node(node):
        gone = volume.id in storage.open and volume.id not in ids and volume.role == role
        if gone and not in_use(frame.state, volume):
            storage.drop(volume.id)
            frame.emit(DropVolume(volume.id))
            frame.demand = True
    for key in [key for key in storage.strays if key[0] == node and key[1].role == role]:
        if key[1] not in there:
            del storage.strays[key]


def _confirm(frame: Frame, volume: Volume) -> None:
    """It exists: so its claim is bound."""
    before = frame.state.storage.volumes.get(volume.id)
    now = replace(volume, state=VolumeState.BOUND, lost=False)
    if now == before:
        return
    _save(frame, now)
    claim = frame.state.storage.claims.get(now.claim_key)
    if claim is not None and claim.uid == now.claim_uid:
        _save_claim(frame, claim, now, "Bound")


def _save(frame: Frame, volume: Volume) -> None:
    frame.state.storage.put(volume)
    frame.emit(SaveVolume(volume))


def _save_claim(frame: Frame, claim: Claim, volume: Volume, phase: str) -> None:
    frame.state.storage.put_claim(replace(claim, phase=phase))
    frame.emit(SaveClaim(claim.namespace, claim.name, claim.uid, volume, phase))


# ---- the end of a frame


def settle(frame: Frame) -> None:
    """Nodes that went or came back, and deleted claims that nobody uses any more."""
    went = False
    for effect in list(frame.effects):
        if isinstance(effect, SaveNode):
            went |= _node(frame, effect.node.name, there=effect.node.ready) and not effect.node.ready
    if went and frame.state.connected and (asked := probes(frame.state)):
        frame.emit(Reconcile(asked))
    _forget_given_up(frame)
    for key in sorted(frame.state.storage.deleted):
        claim = frame.state.storage.claims[key]
        if not _users(frame.state, claim):
            frame.state.storage.deleted.discard(key)
            frame.emit(ReleaseClaim(claim.namespace, claim.name, claim.uid))


def _forget_given_up(frame: Frame) -> None:
    """Volumes that have to go, or that never held anything, on nodes that never come back."""
    state = frame.state
    for one in sorted(state.storage.open):
        volume = state.storage.volumes[one]
        if volume.lost and _given_up(state, volume.node) and not in_use(state, volume):
            state.storage.drop(volume.id)
            frame.emit(DropVolume(volume.id))
            frame.demand = True
            message = (
                f"node {volume.node} will not come back, and volume {volume.id} of {volume.claim_key} with it"
            )
            frame.emit(
                Publish(
                    *("", "default", volume.id, "Warning", "VolumeGone", message), kind="PersistentVolume"
                )
            )


def _given_up(state: State, name: str) -> bool:
    node = state.nodes.get(name)
    return node is None or node.agent_id in state.storage.gone


def probes(state: State) -> tuple[tuple[str, str], ...]:
    """Questions to Mesos about the agents of nodes that took volumes away with them."""
    names = {volume.node for volume in state.storage.volumes.values() if volume.lost}
    agents = {state.nodes[name].agent_id for name in names if name in state.nodes} - state.storage.gone
    return tuple((PROBE + agent_id, agent_id) for agent_id in sorted(agents) if agent_id)


def heard(frame: Frame, event: TaskReported) -> None:
    """Any answer may say that Mesos' operators marked an agent gone: it never comes back."""
    state, agent_id = frame.state, event.agent_id
    if not event.agent_gone or not agent_id or agent_id in state.storage.gone:
        return
    state.storage.gone.add(agent_id)
    for node in [one for one in state.nodes.values() if one.agent_id == agent_id]:
        for volume in state.storage.on_node(node.name):
            claim = state.storage.claims.get(volume.claim_key)
            if claim is None or claim.uid != volume.claim_uid:
                continue
            message = (
                f"the agent of node {node.name} was marked gone: what is in volume {volume.id} does not come back; "
                "delete the claim for a new one"
            )
            facts = (claim.uid, claim.namespace, claim.name, "Warning", "ClaimLost", message)
            frame.emit(Publish(*facts, kind="PersistentVolumeClaim"))


def node_deleted(frame: Frame, name: str) -> None:
    """Somebody deleted a Node: until its agent makes it anew, its volumes are not there."""
    _node(frame, name, there=False)


def _node(frame: Frame, name: str, *, there: bool) -> bool:
    """A node came or went; whether that is news of any volume."""
    storage = frame.state.storage
    changed = [volume for volume in storage.on_node(name) if volume.lost is there]
    for volume in changed:
        now = replace(volume, lost=not there)
        storage.put(now)
        frame.emit(SaveVolume(now))
        claim = storage.claims.get(now.claim_key)
        if claim is None or claim.uid != now.claim_uid or now.state is not VolumeState.BOUND:
            continue
        _save_claim(frame, claim, now, "Bound" if there else "Lost")
        word, kind = ("is back", "Normal") if there else ("is gone", "Warning")
        reason = "VolumeFound" if there else "ClaimLost"
        message = f"node {name} {word}, and volume {now.id} with it"
        facts = (claim.uid, claim.namespace, claim.name, kind, reason, message)
        frame.emit(Publish(*facts, kind="PersistentVolumeClaim"))
    return bool(changed)


def _users(state: State, claim: Claim) -> bool:
    """Whether a pod that is not over mounts the claim, or a task holds its volume."""
    uids = state.storage.users.get(claim.key, set())
    for uid in list(uids):
        pod = state.pods.get(uid)
        if pod is not None and not pod.done and claim.key in pod.needs.claims:
            return True
        uids.discard(uid)
    state.storage.users.pop(claim.key, None)
    volume = state.storage.of_claim(claim)
    return volume is not None and in_use(state, volume)


def wanting(state: State) -> set[str]:
    """The roles whose offers are needed to learn whether something is there, or to destroy it."""
    storage = state.storage
    roles = {held.role for _, held in storage.strays}
    for one in storage.open:
        volume = storage.volumes[one]
        if not volume.lost and not in_use(state, volume):
            roles.add(volume.role)
    return roles
