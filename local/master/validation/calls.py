"""Whether a scheduler call or an executor call is complete.

Source: Mesos src/master/validation.cpp (namespace `scheduler::call`), src/common/validation.cpp
(`validateExecutorCall`).
"""

import base64

from local.wire.proto import Json

_NO_BODY = frozenset(("TEARDOWN", "REVIVE", "SUPPRESS"))


def uuid_error(text: str) -> str | None:
    """A uuid travels as base64 of its 16 bytes."""
    size = len(base64.b64decode(text))
    return None if size == 16 else f"Failed to parse UUID: expecting 16 bytes but got {size}"


def scheduler_call_error(call: Json, principal: str | None) -> str | None:
    """Why a scheduler call is refused with 400; `principal` is the authenticated one."""
    if "type" not in call:
        return "Expecting 'type' to be present"
    kind = call["type"]
    field = kind.lower()
    if kind == "SUBSCRIBE":
        return _subscribe_error(call, principal)
    if "framework_id" not in call:
        return "Expecting 'framework_id' to be present"
    if kind not in _NO_BODY and field not in call:
        return f"Expecting '{field}' to be present"
    if kind in ("ACKNOWLEDGE", "ACKNOWLEDGE_OPERATION_STATUS"):
        error = uuid_error(call[field]["uuid"])
        if error is None and kind != "ACKNOWLEDGE" and "agent_id" not in call[field]:
            error = "Expecting 'agent_id' to be present"
        return error
    if kind == "UPDATE_FRAMEWORK" and call[field]["framework_info"].get("id") != call["framework_id"]:
        return "'framework_id' differs from 'update_framework.framework_info.id'"
    return None


def _subscribe_error(call: Json, principal: str | None) -> str | None:
    if "subscribe" not in call:
        return "Expecting 'subscribe' to be present"
    info = call["subscribe"]["framework_info"]
    if info.get("id", {}).get("value", "") != call.get("framework_id", {}).get("value", ""):
        return "'framework_id' differs from 'subscribe.framework_info.id'"
    claimed = info.get("principal", principal)
    if principal is not None and claimed != principal:
        return f"Authenticated principal '{principal}' does not match principal '{claimed}' set in `FrameworkInfo`"
    return None
