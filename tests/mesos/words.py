"""What schedulers, masters and agents of Mesos 1.12 were recorded saying, for the drivers' tests."""

from typing import Any

FRAMEWORK = {
    "user": "root",
    "name": "gantry",
    "roles": ["gantry"],
    "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
    "checkpoint": True,
    "failover_timeout": 604800.0,
}
MASTER_INFO = {"id": "M", "version": "1.12.0-dev", "address": {"ip": "127.0.0.1", "port": 5050}}


def subscribed(**more: Any) -> dict[str, Any]:
    """The master's first event."""
    body = {
        "framework_id": {"value": "F-0002"},
        "heartbeat_interval_seconds": 15.0,
        "master_info": MASTER_INFO,
        **more,
    }
    return {"type": "SUBSCRIBED", "subscribed": body}


SUBSCRIBED = subscribed()

OFFER = {
    "id": {"value": "O5"},
    "agent_id": {"value": "S0"},
    "framework_id": {"value": "F-0002"},
    "resources": [],
}
OFFERS = {"type": "OFFERS", "offers": {"offers": [OFFER]}}
STATUS = {
    "task_id": {"value": "t.1"},
    "state": "TASK_RUNNING",
    "agent_id": {"value": "S0"},
    "uuid": "jZKTaWS6SBe=",
}
UPDATE = {"type": "UPDATE", "update": {"status": STATUS}}

FRAMEWORK_INFO = {"id": {"value": "F-0002"}, "name": "gantry"}
EXECUTOR_INFO = {"executor_id": {"value": "gantry.1"}, "type": "CUSTOM"}
AGENT_INFO = {"id": {"value": "S0"}, "hostname": "127.0.0.1"}
EXECUTOR_SUBSCRIBED = {
    "type": "SUBSCRIBED",
    "subscribed": {
        "executor_info": EXECUTOR_INFO,
        "framework_info": FRAMEWORK_INFO,
        "agent_info": AGENT_INFO,
    },
}
"""The agent's first event, to an executor."""
