"""The OpenAPI documents: complete in themselves, and what kubectl looks for is there."""

import hashlib
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scheduler.registry import RESOURCES
from scheduler.registry.openapi import group_path, openapi_v2, openapi_v3, openapi_v3_index
from shared.models.base import patch_schema
from shared.models.pod import PodSpec

VERSION = "v1.32.0"
POD = {"group": "", "version": "v1", "kind": "Pod"}


@pytest.fixture(scope="module")
def v2():
    return json.loads(openapi_v2(RESOURCES, VERSION))


@pytest.fixture(scope="module")
def v3():
    return json.loads(openapi_v3(RESOURCES, VERSION, "api/v1") or b"")


def references(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_somewhere(v2, v3):
    found = set(references(v2))
    assert len(found) > 100
    assert {one.removeprefix("#/definitions/") for one in found} <= set(v2["definitions"])
    found = set(references(v3))
    assert len(found) > 100
    assert {one.removeprefix("#/components/schemas/") for one in found} <= set(v3["components"]["schemas"])


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation, item["parameters"]


@pytest.mark.parametrize("dialect", ["v2", "v3"])
def test_patch_offers_server_side_validation(dialect, request):
    """kubectl's QueryParamVerifier: the PATCH operation of the kind, by group, version and kind."""
    document = request.getfixturevalue(dialect)
    for resource in RESOURCES:
        if dialect == "v3":
            document = json.loads(openapi_v3(RESOURCES, VERSION, group_path(resource)) or b"")
        patches = [
            operation
            for _, method, operation, _ in operations(document)
            if method == "patch" and operation["x-kubernetes-group-version-kind"]["kind"] == resource.kind
        ]
        assert bool(patches) == ("patch" in resource.verbs)
        for operation in patches:
            names = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
            assert {"fieldValidation", "dryRun"} <= names


@pytest.mark.parametrize("dialect", ["v2", "v3"])
def test_operations_are_distinct_and_declare_their_path(dialect, request):
    seen = set()
    for path, method, operation, shared in operations(request.getfixturevalue(dialect)):
        assert operation["operationId"] not in seen, f"{method} {path}"
        seen.add(operation["operationId"])
        declared = {one["name"] for one in shared if one["in"] == "path"}
        assert declared == {part.strip("{}") for part in path.split("/") if part.startswith("{")}
    assert {"readCoreV1NamespacedPod", "listCoreV1PodForAllNamespaces", "patchCoreV1NodeStatus"} <= seen


def test_paths_are_those_that_are_served(v3):
    assert {
        "/api/v1/pods",
        "/api/v1/namespaces/{namespace}/pods",
        "/api/v1/namespaces/{namespace}/pods/{name}",
        "/api/v1/namespaces/{namespace}/pods/{name}/status",
        "/api/v1/nodes",
        "/api/v1/nodes/{name}",
        "/api/v1/namespaces/{name}",
    } <= set(v3["paths"])
    assert "delete" not in v3["paths"]["/api/v1/namespaces"]


def test_kinds_are_marked(v2, v3):
    name = "io.k8s.api.core.v1.Pod"
    for schemas in (v2["definitions"], v3["components"]["schemas"]):
        assert schemas[name]["x-kubernetes-group-version-kind"] == [POD]
        assert schemas[f"{name}List"]["x-kubernetes-group-version-kind"] == [{**POD, "kind": "PodList"}]


def test_a_schema_carries_types_descriptions_and_merge_keys(v2, v3):
    spec = v2["definitions"]["io.k8s.api.core.v1.PodSpec"]
    assert spec["required"] == ["containers"]
    assert spec["properties"].keys() == patch_schema(PodSpec).keys()
    assert spec["properties"]["containers"]["x-kubernetes-patch-merge-key"] == "name"
    assert spec["properties"]["volumes"]["x-kubernetes-patch-strategy"] == "merge,retainKeys"
    assert spec["properties"]["priority"] == {
        "type": "integer",
        "format": "int32",
        "description": "Its priority, from the PriorityClass.",
    }
    affinity = v3["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["affinity"]
    assert affinity == {
        "allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Affinity"}],
        "description": "Rules about its place.",
    }
    limits = v3["components"]["schemas"]["io.k8s.api.core.v1.ResourceRequirements"]["properties"]["limits"]
    assert limits["additionalProperties"]["$ref"].endswith("io.k8s.apimachinery.pkg.api.resource.Quantity")


def test_a_pod_of_ours_fits_the_schema(v3, create, manifest):
    jsonschema = pytest.importorskip("jsonschema")
    pod, errors = create(manifest(container={"resources": {"limits": {"cpu": "1"}}}))
    assert errors == []
    schema = {"$ref": "#/components/schemas/io.k8s.api.core.v1.Pod", "components": v3["components"]}
    validator = jsonschema.Draft4Validator(schema)
    assert list(validator.iter_errors(pod)) == []
    pod["spec"]["containers"][0]["image"] = 5
    assert len(list(validator.iter_errors(pod))) == 1


def test_the_index_points_to_the_documents_by_their_hash():
    paths = json.loads(openapi_v3_index(RESOURCES, VERSION))["paths"]
    expected = {}
    for path in ("api/v1", "apis/node.k8s.io/v1", "apis/storage.k8s.io/v1"):
        digest = hashlib.sha512(openapi_v3(RESOURCES, VERSION, path) or b"").hexdigest().upper()
        expected[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    assert paths == expected
    document = openapi_v3(RESOURCES, VERSION, "api/v1")
    assert openapi_v3(RESOURCES, VERSION, "apis/apps/v1") is None
    assert openapi_v3(RESOURCES, VERSION, "api/v1") is document


class Discovery(BaseHTTPRequestHandler):
    """As much of an API server as `kubectl explain` asks for."""

    def do_GET(self):
        pages = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {
                "kind": "APIResourceList",
                "groupVersion": "v1",
                "resources": [
                    {
                        "name": one.plural,
                        "kind": one.kind,
                        "namespaced": one.namespaced,
                        "verbs": list(one.verbs),
                    }
                    for one in RESOURCES
                ],
            },
        }
        path = self.path.partition("?")[0]
        body = json.dumps(pages[path]).encode() if path in pages else b""
        if path == "/openapi/v3":
            body = openapi_v3_index(RESOURCES, VERSION)
        elif path == "/openapi/v3/api/v1":
            body = openapi_v3(RESOURCES, VERSION, "api/v1") or b""
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Discovery) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_explains_from_it(server, tmp_path):
    done = subprocess.run(
        ["kubectl", "--server", server, "--cache-dir", tmp_path, "explain", "pod.spec.containers.ports"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), "KUBECONFIG": "/dev/null"},
    )
    assert done.returncode == 0, done.stderr
    assert "FIELD: ports <[]ContainerPort>" in done.stdout
    assert "containerPort\t<integer> -required-" in done.stdout
