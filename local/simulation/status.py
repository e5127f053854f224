"""What a simulated executor says of its pods: the v1 PodStatus of a pod whose containers all do the same.

It is wrapped as `TaskStatus.data` is between scheduler and executor: base64 of JSON with a version. Nothing is
validated here; a launch that carries no pod is answered without a status.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any

import orjson

Json = dict[str, Any]

_VERSION = 1


def pod_of(task: Json) -> Json | None:
    """The pod in a TaskInfo's data, if there is one."""
    try:
        body = orjson.loads(base64.b64decode(task.get("data", ""), validate=True))
    except (binascii.Error, orjson.JSONDecodeError):
        return None
    pod = body.get("pod") if isinstance(body, dict) else None
    return pod if isinstance(pod, dict) else None


def running(pod: Json, address: str, now: float) -> str:
    """All containers run since `now` (seconds since the epoch). `address`: host:port that logs would come from."""
    at = _rfc3339(now)
    return _envelope(pod, "Running", at, {"running": {"startedAt": at}}, address, ready=True)


def killed(pod: Json, address: str, started: float, now: float) -> str:
    """All containers were ended by SIGTERM."""
    state = {
        "terminated": {
            "exitCode": 143,
            "reason": "Error",
            "startedAt": _rfc3339(started),
            "finishedAt": _rfc3339(now),
        }
    }
    return _envelope(pod, "Failed", _rfc3339(started), state, address, ready=False)


def _envelope(pod: Json, phase: str, started: str, state: Json, address: str, *, ready: bool) -> str:
    kinds = {"Initialized": True, "ContainersReady": ready, "Ready": ready}
    status = {
        "phase": phase,
        "startTime": started,
        "hostIP": address.rpartition(":")[0],
        "conditions": [
            {"type": kind, "status": str(good), "lastProbeTime": None, "lastTransitionTime": started}
            for kind, good in kinds.items()
        ],
        "containerStatuses": [
            {
                "name": one["name"],
                "image": one.get("image", ""),
                "imageID": "simulated",
                "containerID": f"gantry://{pod['metadata']['uid']}/{one['name']}",
                "restartCount": 0,
                "ready": ready,
                "started": ready,
                "state": state,
                "lastState": {},
            }
            for one in pod["spec"]["containers"]
        ],
    }
    body = {"version": _VERSION, "status": status, "server": address, "events": []}
    return base64.b64encode(orjson.dumps(body)).decode("ascii")


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
