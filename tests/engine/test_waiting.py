"""Why pods wait, in words, and agents as nodes: each rule as a short story."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import AgentInfo, Taint
from scheduler.framework.core.vectors import Vector
from tests.engine.desk import Desk, MakeOffer, only

# ---- why pods wait


def reasons(desk: Desk) -> list[str]:
    return [
        one.message for one in desk.said if isinstance(one, fx.Publish) and one.reason == "FailedScheduling"
    ]


def test_a_waiting_pod_says_why_once(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    small = [{"resources": {"requests": {"cpu": "2"}}}]
    desk.create("a", containers=small, nodeSelector={"disk": "ssd"})
    desk.watch()
    ssd = (("disk", "ssd"),)
    number = 0
    for _ in range(50):
        if number == 0 or only(desk.later(1.0), fx.Revive):
            number += 1
            ids = [f"O{number}-{agent}" for agent in (1, 2, 3)]
            desk.offer(
                offer(ids[0], "A1", cpus=1000, attributes=ssd), offer(ids[1], "A2", cpus=1000, attributes=ssd)
            )
            desk.offer(offer(ids[2], "A3"))
    expected = (
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 Insufficient cpu."
    )
    assert reasons(desk) == [expected]
    (condition,) = desk.pods["a"]["status"]["conditions"]
    assert (condition["reason"], condition["message"]) == ("Unschedulable", expected)


def test_without_nodes_it_says_so(desk: Desk) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.later(1.5)
    assert reasons(desk) == ["no nodes available to schedule pods"]


def test_cordon_taints_ports_and_node_name(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    for number in range(4):
        desk.offer(offer(f"I{number}", f"A{number}"))
    nodes = desk.state.nodes
    desk.frame(ev.NodeChanged(replace(nodes["host-a0"], unschedulable=True)))
    desk.frame(ev.NodeChanged(replace(nodes["host-a1"], taints=(Taint("gpu", "yes", "NoSchedule"),))))
    port = [{"ports": [{"containerPort": 80, "hostPort": 80}]}]
    desk.create("a", containers=port)
    desk.create("b", nodeName="host-a3")
    desk.watch()
    effects = desk.offer(*(offer(f"O{number}", f"A{number}") for number in range(4)))
    assert [one.task.node for accept in only(effects, fx.Accept) for one in accept.launches] == ["host-a3"]
    desk.later(1.5)
    (message,) = reasons(desk)
    assert message == (
        "0/4 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable, "
        "2 node(s) didn't have free ports for the requested pod ports."
    )


# ---- nodes


def info(agent_id: str, hostname: str = "h", port: int = 5051, **more: Any) -> AgentInfo:
    return AgentInfo(agent_id, hostname, port, total=Vector(4000, 8_192_000, 0), **more)


def test_agents_on_one_host_get_names_of_their_own_and_keep_them(desk: Desk) -> None:
    desk.frame(ev.AgentsListed((info("S1"), info("S2", port=5052))))
    assert set(desk.nodes) == {"h", "h-5052"}
    desk.frame(ev.AgentsListed((info("S1"), info("S9", port=5052))))
    assert desk.nodes["h-5052"].agent_id == "S9", "a new agent id on the same machine keeps the node"
    assert set(desk.nodes) == {"h", "h-5052"}


def test_nodes_are_written_only_when_they_change(desk: Desk) -> None:
    assert only(desk.frame(ev.AgentsListed((info("S1"),))), fx.SaveNode)
    assert not desk.frame(ev.AgentsListed((info("S1"),)))


def test_an_agent_that_is_gone_makes_its_node_not_ready(desk: Desk) -> None:
    desk.frame(ev.AgentsListed((info("S1"), info("S2", "h2"))))
    desk.frame(ev.AgentsListed((info("S1"),), frozenset({"S2"})))
    desk.now += 100
    desk.frame(ev.AgentsListed((info("S1"),), frozenset({"S2"})))
    assert desk.nodes["h2"].ready, "recovering is not missing"
    desk.frame(ev.AgentsListed((info("S1"),)))
    desk.now += 100
    desk.frame(ev.AgentsListed((info("S1"),)))
    assert not desk.nodes["h2"].ready
    desk.frame(ev.AgentsListed((info("S1"), info("S2", "h2"))))
    assert desk.nodes["h2"].ready


def test_attributes_become_labels(desk: Desk) -> None:
    desk.frame(ev.AgentsListed((info("S1", attributes=(("rack", "r1"), ("note", "a b/c"))),)))
    labels = dict(desk.nodes["h"].labels)
    assert labels["rack"] == labels["gantry.io/attribute-rack"] == "r1"
    assert labels["note"] == "a_b_c"
    assert labels["kubernetes.io/hostname"] == "h"
