"""Tokens, web pages, where the server may listen, health, discovery, failures of the store and of ourselves."""

import asyncio
import base64
import socket

import pytest

from scheduler.api.auth import is_loopback
from scheduler.api.checks import Check, HealthReport
from scheduler.api.respond import warning_header
from scheduler.api.server import ConfigError, check_listen, start_server

PODS = "/api/v1/namespaces/default/pods"


class TestToken:
    @pytest.fixture
    def token(self):
        return "s3cret"

    @pytest.mark.parametrize(
        "header", [None, "Bearer wrong", "Basic s3cret", "Bearer", "s3cret", "Bearer s3cret2"]
    )
    async def test_without_it_401(self, api, header):
        answer = await api("GET", PODS, headers={"Authorization": header} if header else {})
        assert (answer.status, answer.json["reason"]) == (401, "Unauthorized")
        assert (await api("GET", "/no/such/path")).status == 401

    async def test_with_it(self, api):
        for header in (
            "Bearer s3cret",
            "bearer  s3cret ",
            "Basic " + base64.b64encode(b"any:s3cret").decode(),
        ):
            answer = await api(
                "GET", PODS, headers={"Authorization": header, "Origin": "http://x", "Host": "x"}
            )
            assert answer.status == 200

    @pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version"])
    async def test_some_paths_are_open(self, api, path):
        assert (await api("GET", path)).status == 200

    async def test_reasons_are_for_those_who_have_it(self, api, report):
        report[0] = HealthReport((Check("mesos", "no master at 10.0.0.1"),))
        assert "[-]mesos failed: reason withheld" in (await api("GET", "/readyz")).text
        answer = await api("GET", "/readyz", headers={"Authorization": "Bearer s3cret"})
        assert "[-]mesos failed: no master at 10.0.0.1" in answer.text


async def test_web_pages_are_refused_without_a_token(api):
    answer = await api("GET", PODS, headers={"Origin": "http://127.0.0.1:1"})
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "Origin" in answer.json["message"]
    answer = await api("GET", PODS, headers={"Host": "evil.example"})
    assert (answer.status, "evil.example" in answer.json["message"]) == (403, True)
    assert (await api("GET", PODS, headers={"Host": "localhost:8080"})).status == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9:80", True),
        ("localhost:8080", True),
        ("a.localhost", True),
        ("[::1]:8080", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("0.0.0.0", False),
        ("[::]", False),
        ("192.168.1.1:80", False),
        ("", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com", ""])
def test_listening_to_others_needs_a_token(host):
    with pytest.raises(ConfigError, match="others could reach this address; give --token-file"):
        check_listen(host, 8080, None)
    check_listen(host, 8080, "token")


async def test_port_in_use(app):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"^--listen 127.0.0.1:{port}: the port is in use; stop the program"
        ):
            await start_server(app, "127.0.0.1", port)


async def test_port_in_use_for_a_while(app, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        starting = asyncio.create_task(start_server(app, "127.0.0.1", port, patience=30.0))
        async with asyncio.timeout(60):
            while "is in use, trying again" not in caplog.text:
                assert not starting.done()
                await asyncio.sleep(0.01)
    runner, serving = await starting
    await runner.cleanup()
    assert serving == port


async def test_address_of_another_machine(app):
    with pytest.raises(ConfigError, match="does not have that address"):
        await start_server(app, "127.0.0.1.invalid.localhost", 0)


async def test_health(api, report):
    for path in ("/healthz", "/livez", "/readyz"):
        answer = await api("GET", path)
        assert (answer.status, answer.text) == (200, "ok")
    report[0] = HealthReport((Check("mesos", "not connected"), Check("engine", fatal=True)))
    ready = await api("GET", "/readyz")
    assert (ready.status, ready.text) == (
        500,
        "[+]ping ok\n[+]store ok\n[-]mesos failed: not connected\n[+]engine ok\nreadyz check failed\n",
    )
    live = await api("GET", "/livez?verbose")
    assert (live.status, live.text) == (200, "[+]ping ok\n[+]store ok\n[+]engine ok\nlivez check passed\n")


async def test_failed_store_is_503_and_not_alive_but_still_read(api, pod, store):
    await api("POST", PODS, pod())
    future = store._thread.submit(lambda: store._file._db.execute("PRAGMA max_page_count = 1").fetchone())
    await asyncio.wrap_future(future)
    big = pod("big")
    big["metadata"]["annotations"] = {"x": "y" * 200_000}
    answer = await api("POST", PODS, big)
    assert (answer.status, answer.json["reason"]) == (503, "ServiceUnavailable")
    assert "disk is full" in answer.json["message"]
    assert (await api("GET", f"{PODS}/web")).status == 200
    assert (await api("GET", "/livez")).status == 500


async def test_bug_is_a_500_status(api, nodes, pod, running, caplog):
    await api("POST", PODS, pod())
    await running("web")
    nodes.error = ZeroDivisionError("oops")
    answer = await api("GET", f"{PODS}/web/log")
    assert (answer.status, answer.json["reason"]) == (500, "InternalError")
    assert "ZeroDivisionError" in caplog.text


async def test_discovery_old_and_new(api):
    listed = {one["name"]: one for one in (await api.get("/api/v1"))["resources"]}
    assert listed["pods"]["shortNames"] == ["po"]
    assert listed["pods"]["namespaced"] is True
    assert listed["pods/log"]["verbs"] == ["get"]
    assert (listed["pods/eviction"]["group"], listed["pods/eviction"]["kind"]) == ("policy", "Eviction")
    assert (await api.get("/api"))["versions"] == ["v1"]
    groups = [one["name"] for one in (await api.get("/apis"))["groups"]]
    assert "authorization.k8s.io" in groups
    assert (await api.get("/apis/authorization.k8s.io"))["preferredVersion"]["version"] == "v1"
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    answer = await api("GET", "/api", headers={"Accept": accept})
    assert answer.headers["Content-Type"].endswith("as=APIGroupDiscoveryList")
    (core,) = answer.json["items"]
    pods = next(one for one in core["versions"][0]["resources"] if one["resource"] == "pods")
    assert (pods["scope"], pods["singularResource"]) == ("Namespaced", "pod")
    assert {one["subresource"] for one in pods["subresources"]} >= {"log", "status"}
    old = await api(
        "GET", "/apis", headers={"Accept": "application/json;as=APIGroupDiscoveryList;v=v9,application/json"}
    )
    assert old.json["kind"] == "APIGroupList"


async def test_every_discovered_verb_is_served(api):
    """No listed resource may answer 404 or 405 to a verb it says it has."""
    for one in (await api.get("/api/v1"))["resources"]:
        if "/" in one["name"]:
            continue
        path = f"/api/v1/{'namespaces/default/' if one['namespaced'] else ''}{one['name']}"
        assert (await api("GET", path)).status == 200
        if "create" in one["verbs"]:
            assert (await api("POST", path, "{")).status == 400


async def test_documents_are_kept_by_etag(api):
    for path in ("/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1"):
        answer = await api("GET", path)
        assert answer.status == 200
        again = await api("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, again.text) == (304, "")
    assert (await api("GET", "/openapi/v3/apis/none/v1")).status == 404
    swagger = (await api("GET", "/openapi/v2")).json
    assert "io.k8s.api.core.v1.Pod" in swagger["definitions"]


async def test_version_and_root(api):
    version = await api.get("/version")
    assert (version["major"], version["minor"], version["gitVersion"]) == ("1", "32", "v1.32.0+gantry-0.1.0")
    paths = (await api.get("/"))["paths"]
    assert {"/api/v1", "/healthz", "/openapi/v2"} <= set(paths)


async def test_self_reviews(api):
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    answer = await api("POST", path, body)
    assert (answer.status, answer.json["status"]["allowed"]) == (201, True)
    assert answer.json["spec"] == body["spec"]
    assert (await api("POST", path, {"kind": "Pod"})).status == 400


async def test_namespaces_that_always_exist(api):
    names = [item["metadata"]["name"] for item in (await api.get("/api/v1/namespaces"))["items"]]
    assert names == ["default", "kube-node-lease", "kube-public", "kube-system"]


def test_warning_header_is_one_quoted_line():
    assert warning_header('unknown field "a\\b"\nx') == '299 - "unknown field \\"a\\\\b\\" x"'
