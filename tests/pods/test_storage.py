"""How much disk a pod may use, and what becomes of one that uses more; where a volume's path comes from variables."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from executor.pods.core import events as ev
from executor.pods.core.events import TimerKind
from executor.pods.env import ConfigError, Node
from executor.pods.manifest import app_entry, pod_level
from executor.pods.storage import exceeded, quotas
from executor.pods.users import Identity
from executor.stage0.config import ImageConfig
from executor.stage0.removal import remove_tree


def container(name: str, limit: str = "", **more: Any) -> dict[str, Any]:
    resources = {"resources": {"limits": {"ephemeral-storage": limit}}} if limit else {}
    return {"name": name, "image": "x", **resources, **more}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


def test_without_limits_nothing_is_counted() -> None:
    plain = [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}}]
    assert quotas(pod(container("c"), volumes=plain)) is None


def test_what_is_limited() -> None:
    volumes = [
        {"name": "a", "emptyDir": {"sizeLimit": "1Mi"}},
        {"name": "b", "emptyDir": {}},
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}},
        {"name": "h", "hostPath": {"path": "/x"}},
    ]
    inits = [container("i", "5k"), container("s", "1k", restartPolicy="Always")]
    found = quotas(pod(container("c", "2k"), container("d"), initContainers=inits, volumes=volumes))
    assert found is not None
    assert (dict(found.volumes), found.disks) == ({"a": "1Mi"}, ("a", "b"))
    assert dict(found.containers) == {"i": "5k", "s": "1k", "c": "2k"}
    assert found.everybody == ("i", "s", "c", "d")
    assert found.total == 5000
    only = quotas(pod(container("c"), volumes=volumes[:1]))
    assert only is not None
    assert only.total is None


def fill(path: Path, kib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(kib << 10))
    with path.open("rb") as file:
        os.fsync(file.fileno())  # blocks are given when they are written


def test_nothing_can_be_hidden_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    volumes = [{"name": "a", "emptyDir": {"sizeLimit": "1Gi"}}]
    wanted = quotas(pod(container("c"), volumes=volumes))
    assert wanted is not None
    place = tmp_path / "sharedVolumes/a"
    place.mkdir(parents=True)
    here = os.open(place, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert exceeded(wanted, tmp_path) == 'Usage of EmptyDir volume "a" exceeds the limit "1Gi". '
    remove_tree(place)


def test_what_is_too_much(tmp_path: Path) -> None:
    volumes = [{"name": "a", "emptyDir": {"sizeLimit": "64Ki"}}, {"name": "b", "emptyDir": {}}]
    wanted = quotas(pod(container("c", "128Ki"), container("d", "256Ki"), volumes=volumes))
    assert wanted is not None
    assert exceeded(wanted, tmp_path) == ""
    fill(tmp_path / "sharedVolumes/a/x", 40)
    os.link(tmp_path / "sharedVolumes/a/x", tmp_path / "sharedVolumes/a/same")
    (tmp_path / "sharedVolumes/a/link").symlink_to("/")
    assert exceeded(wanted, tmp_path) == "", "a file is counted once, and links lead nowhere"
    fill(tmp_path / "sharedVolumes/a/deep/down/y", 40)
    assert exceeded(wanted, tmp_path) == 'Usage of EmptyDir volume "a" exceeds the limit "64Ki". '
    (tmp_path / "sharedVolumes/a/deep/down/y").unlink()
    fill(tmp_path / "logs/c/0.log", 64)
    fill(tmp_path / "overlay/c/upper/tmp/z", 80)
    assert exceeded(wanted, tmp_path) == 'Container c exceeded its local ephemeral storage limit "128Ki". '
    fill(tmp_path / "sharedVolumes/b/z", 300)
    total = "Pod ephemeral local storage usage exceeds the total limit of containers 393216. "
    assert exceeded(wanted, tmp_path) == total


def test_other_places(tmp_path: Path) -> None:
    """Of a stage1 that is not ours."""
    wanted = quotas(pod(container("c", "64Ki")))
    assert wanted is not None
    fill(tmp_path / "overlay/tree/upper/c/x", 80)
    assert exceeded(wanted, tmp_path).startswith("Pod ephemeral")


def test_a_pod_is_evicted(world: Any) -> None:
    made = world("web")
    made.run("web")
    made.send(ev.Evicted("too much"))
    assert made.wait(TimerKind.GRACE, "web") == 1.0
    made.exit("web", 143)
    made.send(ev.SandboxStopped())
    assert made.last.state == "TASK_FAILED"
    assert (made.last.status["phase"], made.last.status["reason"]) == ("Failed", "Evicted")
    assert made.events("Evicted") == ["too much"]
    assert made.starts[-1].attempt == 0, "whatever its restartPolicy"


@pytest.mark.root
@pytest.mark.system
@pytest.mark.parametrize("what", ["volume", "container"])
async def test_in_a_pod(host: Any, what: str) -> None:
    place = {"volume": "/disk", "container": "/tmp"}[what]
    limits = {"volume": {}, "container": {"resources": {"limits": {"ephemeral-storage": "1Mi"}}}}[what]
    size = {"volume": {"sizeLimit": "1Mi"}, "container": {}}[what]
    task = host.run(
        {
            "run": f"dd if=/dev/zero of={place}/x bs=64k count=64 conv=fsync; sleep 1000",
            "volumeMounts": [{"name": "disk", "mountPath": "/disk"}],
            **limits,
        },
        volumes=[{"name": "disk", "emptyDir": size}],
        restartPolicy="Always",
    )
    ended = await host.end(task)
    assert (ended.status["phase"], ended.status["reason"]) == ("Failed", "Evicted")
    said = {
        "volume": 'EmptyDir volume "disk" exceeds the limit "1Mi"',
        "container": "exceeds the total limit",
    }
    assert said[what] in ended.status["message"]


NODE = Node("node-1", "10.0.0.1", Fraction(4), 8 << 30)


def mounts(expression: str, *env: dict[str, Any]) -> Any:
    one = {"name": "c", "image": "x", "command": ["/x"], "env": list(env)}
    one["volumeMounts"] = [{"name": "v", "mountPath": "/v", "subPathExpr": expression}]
    spec = {"containers": [one], "volumes": [{"name": "v", "emptyDir": {}}]}
    obj = {"metadata": {"name": "web", "uid": "u"}, "spec": spec}
    level = pod_level(obj, NODE, "linux", "/t")
    return app_entry(level, one, "i", ImageConfig(), Identity(0, 0))["mounts"][0]


NAME = {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def test_a_path_from_variables() -> None:
    assert mounts("logs/$(NAME)/$$(x)", NAME)["gantry.io/sub-path"] == "logs/web/$(x)"
    for expression, env, why in (
        ("$(NAME)", (), 'missing value for "NAME"'),
        ("$(A)", ({"name": "A", "value": "/etc"},), "error SubPath `/etc` must not be an absolute path"),
        ("x/$(A)", ({"name": "A", "value": "../.."},), r"must not contain '\.\.'"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            mounts(expression, *env)
        assert caught.value.reason == "CreateContainerConfigError"
