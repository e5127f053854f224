"""The engine between offers and ACCEPTs, for `placement`: a recorded offer, as if from many agents. What is left of it
is offered again when the engine has answered all it has, as Mesos does in its next cycle. No store and no network.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import Node, Pod
from scheduler.framework.core.placement import Want
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.state import State
from scheduler.framework.core.step import step
from scheduler.framework.core.vectors import Ranges, Vector, without_ports
from scheduler.framework.reading import OfferReader

Json = dict[str, Any]
RECORDING = Path(__file__).parents[1] / "tests/local/wire/scheduler.jsonl"
START = 1_800_000_000.0


def recorded_offer() -> Json:
    """The first one that Mesos sent when the recording was made."""
    for line in RECORDING.read_text().splitlines():
        body = json.loads(line).get("body")
        if isinstance(body, dict) and body.get("type") == "OFFERS":
            found: Json = body["offers"]["offers"][0]
            return found
    raise LookupError(f"{RECORDING} holds no offer")


class Agent:
    """What is free on one."""

    def __init__(self, node: Node, template: Json, zone: str) -> None:
        assert node.info is not None
        assert node.info.total is not None
        self.free: Vector = node.info.total
        self.ports: Ranges = ((31000, 32000),)
        self.executors: list[str] = []
        offer = copy.deepcopy(template)
        labels = dict(node.labels)
        offer |= {"agent_id": {"value": node.name}, "hostname": node.name}
        offer["domain"] = {"fault_domain": {"region": {"name": "eu"}, "zone": {"name": labels[zone]}}}
        offer["attributes"] = [
            {"name": name, "type": "TEXT", "text": {"value": labels[name]}} for name in ("rack", "disk")
        ]
        self._offer = offer

    def offer(self, number: int) -> Json:
        """All that is free, under an id not used before."""
        amounts = {"cpus": self.free.cpus, "mem": self.free.mem, "disk": self.free.disk}
        resources = []
        for one in self._offer["resources"]:
            if one["name"] == "ports":
                ranges = [{"begin": begin, "end": end} for begin, end in self.ports]
                resources.append({**one, "ranges": {"range": ranges}})
            else:
                resources.append({**one, "scalar": {"value": amounts[one["name"]] / 1000}})
        executors = [{"value": one} for one in self.executors]
        return {
            **self._offer,
            "id": {"value": f"O{number}"},
            "resources": resources,
            "executor_ids": executors,
        }

    def accept(self, effect: fx.Accept, overhead: Vector) -> None:
        for one in effect.launches:
            if one.executor.id not in self.executors:
                self.executors.append(one.executor.id)
                self.free -= overhead
            self.free -= one.amounts
            self.ports = without_ports(self.ports, one.ports)


def through_engine(nodes: Sequence[Node], wants: Sequence[Want], zone: str) -> Json:
    """CPU time of reading offers and deciding, of the first frame and of all; and how many pods were launched."""
    template = recorded_offer()
    role = template["allocation_info"]["role"]
    policy = Policy(roles=(role,))
    state, reader = State(policy, framework_id="F"), OfferReader()
    for node in nodes:
        state.put_node(replace(node, agent_id=node.name, address=f"{node.name}:5051", info=None))
    agents = {node.name: Agent(node, template, zone) for node in nodes}
    step(state, [ev.Loaded(), ev.Subscribed("F")], START, "t")
    pods = [Pod(one.uid, one.namespace, one.uid, one.needs, labels=one.labels) for one in wants]
    step(state, [ev.PodChanged(pod) for pod in pods], START, "t")
    numbers = iter(range(1 << 62))
    left = dict.fromkeys(agents)
    spent, launched = [], 0
    while state.pending and (left or state.offers):
        offered = [] if state.offers else [agents[name].offer(next(numbers)) for name in left]
        began = time.process_time()
        event = ev.OffersReceived(tuple(reader.read(one) for one in offered)) if offered else ev.Tick()
        effects = step(state, [event], START + len(spent) / 1000, f"t{len(spent)}")
        spent.append(time.process_time() - began)
        if offered:
            left = {}
        for one in effects:
            if isinstance(one, fx.Accept):
                agents[one.agent_id].accept(one, policy.executor)
                launched += len(one.launches)
                left[one.agent_id] = None
    return {
        "decisions_per_second": round(len(pods) / sum(spent)),
        "launched": launched,
        "frames": len(spent),
        "first_frame_ms": round(spent[0] * 1000, 1),
        "longest_after_ms": round(max(spent[1:], default=0.0) * 1000, 1),
    }
