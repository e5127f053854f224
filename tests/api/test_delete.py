"""Deletion: at once, with grace, of collections, of namespaces; eviction; finalizers."""

import asyncio

import pytest

from scheduler.api import housekeeping
from scheduler.api.context import API
from scheduler.api.delete import DeleteOptions, after_delete
from scheduler.api.server import start_server
from scheduler.registry import PODS as POD_RESOURCE
from scheduler.store import Key

PODS = "/api/v1/namespaces/default/pods"
MERGE = {"Content-Type": "application/merge-patch+json"}


async def test_pod_without_a_node_goes_at_once(api, pod, store):
    await api("POST", PODS, pod())
    answer = await api("DELETE", f"{PODS}/web", {"kind": "DeleteOptions", "gracePeriodSeconds": 30})
    assert (answer.status, answer.json["kind"]) == (200, "Pod")
    assert store.get(Key("pods", "default", "web")) is None
    assert (await api("DELETE", f"{PODS}/web")).status == 404


async def test_running_pod_is_marked_and_deletion_only_shortened(api, pod, running, clock):
    await api("POST", PODS, pod(terminationGracePeriodSeconds=60))
    await running("web")
    meta = (await api("DELETE", f"{PODS}/web")).json["metadata"]
    assert (meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"]) == ("2026-03-01T12:01:00Z", 60)
    clock.advance(seconds=5)
    longer = (await api("DELETE", f"{PODS}/web", gracePeriodSeconds=100)).json["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 60
    shorter = (await api("DELETE", f"{PODS}/web", gracePeriodSeconds=20)).json["metadata"]
    assert (shorter["deletionTimestamp"], shorter["deletionGracePeriodSeconds"]) == (
        "2026-03-01T12:00:20Z",
        20,
    )
    now = (await api("DELETE", f"{PODS}/web", {"gracePeriodSeconds": 1})).json["metadata"]
    assert (now["deletionTimestamp"], now["deletionGracePeriodSeconds"]) == ("2026-03-01T12:00:05Z", 1)
    assert (await api("DELETE", f"{PODS}/web", {"gracePeriodSeconds": 0})).status == 200
    assert (await api("GET", f"{PODS}/web")).status == 404


@pytest.mark.parametrize(
    ("spec", "status", "grace", "expected"),
    [
        ({"nodeName": "n"}, {}, None, 30),
        ({"nodeName": "n", "terminationGracePeriodSeconds": 7}, {}, None, 7),
        ({"nodeName": "n", "terminationGracePeriodSeconds": 7}, {}, 3, 3),
        ({"nodeName": "n"}, {}, 0, None),
        ({"nodeName": "n", "terminationGracePeriodSeconds": 2**63 - 1}, {}, None, 2**31 - 1),
        ({"nodeName": "n"}, {"phase": "Succeeded"}, 10, None),
        ({"nodeName": "n"}, {"phase": "Failed"}, None, None),
        ({}, {"phase": "Pending"}, 10, None),
    ],
)
def test_grace(clock, spec, status, grace, expected):
    obj = {"metadata": {"name": "a"}, "spec": spec, "status": status}
    after = after_delete(POD_RESOURCE, obj, DeleteOptions(grace=grace), clock())
    assert (after and after["metadata"]["deletionGracePeriodSeconds"]) == expected
    assert "deletionTimestamp" not in obj["metadata"]


async def test_negative_grace_is_a_second(api, pod, running):
    await api("POST", PODS, pod())
    await running("web")
    answer = await api("DELETE", f"{PODS}/web", gracePeriodSeconds=-1)
    assert answer.json["metadata"]["deletionGracePeriodSeconds"] == 1


async def test_name_of_what_is_being_deleted_is_still_taken(api, pod, running):
    await api("POST", PODS, pod())
    await running("web")
    await api("DELETE", f"{PODS}/web")
    answer = await api("POST", PODS, pod())
    assert (answer.status, answer.json["message"]) == (
        409,
        'object is being deleted: pods "web" already exists',
    )


async def test_preconditions(api, pod):
    made = (await api("POST", PODS, pod())).json["metadata"]
    for wrong in ({"uid": "other"}, {"resourceVersion": "1"}):
        answer = await api("DELETE", f"{PODS}/web", {"preconditions": wrong})
        assert (answer.status, answer.json["reason"]) == (409, "Conflict")
        assert "in the precondition" in answer.json["message"]
    right = {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}
    assert (await api("DELETE", f"{PODS}/web", {"preconditions": right})).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "Pod"},
        [],
        {"gracePeriodSeconds": "soon"},
        {"propagationPolicy": "Sideways"},
        {"preconditions": "x"},
        {"dryRun": ["Some"]},
    ],
)
async def test_bad_options(api, pod, body):
    await api("POST", PODS, pod())
    assert (await api("DELETE", f"{PODS}/web", body)).status == 400
    assert (await api("GET", f"{PODS}/web")).status == 200


async def test_finalizers_hold_an_object_until_the_last_is_removed(api, pod, store):
    body = pod()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await api("POST", PODS, body)
    answer = await api("DELETE", f"{PODS}/web")
    assert answer.json["metadata"]["deletionTimestamp"] == "2026-03-01T12:00:00Z"
    answer = await api("PATCH", f"{PODS}/web", {"metadata": {"finalizers": None}}, headers=MERGE)
    assert answer.status == 200
    assert store.get(Key("pods", "default", "web")) is None


async def test_collection_by_selector(api, pod):
    for name, app in [("a", "x"), ("b", "y"), ("c", "x")]:
        await api("POST", PODS, pod(name, labels={"app": app}))
    answer = await api("DELETE", PODS, labelSelector="app=x")
    assert (answer.status, answer.json["kind"]) == (200, "PodList")
    assert [item["metadata"]["name"] for item in answer.json["items"]] == ["a", "c"]
    assert [item["metadata"]["name"] for item in (await api.get(PODS))["items"]] == ["b"]


async def test_deleting_what_is_no_pod_answers_with_a_status(api):
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"},
    }
    events = "/api/v1/namespaces/default/events"
    made = (await api("POST", events, event)).json
    assert (await api("DELETE", f"{events}/e")).json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": "e", "kind": "events", "uid": made["metadata"]["uid"]},
    }


async def test_eviction_deletes(api, pod, running):
    await api("POST", PODS, pod())
    await running("web")
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "deleteOptions": {"gracePeriodSeconds": 3}}
    assert (await api("POST", f"{PODS}/web/eviction", body)).status == 201
    assert (await api.get(f"{PODS}/web"))["metadata"]["deletionGracePeriodSeconds"] == 3
    assert (await api("POST", f"{PODS}/web/eviction", {"kind": "Pod"})).status == 400


async def test_namespace_goes_when_its_pods_are_gone(api, pod, store, stored):
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "team"}})
    pods = "/api/v1/namespaces/team/pods"
    for name in ("idle", "busy"):
        await api("POST", pods, pod(name))
    await stored("pods", "team", "busy", spec={"nodeName": "n1"}, status={"phase": "Running"})
    stream = await api.watch(pods, resourceVersion=store.version)
    spaces = await api.watch("/api/v1/namespaces", resourceVersion=store.version)
    answer = await api("DELETE", "/api/v1/namespaces/team")
    assert answer.json["status"]["phase"] == "Terminating"
    assert sorted(await stream.take(2)) == [("DELETED", "idle"), ("MODIFIED", "busy")]
    refused = await api("POST", pods, pod("late"))
    assert (refused.status, "it is being terminated" in refused.json["message"]) == (403, True)
    assert (await api("GET", "/api/v1/namespaces/team")).status == 200
    await store.commit(
        (Key("pods", "team", "busy"), lambda old: None)
    )  # as the engine does when it has ended
    assert await spaces.take(2) == [("MODIFIED", "team"), ("DELETED", "team")]
    assert (await api("GET", "/api/v1/namespaces/team")).status == 404
    stream.close()
    spaces.close()


async def test_namespace_deletion_goes_on_after_a_restart(app, store, pod):
    team = {"metadata": {"name": "team", "deletionTimestamp": "2026-03-01T11:00:00Z"}}
    await store.commit((Key("namespaces", "", "team"), lambda old: team))
    await store.commit((Key("pods", "team", "web"), lambda old: pod()))
    watch = store.watch("namespaces")
    runner, _ = await start_server(app, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(60):
            async for event in watch:
                if event.type == "DELETED":
                    break
    finally:
        await runner.cleanup()
    assert store.list("pods", "team")[0] == []


@pytest.mark.parametrize("name", ["default", "kube-system"])
async def test_some_namespaces_stay(api, name):
    answer = await api("DELETE", f"/api/v1/namespaces/{name}")
    assert (answer.status, answer.json["message"]) == (
        403,
        f'namespaces "{name}" is forbidden: this namespace may not be deleted',
    )


async def test_old_events_are_forgotten(api, app, clock):
    events = "/api/v1/namespaces/default/events"
    involved = {"kind": "Pod", "name": "web", "namespace": "default"}
    for name, last in [("old", "2026-03-01T11:59:00Z"), ("new", "2026-03-01T12:30:00Z"), ("none", None)]:
        event = {"metadata": {"name": name}, "involvedObject": involved, "lastTimestamp": last}
        assert (await api("POST", events, event)).status == 201
    clock.advance(minutes=60)
    assert await housekeeping.remove_old_events(app[API]) == 0
    clock.advance(seconds=1)  # an event is at least as new as its creation
    assert await housekeeping.remove_old_events(app[API]) == 2
    assert [item["metadata"]["name"] for item in (await api.get(events))["items"]] == ["new"]


async def test_a_damaged_object_can_be_deleted(api, pod, store):
    key = Key("pods", "default", "web")
    store._quarantined[key] = "its checksum is wrong"
    assert (await api("GET", "/api/v1/namespaces/default/pods/web")).status == 404
    assert (await api("DELETE", "/api/v1/namespaces/default/pods/web?dryRun=All")).status == 404
    assert (await api("DELETE", "/api/v1/namespaces/default/pods/web")).status == 200
    assert store.quarantined == {}
    assert (await api("DELETE", "/api/v1/namespaces/default/pods/web")).status == 404
    store._quarantined[key] = "its checksum is wrong"
    assert (await api("POST", "/api/v1/namespaces/default/pods", pod())).status == 201
    assert store.quarantined == {}
