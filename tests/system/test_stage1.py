"""Pods of a RuntimeClass whose handler is a stage1 image that the node's settings name: with kubectl, from the class to
the log, and what is refused."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("stage1"),
]

BUILD = Path(__file__).parents[1] / "contract" / "conftest.py"
STAGE1 = "rkt.alpha.kubernetes.io/stage1-name-override"


@pytest.fixture
def own(make_cluster: Any, tmp_path: Path) -> Any:
    """A cluster whose nodes have two stage1 images, with a RuntimeClass for each and one that nobody has."""
    build = runpy.run_path(str(BUILD))["build_stage1"]
    lines = []
    for name, kind in (("one-app", "single"), ("all-at-once", "several")):
        digest = build(tmp_path / f"{name}.aci", kind, 5)
        lines.append(f'[stage1.{name}]\nimage = "file://{tmp_path}/{name}.aci"\ndigest = "{digest}"\n')
    (tmp_path / "images.toml").write_text("".join(lines))
    cluster = make_cluster(tmp_path / "data", "--image-config", str(tmp_path / "images.toml"))
    for name in ("one-app", "all-at-once", "unheard-of"):
        meta = {"name": name}
        cluster.create(
            {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": meta, "handler": name}
        )
    return cluster


def pod(name: str, *scripts: str, notes: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    containers = [
        {"name": f"c{n}", "image": "localhost/hello:latest", "command": ["/bin/sh", "-c", script]}
        for n, script in enumerate(scripts)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": notes or {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": containers,
            **spec,
        },
    }


def test_pods_by_stage1_images_of_the_nodes(own: Any, tools: Any) -> None:
    own.create(pod("done", "echo $AC_APP_NAME in $HOSTNAME; exit 3", runtimeClassName="one-app"))
    failed = own.wait_phase("done", "Failed")
    assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert own.kubectl("logs", "done") == "c0 in done\n"

    loop = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    own.create(pod("named", loop, notes={STAGE1: "one-app"}))
    own.wait_phase("named", "Running")
    assert own.pod("named")["spec"]["runtimeClassName"] == "one-app"
    tools.wait_for("up", lambda: "up" in own.kubectl("logs", "named"))
    assert own.kubectl("exec", "named", "--", "/bin/sh", "-c", "echo $AC_APP_NAME") == "c0\n"
    own.kubectl("delete", "pod", "named", "--timeout=30s")

    # Restarted: the pod of one app is run again.
    own.create(
        pod("again", "echo run; sleep 0.2; exit 1", runtimeClassName="one-app", restartPolicy="Always")
    )
    tools.wait_for(
        "restart", lambda: own.pod("again")["status"].get("containerStatuses", [{}])[0].get("restartCount")
    )
    own.delete("again")

    own.create(pod("two", "echo first; exit 0", "echo second; exit 0", runtimeClassName="all-at-once"))
    own.wait_phase("two", "Succeeded")
    assert sorted(own.kubectl("logs", "two", "-c", "c0").split()) == ["first", "second"]

    own.create(pod("refused", "true", "true", runtimeClassName="all-at-once", restartPolicy="Always"))
    message = own.wait_phase("refused", "Failed")["status"]["message"]
    assert message == (
        "stage1 all-at-once starts all apps of a pod at once and none again: a pod of several containers needs "
        "restartPolicy Never"
    )
    own.create(pod("unheard", "true", runtimeClassName="unheard-of"))
    message = own.wait_phase("unheard", "Failed")["status"]["message"]
    assert "its handler 'unheard-of' is no stage1 flavor of this executor" in message
    assert "one-app, all-at-once" in message
