"""RESERVE, UNRESERVE, CREATE and DESTROY of an ACCEPT: checked, taken into the books, sent to the agent.

Feedback is not there: an operation with an id is refused as by a master whose agent has no
AGENT_OPERATION_FEEDBACK. What was done shows in the next offer.

Source: Mesos src/master/master.cpp (`Master::_accept`, `Master::_apply`).
"""

import logging

from local.master.cluster import Cluster
from local.master.model import Agent, Framework
from local.master.validation.operations import KINDS, operation_error, resources_of, source_of
from local.master.validation.resources import bag
from local.reservations import ConversionError, apply, checkpointed, conversions
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)

__all__ = ["KINDS", "OperationError", "Operations", "checkpoint_message"]


class OperationError(Exception):
    """Why an operation is dropped, in Mesos' words."""


def checkpoint_message(agent: Agent) -> Json:
    """All dynamic reservations and volumes that the agent has now."""
    return {"type": "CHECKPOINT_RESOURCES", "resources": checkpointed(agent.total).to_json()}


class Operations:
    """Acts on the resources of agents."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def perform(self, framework: Framework, agent: Agent, operation: Json, remaining: Resources) -> Resources:
        """Do one operation out of `remaining`, and return what that is then. Raises OperationError."""
        if "id" in operation:
            raise OperationError(
                f"Operation on agent default resources requested feedback, but agent {agent.agent_id} does not "
                "have the required AGENT_OPERATION_FEEDBACK and RESOURCE_PROVIDER capabilities"
            )
        known, used = checkpointed(agent.total), sum(agent.used(), Resources()).unallocate()
        error = operation_error(operation, framework.info, known, used)
        if error is not None:
            raise OperationError(
                f"{error}; on agent {agent.agent_id} at {agent.pid} ({agent.info['hostname']})"
            )
        kind = operation["type"]
        many = conversions(kind, bag(resources_of(operation)), bag(source_of(operation)))
        try:
            result = apply(remaining, many)
        except ConversionError as reason:
            raise OperationError(str(reason)) from reason
        log.info("%s of framework %s on agent %s", kind, framework.framework_id, agent.agent_id)
        for consumed, converted in many:
            agent.total = agent.total - consumed.unallocate() + converted.unallocate()
            self._cluster.allocator.convert(framework.framework_id, agent.agent_id, consumed, converted)
        agent.send(checkpoint_message(agent))
        return result
