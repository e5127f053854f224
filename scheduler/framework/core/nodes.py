"""Agents become Nodes: which name an agent has, what the Node says of it, and when it is not ready.

An agent id is not the machine: a machine keeps its Node, found by hostname and port, when its agent comes
back with a new id. A Node is named after the agent's hostname; of several agents on one host the later ones
add their port. Written only when something changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from scheduler.framework.core import evictions, executors, maintenance, reconcile
from scheduler.framework.core.effects import SaveNode
from scheduler.framework.core.entities import Agent, AgentInfo, Node, Offer
from scheduler.framework.core.events import AgentsListed
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import AWAY
from scheduler.framework.core.state import Alarm, State

ATTRIBUTE_PREFIX = "gantry.io/attribute-"
HOSTNAME_LABEL = "kubernetes.io/hostname"

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def node_name(state: State, info: AgentInfo) -> str:
    """The Node of an agent: the one it has, the one its machine had, or a new one."""
    known = state.agents.get(info.id)
    if known is not None:
        return known.node
    address = f"{info.hostname}:{info.port}"
    for key in (info.id, address):
        node = state.nodes.get(state.node_names.get(key, ""))
        both = node is not None and {info.id, node.agent_id} <= state.registered
        if node is not None and key in {node.agent_id, node.address} and (key == info.id or not both):
            return node.name
    name = _dns(info.hostname)
    if name in state.nodes:
        name = f"{name}-{info.port}"
    number = 2
    while name in state.nodes:
        name, number = f"{_dns(info.hostname)}-{info.port}-{number}", number + 1
    return name


def _dns(hostname: str) -> str:
    """A DNS-1123 subdomain, as Node names must be."""
    return re.sub(r"[^a-z0-9.-]", "-", hostname.lower()).strip("-.")[:240] or "agent"


def labels_of(info: AgentInfo) -> dict[str, str]:
    """Attributes as labels, prefixed and plain. What is no legal label value is made one with underscores."""
    labels = {HOSTNAME_LABEL: info.hostname, "kubernetes.io/os": "linux"}
    for key, value in (
        ("topology.kubernetes.io/region", info.region),
        ("topology.kubernetes.io/zone", info.zone),
    ):
        if value:
            labels[key] = _legal(value)
    for name, value in info.attributes:
        if not _LABEL_NAME.fullmatch(name):
            name = re.sub(r"[^-A-Za-z0-9_.]", "_", name).strip("-_.")[:40] or "unnamed"
        labels.setdefault(name, _legal(value))
        labels[(ATTRIBUTE_PREFIX + name)[:83]] = _legal(value)
    return labels


def _legal(value: str) -> str:
    if _LABEL_VALUE.fullmatch(value):
        return value
    return re.sub(r"[^-A-Za-z0-9_.]", "_", value)[:63].strip("-_.")


def seen(frame: Frame, info: AgentInfo) -> Node:
    """An agent is there, says an offer or the master's list. Mostly it is as it was, and so is its Node."""
    state = frame.state
    known = state.described.get(info.id)
    if known is not None and known[1] is info and _plain(state, known[0]):
        return known[0]
    made = _described(frame, info)
    state.described[info.id] = (made, info)
    return made


def _described(frame: Frame, info: AgentInfo) -> Node:
    state = frame.state
    name = node_name(state, info)
    if info.id not in state.agents:
        state.agents[info.id] = Agent(info.id, name)
    node = state.nodes.get(name) or Node(name, ready=False)
    if info.total is None and node.info is not None and node.info.id == info.id:
        info = replace(info, total=node.info.total, version=node.info.version)
    labels = tuple(sorted({**dict(node.labels), **labels_of(info)}.items()))
    new = Node(
        name,
        agent_id=info.id,
        address=f"{info.hostname}:{info.port}",
        labels=labels,
        taints=node.taints,
        own=maintenance.own_taints(frame, node, draining=info.draining),
        window=node.window,
        unschedulable=node.unschedulable,
        ready=info.active or info.draining,
        info=info,
        missing_since=0.0 if info.active or info.draining else node.missing_since,
    )
    if new == node:
        return node
    state.put_node(new)
    frame.emit(SaveNode(new))
    if node.agent_id not in {"", info.id}:
        _replaced(frame, node.agent_id)
    return new


def _replaced(frame: Frame, agent_id: str) -> None:
    """Its machine's agent has another id now: what ran under the old one is asked about, and nobody waits any more for
    what Mesos has said to be unknown or unreachable (`tasks.given_up`)."""
    state = frame.state
    ids = state.by_agent.get(agent_id, ())
    reconcile.ask_later(frame, [one for one in ids if state.tasks[one].state not in AWAY])
    for task_id in ids:
        state.set_timer(frame.now, Alarm.AWAY, task_id)


def offered(frame: Frame, offer: Offer) -> None:
    """An agent is there. Mostly its offers say of it what the last one did, and its Node is as it was then."""
    state = frame.state
    known = state.sighted.get(offer.agent_id)
    if known is not None:
        node, last = known
        same = (
            offer.attributes == last.attributes
            and offer.hostname == last.hostname
            and offer.port == last.port
            and offer.ip == last.ip
            and offer.region == last.region
            and offer.zone == last.zone
        )
        if same and _plain(state, node):
            return
    state.sighted[offer.agent_id] = (seen(frame, from_offer(offer)), offer)


def _plain(state: State, node: Node) -> bool:
    """It is still so, and nothing about it depends on the time."""
    as_it_was = state.nodes.get(node.name) is node and node.ready and not node.missing_since
    return as_it_was and not node.own and node.window is None


def from_offer(offer: Offer) -> AgentInfo:
    """What an offer tells of its agent: not how much that has in all."""
    return AgentInfo(
        id=offer.agent_id,
        hostname=offer.hostname,
        port=offer.port,
        attributes=offer.attributes,
        ip=offer.ip,
        region=offer.region,
        zone=offer.zone,
    )


def listed(frame: Frame, event: AgentsListed) -> None:
    """The master's list: agents missing from it for long enough are not ready. One that is recovering is
    not missing."""
    state = frame.state
    present = {info.id for info in event.agents if info.active or info.draining} | event.recovering
    state.registered = frozenset(present)
    for info in event.agents:
        if info.active or info.draining:
            seen(frame, info)
        if info.draining:
            executors.dismiss(frame, info.id)
    executors.forget_gone(frame)
    for node in list(state.nodes.values()):
        if not node.agent_id or node.agent_id in present or not node.ready:
            continue
        if not node.missing_since:
            state.put_node(replace(node, missing_since=frame.now))
        elif frame.now - node.missing_since >= state.policy.nodes_gone:
            not_ready(frame, node)


def not_ready(frame: Frame, node: Node) -> None:
    """Idempotent."""
    new = replace(node, ready=False)
    if new != node:
        frame.state.put_node(new)
        frame.emit(SaveNode(new))


def lost(frame: Frame, agent_id: str) -> None:
    """FAILURE of an agent is a hint: its node is not ready, its offers are void, its tasks are asked about."""
    state = frame.state
    for offer in [one for one in state.offers.values() if one.agent_id == agent_id]:
        del state.offers[offer.id]
    agent = state.agents.get(agent_id)
    if agent is None:
        return
    state.left.pop(agent_id, None)
    node = state.nodes.get(agent.node)
    if node is not None and node.agent_id == agent_id:
        not_ready(frame, node)
    reconcile.ask_later(frame, state.by_agent.get(agent_id, ()))


def executor_lost(frame: Frame, agent_id: str, executor_id: str) -> None:
    """The agent's own updates tell of the tasks; should one be lost, reconciliation finds it."""
    state = frame.state
    frame.drop_executor(executor_id)
    ids: Iterable[str] = state.by_agent.get(agent_id, ())
    reconcile.ask_later(frame, [one for one in ids if state.tasks[one].executor_id == executor_id])


def changed(frame: Frame, node: Node) -> None:
    """A Node object as users left it. What the agent says of itself is not taken from there."""
    state = frame.state
    old = state.nodes.get(node.name)
    if old is None:
        state.put_node(node)
        return
    new = replace(old, labels=node.labels, taints=node.taints, unschedulable=node.unschedulable)
    if new != old:
        state.put_node(new)
        evictions.check_node(frame, new)
        frame.demand = frame.demand or bool(state.pending)


def gone(frame: Frame, name: str) -> None:
    """Somebody deleted a Node. If its agent lives, the next list or offer makes it again."""
    node = frame.state.nodes.pop(name, None)
    if node is not None:
        frame.state.agents.pop(node.agent_id, None)
