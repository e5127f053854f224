"""Create, replace, patch, dry runs and what each refuses."""

import asyncio

import pytest
import yaml

from scheduler.store import NotLeading, Unavailable

PODS = "/api/v1/namespaces/default/pods"


async def test_created_pod_is_complete_and_stored(api, pod, store):
    answer = await api("POST", PODS, pod(labels={"app": "x"}))
    assert answer.status == 201
    made = answer.json
    assert list(made)[:3] == ["apiVersion", "kind", "metadata"]
    meta = made["metadata"]
    assert meta["namespace"] == "default"
    assert meta["uid"].startswith("00000000-0000-4000-8000-")
    assert meta["creationTimestamp"] == "2026-03-01T12:00:00Z"
    assert meta["resourceVersion"] == str(store.version)
    assert made["spec"]["restartPolicy"] == "Always"
    assert made["status"]["phase"] == "Pending"
    assert await api.get(f"{PODS}/web") == made


async def test_what_only_the_server_sets_is_not_taken(api, pod):
    body = pod()
    body["metadata"] |= {
        "uid": "mine",
        "creationTimestamp": "2001-01-01T00:00:00Z",
        "deletionTimestamp": "2001-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 5,
        "managedFields": [{"manager": "kubectl"}],
    }
    body["status"] = {"phase": "Running"}
    made = (await api("POST", PODS, body)).json
    assert made["metadata"].keys() == {"name", "namespace", "uid", "creationTimestamp", "resourceVersion"}
    assert made["metadata"]["uid"] != "mine"
    assert made["status"]["phase"] == "Pending"


async def test_an_object_larger_than_the_store_keeps(api, pod, store):
    body = pod()
    body["spec"]["containers"][0]["env"] = [{"name": f"E{i}", "value": "x" * 94_000} for i in range(11)]
    answer = await api("POST", PODS, body)
    assert answer.status == 413
    assert answer.json["reason"] == "RequestEntityTooLarge"
    assert answer.json["message"].startswith("Request entity too large: pods/default/web: the object is 103")
    assert answer.json["message"].endswith("bytes of JSON, the limit is 983040 bytes")
    assert store.list("pods")[0] == []


@pytest.mark.parametrize("error", [Unavailable("waiting for ZooKeeper"), NotLeading("this one follows")])
async def test_a_store_that_is_away_is_503_for_a_moment(api, pod, store, monkeypatch, error):
    async def away(*changes, patient=False):
        raise error

    monkeypatch.setattr(store, "commit", away)
    answer = await api("POST", PODS, pod())
    assert answer.status == 503
    assert answer.json["reason"] == "ServiceUnavailable"
    assert answer.json["message"] == str(error)
    assert answer.headers["Retry-After"] == "1"
    assert (await api("GET", PODS)).status == 200


async def test_name_taken(api, pod):
    await api("POST", PODS, pod())
    answer = await api("POST", PODS, pod())
    assert answer.status == 409
    assert answer.json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "web" already exists',
        "reason": "AlreadyExists",
        "details": {"name": "web", "kind": "pods"},
        "code": 409,
    }


async def test_two_creates_at_once_make_one_pod(api, pod):
    answers = await asyncio.gather(*(api("POST", PODS, pod()) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]


async def test_generate_name_tries_again_when_taken(api, pod):
    body = pod()
    del body["metadata"]["name"]
    body["metadata"]["generateName"] = "job-"
    await api("POST", PODS, pod("job-00000"))
    assert (await api("POST", PODS, body)).json["metadata"]["name"] == "job-00001"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"metadata": {}}, 422, "metadata.name: Required value"),
        (
            {"metadata": {"name": "a", "namespace": "other"}},
            400,
            "namespace of the provided object does not match",
        ),
        ({"metadata": {"name": "a", "resourceVersion": "1"}}, 400, "resourceVersion should not be set"),
        ({"kind": "Node"}, 400, "must be of type Pod"),
        ({"apiVersion": "apps/v1"}, 400, "apps/v1"),
        ({"spec": {"containers": []}}, 422, "spec.containers: Required value"),
        ({"spec": {"containers": "x"}}, 400, "spec.containers"),
    ],
)
async def test_bad_pods_are_refused_by_name(api, pod, change, status, message):
    answer = await api("POST", PODS, {**pod(), **change})
    assert answer.status == status
    assert message in answer.json["message"]


async def test_unsupported_field_is_a_422_that_names_it(api, pod):
    body = pod(setHostnameAsFQDN=True)
    answer = await api("POST", PODS, body)
    assert (answer.status, answer.json["reason"]) == (422, "Invalid")
    assert answer.json["details"]["causes"][0]["field"] == "spec.setHostnameAsFQDN"


async def test_what_should_rather_be_done_is_a_warning(api, pod):
    body = pod()
    name = body["spec"]["containers"][0]["name"]
    key = f"container.apparmor.security.beta.kubernetes.io/{name}"
    body["metadata"]["annotations"] = {key: "unconfined"}
    answer = await api("POST", PODS, body)
    assert answer.status == 201
    assert f"metadata.annotations[{key}]: deprecated since v1.30" in answer.headers["Warning"]


async def test_namespace_must_exist(api, pod):
    answer = await api("POST", "/api/v1/namespaces/nope/pods", pod())
    assert (answer.status, answer.json["message"]) == (404, 'namespaces "nope" not found')


async def test_unknown_and_double_fields_as_field_validation_asks(api, pod):
    text = '{"metadata":{"name":"a"},"spec":{"colour":1,"containers":[{"name":"c","image":"i","image":"j"}]}}'
    strict = await api("POST", PODS, text, fieldValidation="Strict")
    assert strict.status == 400
    assert 'duplicate field "spec.containers[0].image"' in strict.json["message"]
    assert 'unknown field "spec.colour"' in strict.json["message"]
    warned = await api("POST", PODS, text)
    assert warned.status == 201
    assert warned.warnings == [
        '299 - "duplicate field \\"spec.containers[0].image\\""',
        '299 - "unknown field \\"spec.colour\\""',
    ]
    assert "colour" not in warned.json["spec"]
    ignored = await api("POST", PODS, text.replace('"a"', '"b"'), fieldValidation="Ignore")
    assert (ignored.status, ignored.warnings) == (201, [])
    bad = await api("POST", PODS, text, fieldValidation="Maybe")
    assert (bad.status, "Maybe" in bad.json["message"]) == (400, True)


async def test_yaml_in_and_out(api, pod):
    answer = await api(
        "POST",
        PODS,
        yaml.safe_dump(pod()),
        headers={"Content-Type": "application/yaml", "Accept": "application/yaml"},
    )
    assert answer.status == 201
    assert answer.headers["Content-Type"] == "application/yaml"
    assert yaml.safe_load(answer.text)["metadata"]["name"] == "web"


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        ('{"a":\n 1,}', "application/json", 400, "not valid JSON: line 2 column"),
        ("a: [", "application/yaml", 400, "not valid YAML: line 1 column"),
        ("[]", "application/json", 400, "must be an object, it is a list"),
        ("", "application/json", 400, "must be an object, it is empty"),
        ("a=b", "application/x-www-form-urlencoded", 415, "accepted media types include: application/json"),
        ("k8s\0", "application/vnd.kubernetes.protobuf", 400, "is not taken as protobuf"),
    ],
)
async def test_malformed_bodies(api, body, kind, status, message):
    answer = await api("POST", PODS, body, headers={"Content-Type": kind})
    assert (answer.status, answer.json["kind"]) == (status, "Status")
    assert message in answer.json["message"]


async def test_body_that_is_not_gzip(api):
    answer = await api("POST", PODS, b"xx", headers={"Content-Encoding": "gzip"})
    assert (answer.status, "cannot be read" in answer.json["message"]) == (400, True)


async def test_body_too_large(api):
    answer = await api("POST", PODS, b'"' + b"x" * (3 << 20) + b'"')
    assert (answer.status, answer.json["reason"]) == (413, "RequestEntityTooLarge")


async def test_dry_run_checks_everything_and_stores_nothing(api, pod, store):
    version = store.version
    answer = await api("POST", PODS, pod(), dryRun="All")
    assert (answer.status, answer.json["spec"]["restartPolicy"]) == (201, "Always")
    assert (await api("POST", "/api/v1/namespaces/nope/pods", pod(), dryRun="All")).status == 404
    assert store.version == version
    await api("POST", PODS, pod())
    assert (await api("POST", PODS, pod(), dryRun="All")).status == 409
    patch = {"metadata": {"labels": {"a": "b"}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    answer = await api("PATCH", f"{PODS}/web", patch, headers=merge, dryRun="All")
    assert answer.json["metadata"]["labels"] == {"a": "b"}
    assert answer.json["metadata"]["resourceVersion"] == str(store.version)
    deleted = await api("DELETE", f"{PODS}/web", dryRun="All")
    assert deleted.status == 200
    assert "labels" not in (await api.get(f"{PODS}/web"))["metadata"]
    assert (await api("POST", PODS, pod("x"), dryRun="Some")).status == 400


async def test_replace(api, pod):
    made = (await api("POST", PODS, pod())).json
    made["metadata"]["labels"] = {"a": "b"}
    answer = await api("PUT", f"{PODS}/web", made)
    assert answer.status == 200
    assert answer.json["metadata"]["labels"] == {"a": "b"}
    assert int(answer.json["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    # The same again is no change; the version it was read at is now old.
    stale = await api("PUT", f"{PODS}/web", made)
    assert (stale.status, stale.json["reason"]) == (409, "Conflict")
    assert stale.json["message"].startswith(
        'Operation cannot be fulfilled on pods "web": the object has been modified'
    )
    same = await api("PUT", f"{PODS}/web", answer.json)
    assert same.json["metadata"]["resourceVersion"] == answer.json["metadata"]["resourceVersion"]


async def test_replace_refusals(api, pod):
    made = (await api("POST", PODS, pod())).json
    assert (await api("PUT", f"{PODS}/nope", pod("nope"))).status == 404
    other = await api("PUT", f"{PODS}/web", pod("other"))
    assert (other.status, "does not match the name on the URL" in other.json["message"]) == (400, True)
    made["metadata"]["uid"] = "11111111-0000-0000-0000-000000000000"
    assert (await api("PUT", f"{PODS}/web", made)).status == 409
    changed = await api("PUT", f"{PODS}/web", pod(hostname="h"))
    assert (changed.status, changed.json["details"]["causes"][0]["field"]) == (422, "spec")


async def test_the_three_patches(api, pod):
    await api("POST", PODS, pod(labels={"a": "1"}))

    async def patch(kind, body):
        answer = await api("PATCH", f"{PODS}/web", body, headers={"Content-Type": f"application/{kind}+json"})
        return (
            answer.status,
            (answer.json.get("metadata") or {}).get("labels"),
            answer.json.get("message", ""),
        )

    assert await patch("merge-patch", {"metadata": {"labels": {"b": "2"}}}) == (200, {"a": "1", "b": "2"}, "")
    assert await patch("json-patch", [{"op": "remove", "path": "/metadata/labels/a"}]) == (
        200,
        {"b": "2"},
        "",
    )
    strategic = {"metadata": {"labels": {"c": "3"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}}
    assert await patch("strategic-merge-patch", strategic) == (200, {"b": "2", "c": "3"}, "")
    assert (await api.get(f"{PODS}/web"))["spec"]["containers"][0]["image"] == "new"
    status, _, message = await patch("json-patch", [{"op": "test", "path": "/kind", "value": "Node"}])
    assert (status, "the value differs" in message) == (422, True)
    status, _, message = await patch("merge-patch", ["x"])
    assert (status, "must be an object" in message) == (400, True)
    status, _, message = await patch("strategic-merge-patch", {"spec": {"containers": [{"image": "x"}]}})
    assert (status, "merge key 'name'" in message) == (400, True)
    status, _, message = await patch("merge-patch", {"metadata": {"name": "other"}})
    assert (status, "does not match the name on the URL" in message) == (400, True)
    status, _, message = await patch("merge-patch", {"metadata": {"resourceVersion": "1"}})
    assert status == 409
    status, _, message = await patch("merge-patch", {"spec": {"containers": "x"}})
    assert (status, "spec.containers" in message) == (400, True)


async def test_server_side_apply_and_unknown_patches_are_415(api, pod):
    await api("POST", PODS, pod())
    apply = await api("PATCH", f"{PODS}/web", "{}", headers={"Content-Type": "application/apply-patch+yaml"})
    assert (apply.status, apply.json["message"]) == (
        415,
        "server-side apply is not available yet; apply without --server-side",
    )
    other = await api("PATCH", f"{PODS}/web", "{}")
    assert (other.status, "application/merge-patch+json" in other.json["message"]) == (415, True)


async def test_status_and_spec_are_written_apart(api, pod):
    await api("POST", PODS, pod())
    merge = {"Content-Type": "application/merge-patch+json"}
    body = {"metadata": {"labels": {"a": "b"}}, "spec": {"hostname": "h"}, "status": {"phase": "Running"}}
    answer = await api("PATCH", f"{PODS}/web/status", body, headers=merge)
    assert answer.status == 200
    assert answer.json["status"]["phase"] == "Running"
    assert "labels" not in answer.json["metadata"]
    assert "hostname" not in answer.json["spec"]
    answer = await api("PATCH", f"{PODS}/web", {"status": {"phase": "Failed"}}, headers=merge)
    assert answer.json["status"]["phase"] == "Running"
    assert (await api.get(f"{PODS}/web/status"))["status"]["phase"] == "Running"


async def test_binding(api, pod, stored):
    await stored("nodes", "", "n1", metadata={})
    await api("POST", PODS, pod())
    body = {"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": "n1"}}
    assert (await api("POST", f"{PODS}/web/binding", {"target": {"name": "n2"}})).status == 404
    assert (await api("POST", f"{PODS}/web/binding", {"target": {"kind": "Pod", "name": "n1"}})).status == 400
    assert (await api("POST", f"{PODS}/web/binding", body)).status == 201
    assert (await api.get(f"{PODS}/web"))["spec"]["nodeName"] == "n1"
    again = await api("POST", f"{PODS}/web/binding", body)
    assert (again.status, "already assigned to node" in again.json["message"]) == (409, True)
