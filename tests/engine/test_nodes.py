"""Records in the store, Node objects, and the way to the nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from scheduler.framework import records
from scheduler.framework.core.entities import AgentInfo, Kill, Node, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.vectors import Vector
from scheduler.framework.nodeobjects import node_object
from scheduler.framework.nodes import NodeProxy
from scheduler.registry.errors import BadRequest, InternalError, ServiceUnavailable
from scheduler.store import StoreError

Json = dict[str, Any]
NOW = 1_800_000_000.0
POD: Json = {"metadata": {"name": "p1", "namespace": "n", "uid": "u1"}}


# ---- records

TASKS = st.builds(
    Task,
    *(st.text() for _ in range(4)),
    st.integers(1, 9),
    *(st.text() for _ in range(3)),
    state=st.sampled_from(TaskState),
    asked_node=st.text(),
    server=st.text(),
    launched_at=st.floats(0, 2e9),
    failures=st.integers(0, 99),
    kill=st.none() | st.builds(Kill, st.floats(0, 2e9), st.floats(0, 9e9)),
    superseded=st.booleans(),
    moving=st.booleans(),
    newest=st.integers(0, 9),
)


@given(TASKS)
def test_records_come_back_as_they_were(one: Task) -> None:
    assert records.task_from_object(records.task_object(one)) == one


def test_a_record_of_the_future_stops_the_start() -> None:
    one = Task("u1.1", "u1", "n", "p1", 1, "S0", "node-a", "e")
    with pytest.raises(StoreError, match=r"u1\.1 cannot be read"):
        records.task_from_object({**records.task_object(one), "state": "HIBERNATING"})


# ---- nodes


def test_gpus_of_an_agent_can_be_had_as_kubernetes_names_them() -> None:
    node = Node("n", "S1", "h:5051", info=AgentInfo("S1", "n", 5051, total=Vector(4000, 1_024_000, 0, 2000)))
    made = node_object(None, node, uid="u", now=NOW, max_pods=110, version="1")
    assert made["status"]["capacity"]["nvidia.com/gpu"] == "2"
    assert made["status"]["allocatable"] == made["status"]["capacity"]
    plain = replace(node, info=AgentInfo("S1", "n", 5051, total=Vector(4000)))
    without = node_object(made, plain, uid="u", now=NOW, max_pods=110, version="1")
    assert "nvidia.com/gpu" not in without["status"]["allocatable"]


def test_a_node_keeps_what_users_gave_it() -> None:
    info = AgentInfo(
        "S0", "node-a", 5051, (("rack", "r1"),), Vector(3500, 8_192_000, 0), "1.12.0", ip="10.0.0.1"
    )
    node = Node("node-a", "S0", "node-a:5051", info=info)
    facts: Json = {"now": NOW, "max_pods": 110, "version": "0"}
    first = node_object(None, node, uid="n1", **facts)
    assert first["status"]["capacity"] == {
        "cpu": "3500m",
        "memory": "8388608Ki",
        "ephemeral-storage": "0Ki",
        "pods": "110",
    }
    assert {"type": "InternalIP", "address": "10.0.0.1"} in first["status"]["addresses"]
    touched = {
        **first,
        "metadata": {**first["metadata"], "labels": {**first["metadata"]["labels"], "mine": "yes"}},
        "spec": {**first["spec"], "unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}]},
    }
    moved = replace(node, ready=False, info=replace(info, attributes=(("row", "7"),)))
    second = node_object(touched, moved, uid="n2", **facts)
    labels = second["metadata"]["labels"]
    assert (labels["mine"], labels["row"], "rack" in labels) == ("yes", "7", False)
    assert second["metadata"]["uid"] == "n1"
    assert [one["key"] for one in second["spec"]["taints"]] == ["k", *["node.kubernetes.io/unreachable"] * 2]
    assert second["spec"]["unschedulable"]
    assert second["status"]["conditions"][0]["status"] == "Unknown"
    back = node_object(second, node, uid="n3", **facts)
    assert back["spec"]["taints"] == [{"key": "k", "effect": "NoSchedule"}]


@pytest.fixture
async def node_server() -> AsyncIterator[str]:
    async def logs(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer t0ken":
            return web.Response(status=401)
        if request.match_info["container"] == "nope":
            return web.Response(status=404, text='container "nope" not found')
        return web.Response(text=f"{request.path_qs}\n")

    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    server = TestServer(app)
    await server.start_server()
    yield f"{server.host}:{server.port}"
    await server.close()


async def read(proxy: NodeProxy, container: str = "main") -> bytes:
    try:
        return b"".join([one async for one in proxy.logs(POD, container, {"tailLines": "1"})])
    finally:
        await proxy.close()


async def test_logs_come_from_the_node(node_server: str) -> None:
    assert (
        await read(NodeProxy({"u1": (node_server, "t0ken")}.get)) == b"/containerLogs/n/p1/main?tailLines=1\n"
    )


async def test_refusals_of_a_node_are_passed_on(node_server: str) -> None:
    with pytest.raises(BadRequest, match='container "nope" not found'):
        await read(NodeProxy(lambda _: (node_server, "t0ken")), "nope")
    with pytest.raises(InternalError, match="HTTP 401"):
        await read(NodeProxy(lambda _: (node_server, "wrong")))
    with pytest.raises(ServiceUnavailable, match="has not reported yet"):
        await read(NodeProxy(lambda _: None))
    with pytest.raises(aiohttp.ClientError):
        await read(NodeProxy(lambda _: ("127.0.0.1:1", "t0ken")))
