"""ACCEPT: from offers and operations to launches, refusals and what is left.

Source: Mesos src/master/master.cpp (`Master::accept`, `Master::_accept`).
"""

import logging
from typing import Any

from local.master import statuses
from local.master.cluster import Cluster
from local.master.model import Agent, Framework, Offer
from local.master.operations import KINDS as OPERATIONS
from local.master.operations import OperationError, Operations
from local.master.validation import resources as resource_rules
from local.master.validation.operations import resources_of, source_of
from local.master.validation.resources import bag
from local.master.validation.tasks import Context, group_error, task_error
from local.tasks import Task
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)

LAUNCHES = ("LAUNCH", "LAUNCH_GROUP")


def offers_error(offer_ids: list[str], known: dict[str, Offer], framework_id: str) -> str | None:
    """Why the offers of one ACCEPT cannot be used together (`validation::offer::validate`)."""
    if not offer_ids:
        return "No offers specified"
    for index, offer_id in enumerate(offer_ids):
        if offer_id in offer_ids[:index]:
            return f"Duplicate offer {offer_id} in offer list"
    for offer_id in offer_ids:
        if offer_id not in known:
            return f"Offer {offer_id} is no longer valid"
    offers = [known[offer_id] for offer_id in offer_ids]
    for offer in offers:
        if offer.framework_id != framework_id:
            return (
                f"Offer {offer.offer_id} has invalid framework {offer.framework_id} "
                f"while framework {framework_id} is expected"
            )
    first = offers[0]
    for offer in offers:
        if offer.role != first.role:
            return (
                f"Aggregated offers must be allocated to the same role. Offer {offer.offer_id} uses role "
                f"'{offer.role} but another is using role '{first.role}"
            )
    for offer in offers:
        if offer.agent_id != first.agent_id:
            return (
                f"Aggregated offers must belong to one single agent. Offer {offer.offer_id} uses agent "
                f"{offer.agent_id} and agent {first.agent_id}"
            )
    return None


def tasks_of(operation: Json) -> list[Json]:
    """The TaskInfos of a LAUNCH or LAUNCH_GROUP."""
    if operation.get("type") == "LAUNCH":
        return list(operation.get("launch", {}).get("task_infos", []))
    if operation.get("type") == "LAUNCH_GROUP" and "launch_group" in operation:
        return list(operation["launch_group"]["task_group"].get("tasks", []))
    return []


def _executors_of(operation: Json) -> list[Json]:
    found = [task["executor"] for task in tasks_of(operation) if "executor" in task]
    if "launch_group" in operation:
        found.append(operation["launch_group"]["executor"])
    return found


def inject_role(operation: Json, role: str) -> None:
    """Resources without allocation_info get the offers' (`injectAllocationInfo`)."""
    for resource in _all_resources(operation):
        resource.setdefault("allocation_info", {}).setdefault("role", role)


def _all_resources(operation: Json) -> list[Json]:
    if operation["type"] in OPERATIONS:
        return [*resources_of(operation), *source_of(operation)]
    holders = [*tasks_of(operation), *_executors_of(operation)]
    return [resource for holder in holders for resource in holder.get("resources", [])]


class Launches:
    """Acts on ACCEPT calls."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._operations = Operations(cluster)

    def accept(self, framework: Framework, call: Json) -> None:
        """Use, refuse and give back the offers of one call."""
        cluster = self._cluster
        offer_ids = [offer["value"] for offer in call.get("offer_ids", [])]
        operations = call.get("operations", [])
        error = offers_error(offer_ids, cluster.offers, framework.framework_id)
        if error is not None:
            self._refuse_all(framework, offer_ids, operations, error)
            return
        offers = [cluster.offers[offer_id] for offer_id in offer_ids]
        agent = cluster.agents[offers[0].agent_id]
        for offer in offers:
            cluster.forget_offer(offer)
        cluster.counters["master/offers_accepted"] += len(offers)
        remaining = sum((offer.resources for offer in offers), Resources())
        runs: list[Json] = []
        for operation in operations:
            if not self._checked(framework, operation, offers[0].role):
                continue
            if operation["type"] in LAUNCHES:
                remaining = self._launch(framework, agent, operation, remaining, runs)
            else:
                remaining = self._convert(framework, agent, operation, remaining)
        if runs:
            agent.send({"type": "RUN", "framework": framework.info, "runs": runs})
        refuse = call.get("filters", {}).get("refuse_seconds", 5.0)
        cluster.allocator.recover(framework.framework_id, agent.agent_id, remaining, refuse, cluster.now())

    def decline(self, framework: Framework, call: Json) -> None:
        """DECLINE: the offers' resources are free again, behind a filter."""
        refuse = call.get("filters", {}).get("refuse_seconds", 5.0)
        for offer_id in call.get("offer_ids", []):
            offer = self._cluster.offers.get(offer_id["value"])
            if offer is None or offer.framework_id != framework.framework_id:
                log.warning("ignoring decline of offer %s since it is no longer valid", offer_id["value"])
                continue
            self._cluster.discard_offer(offer, refuse)
            self._cluster.counters["master/offers_declined"] += 1

    def _refuse_all(
        self, framework: Framework, offer_ids: list[str], operations: list[Json], error: str
    ) -> None:
        """One offer that is no good spoils the call: the others are discarded, every task is dropped."""
        cluster = self._cluster
        log.warning("ACCEPT call used invalid offers %s: %s", offer_ids, error)
        for offer_id in dict.fromkeys(offer_ids):
            offer = cluster.offers.get(offer_id)
            if offer is not None:
                cluster.discard_offer(offer)
        for operation in operations:
            if operation.get("type") not in LAUNCHES:
                self._drop(framework, operation, f"Operation attempted with invalid offers: {error}")
                continue
            state = framework.state_or_lost("TASK_DROPPED")
            text = f"Task launched with invalid offers: {error}"
            self._report(framework, tasks_of(operation), state, text, "REASON_INVALID_OFFERS")

    def _report(self, framework: Framework, tasks: list[Json], state: str, text: str, reason: str) -> None:
        now = self._cluster.now()
        for task in tasks:
            update = statuses.status(
                task["task_id"]["value"], state, text, reason, now, agent_id=task["agent_id"]["value"]
            )
            statuses.send(framework, update)
            self._cluster.counters[f"master/{state.lower().replace('task_', 'tasks_')}"] += 1

    def _drop(self, framework: Framework, operation: Json, text: str) -> None:
        """An operation that is not a launch: OPERATION_ERROR when feedback was asked for (`Master::drop`)."""
        log.warning("dropping %s of framework %s: %s", operation.get("type"), framework.framework_id, text)
        if "id" in operation:
            body = {"operation_id": operation["id"], "state": "OPERATION_ERROR", "message": text}
            framework.send("UPDATE_OPERATION_STATUS", {"status": body})

    def _checked(self, framework: Framework, operation: Json, role: str) -> bool:
        """Whether to go on with an operation: its resources are well formed, it is one we do."""
        kind = operation.get("type")
        if kind not in LAUNCHES and kind not in OPERATIONS:
            text = f"{kind} is not supported by the embedded Mesos"
            self._drop(framework, operation, f"Operation attempted with invalid resources: {text}")
            return False
        error = resource_rules.upgrade_error(_all_resources(operation))
        if kind in OPERATIONS:
            if error is not None:
                self._drop(framework, operation, f"Operation attempted with invalid resources: {error}")
                return False
            inject_role(operation, role)
            return True
        reason = "REASON_TASK_INVALID" if kind == "LAUNCH" else "REASON_TASK_GROUP_INVALID"
        if error is None and "id" in operation:
            error = f"The `id` field cannot be set on {kind} operations"
        if error is not None:
            self._report(framework, tasks_of(operation), "TASK_ERROR", error, reason)
            return False
        inject_role(operation, role)
        return True

    def _convert(
        self, framework: Framework, agent: Agent, operation: Json, remaining: Resources
    ) -> Resources:
        """RESERVE and the like. One that is dropped leaves the rest of the call as it is."""
        try:
            return self._operations.perform(framework, agent, operation, remaining)
        except OperationError as error:
            self._drop(framework, operation, str(error))
            return remaining

    def _launch(
        self, framework: Framework, agent: Agent, operation: Json, remaining: Resources, runs: list[Json]
    ) -> Resources:
        if operation["type"] == "LAUNCH_GROUP":
            return self._launch_group(framework, agent, operation, remaining, runs)
        for task in tasks_of(operation):
            if "executor" in task:
                task["executor"].setdefault("framework_id", {"value": framework.framework_id})
            error = task_error(task, self._context(framework, agent, remaining))
            if error is not None:
                self._report(framework, [task], "TASK_ERROR", error, "REASON_TASK_INVALID")
                continue
            new, used = self._add(framework, agent, task["executor"], [task])
            remaining -= used
            runs.append({"tasks": [task], "executor": task["executor"], "launch_executor": new})
        return remaining

    def _launch_group(
        self, framework: Framework, agent: Agent, operation: Json, remaining: Resources, runs: list[Json]
    ) -> Resources:
        executor = operation["launch_group"]["executor"]
        tasks = tasks_of(operation)
        for task in tasks:
            task.setdefault("executor", executor)
        error = group_error(executor, tasks, self._context(framework, agent, remaining))
        if error is not None:
            self._report(framework, tasks, "TASK_ERROR", error, "REASON_TASK_GROUP_INVALID")
            return remaining
        new, used = self._add(framework, agent, executor, tasks)
        runs.append({"tasks": tasks, "executor": executor, "launch_executor": new, "group": True})
        return remaining - used

    @staticmethod
    def _context(framework: Framework, agent: Agent, offered: Resources) -> Context:
        return Context(
            framework.framework_id,
            agent.agent_id,
            framework.tasks,
            framework.unreachable,
            agent.executors.get(framework.framework_id, {}),
            offered,
        )

    def _add(
        self, framework: Framework, agent: Agent, executor: Json, tasks: list[Json]
    ) -> tuple[bool, Resources]:
        """Book tasks and, when it is new, their executor: (whether it is new, what all of them take)."""
        executor_id = executor["executor_id"]["value"]
        new = executor_id not in agent.executors.get(framework.framework_id, {})
        used = Resources()
        if new:
            self._cluster.add_executor(agent, framework, executor)
            used += bag(executor.get("resources", []))
        for task in tasks:
            resources = bag(task["resources"])
            normal(task, resources)
            self._cluster.add_task(Task.launched(task, framework.framework_id, resources))
            used += resources
        normal(executor, bag(executor.get("resources", [])))
        return new, used


def normal(holder: dict[str, Any], resources: Resources) -> None:
    """Resources as Mesos passes them on: joined by identity, reservations refined."""
    if "resources" in holder:
        holder["resources"] = resources.to_json()
