"""Images that are refused: what the user sees with kubectl names the image, the layer and the reason."""

import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]


@pytest.fixture
def pod(cluster):
    """pod(NAME, IMAGE) creates one that runs `true`; deleted after the test."""
    names = []

    def create(name, image, policy="IfNotPresent"):
        container = {"name": "main", "image": image, "imagePullPolicy": policy, "command": ["/bin/true"]}
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
        names.append(name)
        cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    yield create
    for name in names:
        cluster.delete(name)


@pytest.fixture
def refusal(cluster, tools):
    """refusal(NAME) → (the Failed event about the image, the container's waiting reason)."""

    def call(name):
        def failed():
            selector = f"involvedObject.name={name},reason=Failed"
            said = [item["message"] for item in cluster.get("events", "--field-selector", selector)["items"]]
            found = [message for message in said if not message.startswith("Error: ")]
            statuses = cluster.pod(name).get("status", {}).get("containerStatuses") or [{}]
            reason = statuses[0].get("state", {}).get("waiting", {}).get("reason")
            return (found[0], reason) if found and reason else None

        return tools.wait_for(f"refusal of {name}", failed)

    return call


def layer(*names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))
    return buffer.getvalue()


def oci_layout(path, *layers):
    """An OCI layout with the one image `v1`; gives the layers' digests."""
    (path / "blobs/sha256").mkdir(parents=True)

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    described = [blob(gzip.compress(data, mtime=0), "layer.v1.tar+gzip") for data in layers]
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    config = {"os": "linux", "architecture": "", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": described,
    }
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return [item["digest"] for item in described]


def test_a_malicious_layer(cluster, pod, refusal, tmp_path):
    digests = oci_layout(tmp_path / "evil", layer("good"), layer("a/../../../escaped"))
    image = f"oci:{tmp_path}/evil:v1"
    pod("malicious", image)
    message, reason = refusal("malicious")
    assert reason in {"ErrImagePull", "ImagePullBackOff"}
    said = "entry 'a/../../../escaped': the name has '..' in it"
    assert message == f"{image}: layer 2 of 2 ({digests[1]}): {said}"


def test_an_aci_that_nobody_signed(cluster, pod, refusal, tmp_path):
    path = tmp_path / "app.aci"
    path.write_bytes(b"whatever it is")
    pod("unsigned", f"file://{path}")
    message, reason = refusal("unsigned")
    assert reason in {"SignatureValidationFailed", "ImagePullBackOff"}
    assert f"file://{path}: it is not signed" in message
    assert "policy.default-aci = signed" in message


def test_a_store_that_was_tampered_with(cluster, pod, refusal, tmp_path):
    """A pod runs; somebody changes the image behind its back; the next pod with it is refused."""
    oci_layout(tmp_path / "app", layer("etc/passwd", f"unique-{os.getpid()}"))
    image = f"oci:{tmp_path}/app:v1"
    pod("before", image)
    cluster.wait_phase("before", "Failed")  # there is no /bin/true in it, but it was started
    layers = cluster.directory / "executor/store/layers"
    (tree,) = (path.parent for path in layers.glob(f"*/tree/unique-{os.getpid()}"))
    (tree / "etc/passwd").write_text("root::0:0::/:/bin/sh\n")
    pod("after", image)
    message, reason = refusal("after")
    assert reason in {"ErrImagePull", "ImagePullBackOff"}
    assert (
        f"{image}: layer {tree.parent.name[:27]}: /etc/passwd was changed: somebody changed the image"
        in message
    )
