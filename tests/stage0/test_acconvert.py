"""Docker and OCI configs as appc image manifests, by docker2aci's rules."""

from typing import Any

import pytest

from executor.stage0 import ImageBroken
from executor.stage0.acconvert import from_config, identifier
from executor.stage0.acmanifest import check_manifest, image_config
from executor.stage0.config import from_oci

ID, DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def converted(run: dict[str, Any], reference: str = "nginx:1.27", **more: Any) -> dict[str, Any]:
    config = from_oci({"os": "linux", "architecture": "arm64", "config": run, **more}, kind="docker")
    return from_config(config, reference, ID, DIGEST)


def notes(manifest: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in manifest["annotations"]}


def test_everything_that_a_config_says() -> None:
    made = converted(
        {
            "Entrypoint": ["/entry.sh"], "Cmd": ["nginx", "-g"], "Env": ["PATH=/bin", "A.b-c=d=e"], "User": "www:web",
            "WorkingDir": "srv", "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}, "5000-5002/udp": {}, "53": {}},
            "Volumes": {"/var/lib/db": {}, "/a-b": {}, "/a/b": {}}, "Labels": {"Maintainer Name": "x"},
        },
        created="2026-01-02T03:04:05Z",
    )  # fmt: skip
    assert made["name"] == "docker.io/library/nginx"
    assert {entry["name"]: entry["value"] for entry in made["labels"]} == {
        "version": "1.27", "os": "linux", "arch": "aarch64",
    }  # fmt: skip
    app = made["app"]
    assert (app["exec"], app["user"], app["group"]) == (["/entry.sh", "nginx", "-g"], "www", "web")
    assert app["workingDirectory"] == "/srv"
    assert app["environment"] == [{"name": "PATH", "value": "/bin"}, {"name": "A.b-c", "value": "d=e"}]
    assert app["mountPoints"] == [
        {"name": "volume-a-b", "path": "/a-b"}, {"name": "volume-a-b-2", "path": "/a/b"},
        {"name": "volume-var-lib-db", "path": "/var/lib/db"},
    ]  # fmt: skip
    assert app["ports"] == [
        {"name": "5000-5002-udp", "protocol": "udp", "port": 5000, "count": 3},
        {"name": "53-tcp", "protocol": "tcp", "port": 53}, {"name": "80-tcp", "protocol": "tcp", "port": 80},
    ]  # fmt: skip
    assert app["userLabels"] == {"Maintainer Name": "x"}
    assert notes(made) == {
        "created": "2026-01-02T03:04:05Z", "appc.io/docker/originalname": "nginx:1.27", "appc.io/docker/tag": "1.27",
        "appc.io/docker/registryurl": "docker.io", "appc.io/docker/repository": "library/nginx",
        "appc.io/docker/imageid": ID, "appc.io/docker/manifesthash": DIGEST,
        "appc.io/docker/entrypoint": '["/entry.sh"]', "appc.io/docker/cmd": '["nginx","-g"]',
        "gantry.io/stop-signal": "SIGQUIT",
    }  # fmt: skip
    check_manifest(made)
    back = image_config(made)  # and what we would run of such an ACI is the same
    assert (back.entrypoint, back.user, back.working_dir) == (("/entry.sh", "nginx", "-g"), "www:web", "/srv")
    assert set(back.ports) == {"5000-5002/udp", "53/tcp", "80/tcp"}


def test_a_config_that_says_nothing() -> None:
    made = converted({})
    assert made["app"] == {"exec": [], "user": "0", "group": "0", "workingDirectory": "/"}
    assert converted({"User": "1000"})["app"]["group"] == "1000"


def test_what_appc_cannot_say() -> None:
    with pytest.raises(ImageBroken, match="'1A' cannot be a variable"):
        converted({"Env": ["1A=x"]})
    with pytest.raises(ImageBroken, match="labels: os"):
        from_config(from_oci({"os": "plan9"}), "x", ID, DIGEST)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quay.io:5000/a/b_c", "quay.io-5000/a/b_c"), ("localhost/app", "localhost/app"), ("/srv//x/", "srv/x"),
        ("a..b__c---d", "a-b-c-d"), ("ÄB", "b"),
    ],
)  # fmt: skip
def test_names(text: str, expected: str) -> None:
    assert identifier(text) == expected


def test_no_name_at_all() -> None:
    with pytest.raises(ImageBroken, match="leaves nothing"):
        identifier("/_/")
