"""Whether an executor call is complete. Source: Mesos src/common/validation.cpp (`validateExecutorCall`)."""

import base64

from local.wire.proto import Json


def executor_call_error(call: Json) -> str | None:
    """Why a call is refused with 400."""
    for field in ("type", "executor_id", "framework_id"):
        if field not in call:
            return f"Expecting '{field}' to be present"
    kind = call["type"]
    if kind != "HEARTBEAT" and kind.lower() not in call:
        return f"Expecting '{kind.lower()}' to be present"
    return _update_error(call) if kind == "UPDATE" else None


def _update_error(call: Json) -> str | None:
    status = call["update"]["status"]
    executor_id, framework_id = call["executor_id"]["value"], call["framework_id"]["value"]
    if "uuid" not in status:
        return "Expecting 'uuid' to be present"
    size = len(base64.b64decode(status["uuid"]))
    if size != 16:
        return f"Failed to parse UUID: expecting 16 bytes but got {size}"
    claimed = status.get("executor_id", {}).get("value", executor_id)
    if claimed != executor_id:
        return f"ExecutorID in Call: {executor_id} does not match ExecutorID in TaskStatus: {claimed}"
    who = f"from executor {executor_id} of framework {framework_id}"
    if status.get("source") != "SOURCE_EXECUTOR":
        return f"Received Call {who} with invalid source, expecting 'SOURCE_EXECUTOR'"
    if status["state"] == "TASK_STAGING":
        return f"Received TASK_STAGING {who} which is not allowed"
    return None
