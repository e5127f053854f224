"""Get, list, selectors, pages, tables, what else a client may ask for."""

import gzip
from datetime import timedelta

import orjson
import pytest

from scheduler.api.pages import KEEP, Token

PODS = "/api/v1/namespaces/default/pods"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def names(listing):
    return [item["metadata"]["name"] for item in listing["items"]]


async def test_get_is_the_stored_bytes(api, pod, store):
    await api("POST", PODS, pod())
    answer = await api("GET", f"{PODS}/web")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.text.encode() == store.list("pods")[0][0].raw


async def test_missing_object_and_missing_path(api):
    answer = await api("GET", f"{PODS}/nope")
    assert (answer.status, answer.json["message"]) == (404, 'pods "nope" not found')
    answer = await api("GET", "/apis/apps/v1/deployments")
    assert (answer.status, answer.json["message"]) == (
        404,
        "the server could not find the requested resource",
    )


async def test_wrong_method(api):
    answer = await api("PUT", PODS, {})
    assert (answer.status, answer.json["reason"]) == (405, "MethodNotAllowed")
    assert answer.headers["Allow"] == "DELETE, GET, POST"
    answer = await api("POST", "/api/v1/namespaces/default/services", {"metadata": {"name": "s"}})
    assert (answer.status, answer.json["message"]) == (
        405,
        'create is not supported on resources of kind "services"',
    )


async def test_list_of_nothing(api, store):
    assert await api.get(PODS) == {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(store.version)},
        "items": [],
    }


async def test_list_of_one_namespace_and_of_all(api, pod, store):
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "team"}})
    await api("POST", PODS, pod("b"))
    await api("POST", PODS, pod("a"))
    await api("POST", "/api/v1/namespaces/team/pods", pod("c"))
    listing = await api.get(PODS)
    assert names(listing) == ["a", "b"]
    assert listing["metadata"] == {"resourceVersion": str(store.version)}
    assert names(await api.get("/api/v1/pods")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"labelSelector": "app=x"}, ["a", "c"]),
        ({"labelSelector": "app in (x),tier!=db"}, ["a"]),
        ({"labelSelector": "!tier"}, ["a"]),
        ({"fieldSelector": "metadata.name=b"}, ["b"]),
        ({"fieldSelector": "metadata.name!=b"}, ["a", "c"]),
        ({"fieldSelector": "spec.nodeName=n1"}, ["c"]),
        ({"fieldSelector": "status.phase=Running", "labelSelector": "app=x"}, ["c"]),
        ({"fieldSelector": "metadata.name=b", "labelSelector": "app=x"}, []),
        ({"fieldSelector": "metadata.name=nope"}, []),
    ],
)
async def test_selectors(api, pod, running, query, expected):
    for name, labels in [
        ("a", {"app": "x"}),
        ("b", {"app": "y", "tier": "web"}),
        ("c", {"app": "x", "tier": "db"}),
    ]:
        await api("POST", PODS, pod(name, labels=labels))
    await running("c")
    assert names(await api.get(PODS, **query)) == expected
    assert names(await api.get("/api/v1/pods", **query)) == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"labelSelector": "a in"}, "unable to parse requirement"),
        ({"fieldSelector": "spec.colour=red"}, "field label not supported: spec.colour"),
        ({"fieldSelector": "nonsense"}, "invalid selector"),
        ({"limit": "many"}, "limit: 'many' is not a number"),
        ({"limit": "-1"}, "must be at least 0"),
        ({"continue": "xyz"}, "continue key is not valid"),
        ({"resourceVersion": "abc"}, "resourceVersion: 'abc' is not a number"),
        ({"resourceVersionMatch": "Exact"}, "forbidden unless resourceVersion"),
        ({"resourceVersionMatch": "Near", "resourceVersion": "1"}, "neither Exact nor NotOlderThan"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, "forbidden for resourceVersion"),
        ({"watch": "perhaps"}, "neither true nor false"),
        ({"watch": "1", "sendInitialEvents": "true"}, "requires resourceVersionMatch=NotOlderThan"),
        ({"watch": "1", "resourceVersionMatch": "NotOlderThan"}, "unless sendInitialEvents"),
        ({"watch": "1", "timeoutSeconds": "x"}, "timeoutSeconds"),
    ],
)
async def test_bad_queries_are_400(api, query, message):
    answer = await api("GET", PODS, **query)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert message in answer.json["message"]


async def test_resource_version_of_a_list(api, pod, store):
    await api("POST", PODS, pod())
    now = store.version
    for query in (
        {"resourceVersion": 0},
        {"resourceVersion": 1},
        {"resourceVersion": now, "resourceVersionMatch": "Exact"},
    ):
        assert names(await api.get(PODS, **query)) == ["web"]
    past = await api("GET", PODS, resourceVersion=1, resourceVersionMatch="Exact")
    assert (past.status, past.json["reason"]) == (410, "Expired")
    future = await api("GET", PODS, resourceVersion=now + 10)
    assert (future.status, future.json["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
    assert future.headers["Retry-After"] == "1"


async def test_pages_show_one_moment(api, pod, clock):
    for name in "abcde":
        await api("POST", PODS, pod(name))
    first = await api.get(PODS, limit=2)
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["a", "b"], 3)
    await api("DELETE", f"{PODS}/c")
    await api("POST", PODS, pod("bb"))
    second = await api.get(PODS, limit=2, **{"continue": first["metadata"]["continue"]})
    assert names(second) == ["c", "d"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    last = await api.get(PODS, limit=2, **{"continue": second["metadata"]["continue"]})
    assert names(last) == ["e"]
    assert "continue" not in last["metadata"]


async def test_pages_that_are_too_old_go_on_in_the_present(api, pod, clock):
    for name in "abcd":
        await api("POST", PODS, pod(name))
    first = await api.get(PODS, limit=2)
    await api("POST", PODS, pod("bb"))
    clock.now += KEEP + timedelta(seconds=1)
    answer = await api("GET", PODS, limit=2, **{"continue": first["metadata"]["continue"]})
    assert (answer.status, answer.json["reason"]) == (410, "Expired")
    rest = await api.get(PODS, **{"continue": answer.json["metadata"]["continue"]})
    assert names(rest) == ["bb", "c", "d"]


async def test_page_token_of_another_list(api, pod):
    for name in "abc":
        await api("POST", PODS, pod(name, labels={"a": "b"}))
    first = await api.get(PODS, limit=1)
    answer = await api("GET", PODS, labelSelector="a=b", **{"continue": first["metadata"]["continue"]})
    assert (answer.status, "another list" in answer.json["message"]) == (400, True)
    chosen = await api.get(PODS, labelSelector="a=b", limit=2)
    assert "remainingItemCount" not in chosen["metadata"]


def test_token_round_trip():
    token = Token(3, 17, ("default", "ünï"), ("pods", "default", "a=b", ""))
    assert Token.decode(token.encode()) == token


async def test_table(api, pod):
    await api("POST", PODS, pod())
    table = (await api("GET", PODS, headers=TABLE)).json
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [column["name"] for column in table["columnDefinitions"][:5]] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]
    (row,) = table["rows"]
    assert row["cells"][:3] == ["web", "0/1", "Pending"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["name"] == "web"
    one = (await api("GET", f"{PODS}/web", headers=TABLE, includeObject="Object")).json
    assert one["rows"][0]["object"]["spec"]["containers"][0]["name"] == "c"
    none = (await api("GET", PODS, headers=TABLE, includeObject="None")).json
    assert none["rows"][0]["object"] is None
    assert (await api("GET", PODS, headers=TABLE, includeObject="Some")).status == 400


async def test_metadata_only(api, pod):
    await api("POST", PODS, pod())
    accept = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    listing = (await api("GET", PODS, headers=accept)).json
    assert listing["kind"] == "PartialObjectMetadataList"
    assert listing["items"][0].keys() == {"kind", "apiVersion", "metadata"}
    accept = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
    assert (await api("GET", f"{PODS}/web", headers=accept)).json["kind"] == "PartialObjectMetadata"


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        ("*/*", 200, "application/json"),
        ("application/vnd.kubernetes.protobuf,application/json", 200, "application/json"),
        ("application/yaml", 200, "application/yaml"),
        ("application/yaml;q=0.5, application/json;q=0.4", 200, "application/yaml"),
        ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", 200, "application/json"),
        ("application/vnd.kubernetes.protobuf", 406, "application/json"),
        ("text/html;q=x", 406, "application/json"),
    ],
)
async def test_negotiation(api, pod, accept, status, content_type):
    await api("POST", PODS, pod())
    answer = await api("GET", f"{PODS}/web", headers={"Accept": accept})
    assert (answer.status, answer.headers["Content-Type"]) == (status, content_type)


async def test_large_lists_are_compressed(api, pod):
    for i in range(40):
        body = pod(f"p{i}")
        body["metadata"]["annotations"] = {"note": "x" * 5000}
        await api("POST", PODS, body)
    url = api.base + PODS
    async with api.session.get(url, headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(orjson.loads(await response.read())["items"]) == 40
    async with api.session.get(url, headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers
        body = await response.read()
        assert len(body) > len(gzip.compress(body)) * 10


@pytest.mark.parametrize("subresource", ["ephemeralcontainers", "proxy", "resize"])
async def test_what_kubernetes_has_and_we_do_not_is_refused_by_name(api, subresource):
    for method in ("GET", "POST"):
        answer = await api(method, f"{PODS}/web/{subresource}")
        assert (answer.status, answer.json["reason"]) == (501, "NotImplemented")
        assert answer.json["message"] == f"pods/{subresource} is not supported by Gantry yet"
