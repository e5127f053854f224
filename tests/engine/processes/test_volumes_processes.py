"""Volumes on agents that never come back, against real processes."""

from __future__ import annotations

import json

import pytest

from tests.engine.processes.local import Local

pytestmark = [pytest.mark.xdist_group("uninstall")]

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"


def test_a_volume_to_be_destroyed_is_forgotten_when_its_agent_is_marked_gone(local: Local) -> None:
    local.start("agent-1")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    local.call("POST", CLAIMS, body)
    mounts = [{"name": "v", "mountPath": "/data"}]
    local.create(
        "a",
        containers=[{"name": "main", "image": "localhost/x", "volumeMounts": mounts}],
        volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    )
    local.all_running(1)
    local.call("DELETE", "/api/v1/namespaces/default/pods/a")
    local.until("the end of the pod", lambda: not local.items())
    (node,) = local.items("/api/v1/nodes")
    local.kill("agent-1")
    local.call("DELETE", f"{CLAIMS}/data")
    local.until("no claim", lambda: not local.items(CLAIMS))
    (volume,) = local.items(VOLUMES)
    local.until("its release", lambda: local.items(VOLUMES)[0]["status"]["phase"] == "Released")
    agent_id = node["spec"]["providerID"].removeprefix("mesos://")
    local.operate("MARK_AGENT_GONE", agent_id={"value": agent_id})
    local.until("no volume", lambda: not local.items(VOLUMES))
    local.until("the event", lambda: "VolumeGone" in local.get("/api/v1/namespaces/default/events"))
    events = json.loads(local.get("/api/v1/namespaces/default/events"))["items"]
    (told,) = [one for one in events if one["reason"] == "VolumeGone"]
    assert told["involvedObject"]["name"] == volume["metadata"]["name"]
