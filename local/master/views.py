"""What the master shows: operator replies, /state, /state-summary, /slaves, /frameworks, /metrics/snapshot. Pure.

Field names and shapes as a real master prints them. Source: Mesos src/master/readonly_handler.cpp, src/master/http.cpp.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from local.master.cluster import VERSION, Cluster
from local.master.model import Agent, Framework
from local.tasks import Task
from local.wire.proto import Json
from shared.mesos.resources import Resources

AGENT_CAPABILITIES = (
    "MULTI_ROLE",
    "HIERARCHICAL_ROLE",
    "RESERVATION_REFINEMENT",
    "TASK_RESOURCE_LIMITS",
)
TASK_STATES = (
    "TASK_STAGING",
    "TASK_STARTING",
    "TASK_RUNNING",
    "TASK_KILLING",
    "TASK_FINISHED",
    "TASK_KILLED",
    "TASK_FAILED",
    "TASK_LOST",
    "TASK_ERROR",
    "TASK_UNREACHABLE",
)


def version() -> Json:
    return {"version": VERSION, "build_date": "", "build_time": 0.0, "build_user": ""}


def nanoseconds(seconds: float) -> Json:
    return {"nanoseconds": int(seconds * 1e9)}


@lru_cache(maxsize=4096)
def with_role(resources: Resources) -> list[Json]:
    """The older format that several replies use: `role` beside each resource. Agents are much alike, so kept."""
    result = []
    for resource in resources.to_json():
        reservations = resource.get("reservations")
        result.append({**resource, "role": reservations[-1]["role"] if reservations else "*"})
    return result


def amounts(resources: Resources) -> Json:
    """Bare quantities: {"cpus": 4.0, …, "ports": "[31000-32000]"}."""
    result: Json = {name: resources.scalar(name) / 1000 for name in ("disk", "mem", "gpus", "cpus")}
    for part in resources.flatten().split():
        (shape,) = part.to_json()
        if shape["type"] != "SCALAR":
            result[shape["name"]] = str(part).partition(":")[2]
        elif shape["name"] not in result:
            result[shape["name"]] = part.scalar(shape["name"]) / 1000
    return result


def total(resources: Iterable[Resources]) -> Resources:
    return sum(resources, Resources())


def used(tasks: Iterable[Task], executors: Iterable[Mapping[str, Json]]) -> Resources:
    """What tasks that have not ended and executors take."""
    own = total(task.resources for task in tasks if not task.terminal)
    for group in executors:
        for executor in group.values():
            own += Resources.from_json(executor.get("resources", []))
    return own


def agent_used(agent: Agent) -> Resources:
    return used(agent.tasks.values(), agent.executors.values())


def framework_used(framework: Framework) -> Resources:
    return used(framework.tasks.values(), framework.executors.values())


# ---- operator API


def get_agents(cluster: Cluster) -> Json:
    recovered = [cluster.registry.admitted[agent_id] for agent_id in sorted(cluster.recovered)]
    return {"agents": [_agent(agent) for agent in cluster.agents.values()], "recovered_agents": recovered}


def _agent(agent: Agent) -> Json:
    """Made anew only when something changed: with thousands of agents, most calls find nothing new."""
    counted = (agent.changes, agent.active, agent.reregistered)
    parts = (agent.info, agent.total, agent.deactivated)
    if agent.shown is not None:
        known_counted, known_parts, view = agent.shown
        if known_counted == counted and all(
            one is other for one, other in zip(known_parts, parts, strict=True)
        ):
            return view
    view = _make_agent(agent)
    agent.shown = (counted, parts, view)
    return view


def _make_agent(agent: Agent) -> Json:
    result = {
        "agent_info": agent.info,
        "active": agent.active,
        "deactivated": agent.deactivated is not None,
        "version": agent.version,
        "pid": agent.pid,
        "registered_time": nanoseconds(agent.registered),
        "reregistered_time": nanoseconds(agent.reregistered),
        "total_resources": with_role(agent.total),
        "allocated_resources": with_role(agent_used(agent)),
        "offered_resources": with_role(total(offer.resources for offer in agent.offers.values())),
        "capabilities": [{"type": name} for name in AGENT_CAPABILITIES],
    }
    if agent.deactivated and "drain_info" in agent.deactivated:
        result["drain_info"] = agent.deactivated["drain_info"]
        result["estimated_drain_start_time"] = nanoseconds(agent.deactivated["start"])
    return {key: value for key, value in result.items() if value != []}


def get_frameworks(cluster: Cluster) -> Json:
    result: Json = {"frameworks": [_framework(cluster, f) for f in cluster.frameworks.values()]}
    if cluster.completed:
        result["completed_frameworks"] = [_framework(cluster, f) for f in cluster.completed.values()]
    return result


def _framework(cluster: Cluster, framework: Framework) -> Json:
    offers = framework.offers.values()
    result: Json = {
        "framework_info": framework.info,
        "active": framework.active,
        "connected": framework.connected,
        "recovered": framework.recovered,
        "registered_time": nanoseconds(framework.registered),
        "reregistered_time": nanoseconds(framework.reregistered),
        "offers": [cluster.offer_json(offer) for offer in offers],
        "offered_resources": with_role(total(offer.resources for offer in offers)),
        "allocated_resources": with_role(framework_used(framework)),
        "offer_constraints": {},
    }
    if framework.unregistered:
        result["unregistered_time"] = nanoseconds(framework.unregistered)
    return {key: value for key, value in result.items() if value != []}


def get_tasks(cluster: Cluster) -> Json:
    everyone = [*cluster.frameworks.values(), *cluster.completed.values()]
    return {
        "tasks": [task.to_json() for f in everyone for task in f.tasks.values()],
        "unreachable_tasks": [task.to_json() for f in everyone for task in f.unreachable.values()],
        "completed_tasks": [task.to_json() for f in everyone for task in f.completed],
    }


def get_executors(cluster: Cluster) -> Json:
    return {
        "executors": [
            {"executor_info": executor, "agent_id": {"value": agent.agent_id}}
            for agent in cluster.agents.values()
            for executors in agent.executors.values()
            for executor in executors.values()
        ]
    }


def get_state(cluster: Cluster) -> Json:
    return {
        "get_tasks": get_tasks(cluster),
        "get_executors": get_executors(cluster),
        "get_frameworks": get_frameworks(cluster),
        "get_agents": get_agents(cluster),
    }


# ---- plain GETs


def _counts(tasks: Iterable[Task]) -> Json:
    counter = Counter(task.state for task in tasks)
    return {state: counter[state] for state in TASK_STATES}


def agent_view(agent: Agent) -> Json:
    result: Json = {
        "id": agent.agent_id,
        "hostname": agent.info["hostname"],
        "port": agent.info["port"],
        "attributes": {a["name"]: _attribute(a) for a in agent.info.get("attributes", [])},
        "pid": agent.pid,
        "registered_time": agent.registered,
        "reregistered_time": agent.reregistered,
        "resources": amounts(agent.total),
        "used_resources": amounts(agent_used(agent)),
        "offered_resources": amounts(total(offer.resources for offer in agent.offers.values())),
        "active": agent.active,
        "deactivated": agent.deactivated is not None,
        "version": agent.version,
        "capabilities": list(AGENT_CAPABILITIES),
    }
    unreserved = [part for part in agent.total.split() if not part.reservations()]
    reserved: dict[str, Resources] = {}
    for part in agent.total.split():
        for reservation in part.reservations()[-1:]:
            reserved[reservation["role"]] = reserved.get(reservation["role"], Resources()) + part
    if "domain" in agent.info:
        result["domain"] = agent.info["domain"]
    result["unreserved_resources"] = amounts(total(unreserved))
    result["reserved_resources"] = {role: amounts(parts) for role, parts in reserved.items()}
    return result


def _attribute(attribute: Json) -> Any:
    if "text" in attribute:
        return attribute["text"]["value"]
    if "scalar" in attribute:
        return attribute["scalar"]["value"]
    return str([f"{r['begin']}-{r['end']}" for r in attribute["ranges"]["range"]])


def framework_view(framework: Framework) -> Json:
    info = framework.info
    return {
        "id": framework.framework_id,
        "name": info["name"],
        "used_resources": amounts(framework_used(framework)),
        "offered_resources": amounts(total(offer.resources for offer in framework.offers.values())),
        "capabilities": sorted(framework.capabilities),
        "hostname": info.get("hostname", ""),
        "webui_url": info.get("webui_url", ""),
        "active": framework.active,
        "connected": framework.connected,
        "recovered": framework.recovered,
    }


def framework_full(framework: Framework) -> Json:
    info = framework.info
    return framework_view(framework) | {
        "user": info["user"],
        "failover_timeout": info["failover_timeout"],
        "checkpoint": info["checkpoint"],
        "registered_time": framework.registered,
        "unregistered_time": framework.unregistered,
        "reregistered_time": framework.reregistered,
        "principal": info.get("principal", ""),
        "roles": sorted(framework.roles),
        "tasks": [task_view(task) for task in framework.tasks.values()],
        "unreachable_tasks": [task_view(task) for task in framework.unreachable.values()],
        "completed_tasks": [task_view(task) for task in framework.completed],
        "offers": [
            {
                "id": offer.offer_id,
                "framework_id": offer.framework_id,
                "allocation_info": {"role": offer.role},
                "slave_id": offer.agent_id,
                "resources": amounts(offer.resources),
            }
            for offer in framework.offers.values()
        ],
        "executors": [
            {"executor_id": executor_id, "slave_id": agent_id, "name": executor.get("name", "")}
            for agent_id, executors in framework.executors.items()
            for executor_id, executor in executors.items()
        ],
    }


def task_view(task: Task) -> Json:
    return {
        "id": task.task_id,
        "name": task.name,
        "framework_id": task.framework_id,
        "executor_id": task.executor_id or "",
        "slave_id": task.agent_id,
        "state": task.state,
        "resources": amounts(task.resources),
        "role": next(iter(task.resources.allocated_roles()), "*"),
        "statuses": [
            {k: s[k] for k in ("state", "timestamp", "container_status", "healthy") if k in s}
            for s in task.statuses
        ],
        "labels": task.shown.get("labels", {}).get("labels", []),
    }


def summary(cluster: Cluster) -> Json:
    agents = []
    for agent in cluster.agents.values():
        mine = [
            task
            for f in cluster.frameworks.values()
            for group in (f.tasks.values(), f.completed)
            for task in group
            if task.agent_id == agent.agent_id
        ]
        ids = sorted({framework_id for framework_id, _ in agent.tasks} | set(agent.executors))
        agents.append(agent_view(agent) | _counts(mine) | {"framework_ids": ids})
    known = [
        framework_view(f)
        | _counts([*f.tasks.values(), *f.unreachable.values(), *f.completed])
        | {"slave_ids": sorted({task.agent_id for task in f.tasks.values()} | set(f.executors))}
        for f in cluster.frameworks.values()
    ]
    return {"hostname": cluster.flags.hostname, "slaves": agents, "frameworks": known}


def slaves(cluster: Cluster) -> Json:
    return {
        "slaves": [agent_view(agent) for agent in cluster.agents.values()],
        "recovered_slaves": sorted(cluster.recovered),
    }


def frameworks(cluster: Cluster) -> Json:
    return {
        "frameworks": [framework_full(f) for f in cluster.frameworks.values()],
        "completed_frameworks": [framework_full(f) for f in cluster.completed.values()],
        "unregistered_frameworks": [],  # always empty since Mesos 1.0
    }


def state(cluster: Cluster) -> Json:
    info = cluster.master_info()
    return version() | {
        "start_time": cluster.started,
        "elected_time": cluster.started,
        "id": cluster.master_id,
        "pid": info["pid"],
        "hostname": info["hostname"],
        "leader": info["pid"],
        "leader_info": {key: info[key] for key in ("id", "pid", "port", "hostname")},
        "activated_slaves": float(sum(agent.connected for agent in cluster.agents.values())),
        "deactivated_slaves": float(sum(not agent.active for agent in cluster.agents.values())),
        "unreachable_slaves": float(len(cluster.registry.unreachable)),
        **slaves(cluster),
        **frameworks(cluster),
    }


def metrics(cluster: Cluster) -> Json:
    """Counters since the start, and gauges of now."""
    agents = cluster.agents.values()
    known = cluster.frameworks.values()
    result: Json = {key: float(value) for key, value in cluster.counters.items()}
    states = Counter(task.state for f in known for task in f.tasks.values())
    for name in ("STAGING", "STARTING", "RUNNING", "KILLING"):
        result[f"master/tasks_{name.lower()}"] = float(states[f"TASK_{name}"])
    result["master/tasks_unreachable"] = float(sum(len(f.unreachable) for f in known))
    result |= {
        "master/elected": 1.0,
        "master/uptime_secs": cluster.now() - cluster.started,
        "master/slaves_active": float(sum(a.active for a in agents)),
        "master/slaves_connected": float(sum(a.active for a in agents)),
        "master/slaves_disconnected": float(sum(not a.connected for a in agents)),
        "master/slaves_unreachable": float(len(cluster.registry.unreachable)),
        "master/frameworks_active": float(sum(f.active for f in known)),
        "master/frameworks_connected": float(sum(f.connected for f in known)),
        "master/frameworks_disconnected": float(sum(not f.connected for f in known)),
        "master/outstanding_offers": float(len(cluster.offers)),
    }
    all_total, all_used = total(a.total for a in agents), total(agent_used(a) for a in agents)
    for name in ("cpus", "mem", "disk", "gpus"):
        there, taken = all_total.scalar(name) / 1000, all_used.scalar(name) / 1000
        result[f"master/{name}_total"], result[f"master/{name}_used"] = there, taken
        result[f"master/{name}_percent"] = taken / there if there else 0.0
    return result
