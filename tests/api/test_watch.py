"""Watches over HTTP: what they tell, from when, in which form, and how they end."""

import asyncio

import pytest

from scheduler.api import watch as watching
from scheduler.api.context import API
from scheduler.store import Key

PODS = "/api/v1/namespaces/default/pods"
MERGE = {"Content-Type": "application/merge-patch+json"}
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


@pytest.fixture
async def label(api):
    async def change(name, **labels):
        answer = await api("PATCH", f"{PODS}/{name}", {"metadata": {"labels": labels}}, headers=MERGE)
        assert answer.status == 200
        return answer.json["metadata"]["resourceVersion"]

    return change


async def test_life_of_a_pod(api, pod, label, store):
    stream = await api.watch(PODS, resourceVersion=store.version)
    assert stream.response.headers["Content-Type"] == "application/json"
    made = (await api("POST", PODS, pod())).json
    added = await stream.next()
    assert added == {"type": "ADDED", "object": made}
    version = await label("web", a="b")
    modified = await stream.next()
    assert (modified["type"], modified["object"]["metadata"]["resourceVersion"]) == ("MODIFIED", version)
    await api("DELETE", f"{PODS}/web")
    deleted = await stream.next()
    assert (deleted["type"], deleted["object"]["metadata"]["labels"]) == ("DELETED", {"a": "b"})
    assert int(deleted["object"]["metadata"]["resourceVersion"]) > int(version)
    stream.close()


@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}, {"resourceVersion": ""}])
async def test_without_a_version_it_begins_with_what_is(api, pod, query):
    for name in "ab":
        await api("POST", PODS, pod(name))
    stream = await api.watch(PODS, **query)
    assert await stream.take(2) == [("ADDED", "a"), ("ADDED", "b")]
    await api("POST", PODS, pod("c"))
    assert await stream.take(1) == [("ADDED", "c")]
    stream.close()


async def test_initial_events_end_with_a_bookmark(api, pod, store):
    await api("POST", PODS, pod())
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    stream = await api.watch(PODS, **query)
    assert await stream.take(1) == [("ADDED", "web")]
    assert await stream.next() == {
        "type": "BOOKMARK",
        "object": {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "resourceVersion": str(store.version),
                "creationTimestamp": None,
                "annotations": {"k8s.io/initial-events-end": "true"},
            },
        },
    }
    stream.close()
    answer = await api("GET", PODS, watch=1, resourceVersion=store.version + 5, **query)
    assert answer.status == 504


async def test_initial_events_and_changes_join_without_gap_or_double(api, pod):
    """Pods are made all the time; each watch sees each once, and those after the bookmark are newer than it."""
    made = asyncio.ensure_future(
        asyncio.wait([asyncio.ensure_future(api("POST", PODS, pod(f"p{i}"))) for i in range(60)])
    )
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    for _ in range(5):
        stream = await api.watch(PODS, **query)
        names, bookmark = [], 0
        while len(names) < 60:
            event = await stream.next()
            version = int(event["object"]["metadata"]["resourceVersion"])
            if event["type"] == "BOOKMARK":
                bookmark = version
            else:
                assert version > bookmark
                names.append(event["object"]["metadata"]["name"])
        assert len(set(names)) == 60
        stream.close()
    await made


async def test_no_initial_events_when_not_wanted(api, pod):
    await api("POST", PODS, pod("a"))
    stream = await api.watch(PODS, sendInitialEvents="false", resourceVersionMatch="NotOlderThan")
    await api("POST", PODS, pod("b"))
    assert await stream.take(1) == [("ADDED", "b")]
    stream.close()


async def test_resumes_after_a_version(api, pod):
    versions = [(await api("POST", PODS, pod(name))).json["metadata"]["resourceVersion"] for name in "abc"]
    stream = await api.watch(PODS, resourceVersion=versions[0])
    assert await stream.take(2) == [("ADDED", "b"), ("ADDED", "c")]
    stream.close()


async def test_too_old_a_version_is_an_error_event(api, store, stored):
    for i in range(250):  # more than the test's history
        await stored("things", "", "x", spec={"i": i})
    stream = await api.watch(PODS, resourceVersion=2)
    event = await stream.next()
    assert event["type"] == "ERROR"
    assert (event["object"]["kind"], event["object"]["code"], event["object"]["reason"]) == (
        "Status",
        410,
        "Expired",
    )
    assert event["object"]["message"].startswith("too old resource version: 2")
    assert await stream.next() is None


async def test_label_selector_sees_objects_come_and_go(api, pod, label, store):
    await api("POST", PODS, pod("a"))
    await api("POST", PODS, pod("other"))
    stream = await api.watch(PODS, resourceVersion=store.version, labelSelector="on=yes")
    await label("a", on="yes")
    await label("other", x="y")
    await label("a", on="yes", more="x")
    version = await label("a", on="no")
    await label("a", on="yes")
    await api("DELETE", f"{PODS}/other")
    await api("DELETE", f"{PODS}/a")
    events = [await stream.next() for _ in range(5)]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
    left = events[2]["object"]["metadata"]
    # It is shown as it last was in the selection, under the version of its leaving.
    assert (left["labels"]["on"], left["resourceVersion"]) == ("yes", version)
    stream.close()


async def test_field_selector_of_a_node(api, pod, running, store):
    await api("POST", PODS, pod("a"))
    await api("POST", PODS, pod("b"))
    stream = await api.watch("/api/v1/pods", resourceVersion=store.version, fieldSelector="spec.nodeName=n1")
    await running("b")
    await api("DELETE", f"{PODS}/a")
    await store.commit((Key("pods", "default", "b"), lambda old: None))
    assert await stream.take(2) == [("ADDED", "b"), ("DELETED", "b")]
    stream.close()


async def test_tables_have_their_header_once(api, pod, label, clock):
    await api("POST", PODS, pod())
    stream = await api.watch(PODS, headers=TABLE)
    first = await stream.next()
    clock.advance(minutes=5)
    await label("web", a="b")
    second = await stream.next()
    assert (first["type"], first["object"]["kind"]) == ("ADDED", "Table")
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert second["object"]["columnDefinitions"] is None
    assert second["object"]["rows"][0]["cells"][:5] == ["web", "0/1", "Pending", "0", "5m"]
    assert second["object"]["rows"][0]["object"]["metadata"]["labels"] == {"a": "b"}
    stream.close()


async def test_readers_share_the_bytes_of_an_event(api, pod, store):
    observer = store.watch("pods")
    streams = [await api.watch(PODS, resourceVersion=store.version) for _ in range(3)]
    await api("POST", PODS, pod())
    lines = {await stream.response.content.readline() for stream in streams}
    assert len(lines) == 1
    (event,) = observer.take()
    assert list(event.encoded.values()) == list(lines)
    for stream in streams:
        stream.close()


async def test_bookmarks_come_when_asked_for(api, pod, store, monkeypatch):
    monkeypatch.setattr(watching, "BOOKMARK", 0.05)
    stream = await api.watch(PODS, resourceVersion=store.version, allowWatchBookmarks="true")
    first = await stream.next()
    assert (first["type"], first["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", str(store.version))
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
    async with asyncio.timeout(60):
        while (await stream.next())["object"]["metadata"]["resourceVersion"] != str(store.version):
            pass
    stream.close()


async def test_a_bookmark_never_overtakes_an_event(api, pod, store, monkeypatch):
    monkeypatch.setattr(watching, "BOOKMARK", 0.001)
    stream = await api.watch(PODS, resourceVersion=store.version, allowWatchBookmarks="true")
    for i in range(30):
        await api("POST", PODS, pod(f"p{i}"))
    seen, bookmark = 0, 0
    while seen < 30:
        event = await stream.next()
        version = int(event["object"]["metadata"]["resourceVersion"])
        if event["type"] == "BOOKMARK":
            bookmark = version
        else:
            assert version > bookmark
            seen += 1
    stream.close()


async def test_ends_at_its_time_with_a_bookmark(api, store):
    stream = await api.watch(
        PODS, resourceVersion=store.version, timeoutSeconds=1, allowWatchBookmarks="true"
    )
    assert (await stream.next())["type"] == "BOOKMARK"
    assert await stream.next() is None


async def test_ends_when_the_server_stops(api, server, store):
    stream = await api.watch(PODS, resourceVersion=store.version)
    await server[0].cleanup()
    assert await stream.next() is None


async def test_client_that_goes_away_is_forgotten(api, app, store):
    stream = await api.watch(PODS, resourceVersion=store.version)
    assert len(app[API].watches) == 1
    stream.close()
    async with asyncio.timeout(60):
        await app[API].watches.none.wait()


async def test_client_that_does_not_read_is_dropped(api, app, pod, store, stored, monkeypatch):
    monkeypatch.setattr(watching, "STALLED", 0.05)
    await api("POST", PODS, pod())
    stream = await api.watch(PODS, resourceVersion=store.version)
    for i in range(30):
        await stored("pods", "default", "web", metadata={"annotations": {"x": str(i % 10) * 900_000}})
    async with asyncio.timeout(60):
        await app[API].watches.none.wait()
    stream.close()


async def test_yaml_is_no_stream(api):
    answer = await api("GET", PODS, watch=1, headers={"Accept": "application/yaml"})
    assert (answer.status, answer.json["reason"]) == (406, "NotAcceptable")
