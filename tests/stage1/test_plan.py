"""Plans as data: what would be done, in which order, readable before it is done."""

import json
import marshal
from typing import Any

from executor.stage1 import caps, manifest, ops, plan

VOLUMES = [
    {"name": "h", "kind": "host", "source": "/srv/h"},
    {"name": "e", "kind": "empty"},
    {"name": "m", "kind": "empty", "gantry.io/medium": "Memory", "gantry.io/size-limit": "1Mi"},
]
MOUNTS = [
    {"volume": "h", "path": "/h", "readOnly": True},
    {"volume": "e", "path": "/e"},
    {"volume": "m", "path": "/m"},
]


def pod(flavor: str = "linux", *, app: dict[str, Any] | None = None, **notes: str) -> manifest.Pod:
    notes = {"gantry.io/flavor": flavor, "gantry.io/hostname": "h1", **notes}
    raw = {
        "acKind": "PodManifest",
        "apps": [{"name": "a", "app": {"exec": ["/x"]}, "mounts": MOUNTS, **(app or {})}],
        "volumes": VOLUMES,
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
    }
    return manifest.read(json.dumps(raw))


def described(parsed: manifest.Pod) -> list[str]:
    paths = plan.Paths("/pods/p1")
    return [
        op.describe()
        for op in plan.app_plan(parsed, parsed.apps["a"], paths, ("/l1", "/l2"), ("/cg/p1/a/tasks",))
    ]


def test_linux_app() -> None:
    assert described(pod()) == [
        "take 2 layers and /pods/p1/overlay/a as the root",
        "take volume /pods/p1/sharedVolumes/e",
        "take /pods/p1/etc/hosts as etc/hosts",
        "take /pods/p1/etc/hostname as etc/hostname",
        "take /pods/p1/etc/resolv.conf as etc/resolv.conf",
        "enter the namespaces of host",
        "take volume /srv/h",
        "enter the namespaces of init",
        "take /proc as proc",
        "take /sys as sys",
        "take /mqueue as mqueue",
        "take /shm as shm",
        "take volume /more/volume.m",
        "enter the namespaces of ground",
        "unshare a copy of it",
        "mount overlay on /",
        "mount proc on proc",
        "mount sys on sys",
        "mount /dev",
        "mount shm on dev/shm",
        "mount mqueue on dev/mqueue",
        "mount etc/hosts on etc/hosts",
        "mount etc/hostname on etc/hostname",
        "mount etc/resolv.conf on etc/resolv.conf",
        "mount volume:/e on /e",
        "mount volume:/h on /h",
        "mount volume:/m on /m",
        "join the cgroup /cg/p1/a",
        "chroot",
    ]


def test_fly_app_takes_the_host_s_system_directories() -> None:
    steps = described(pod("fly"))
    assert steps.index("take /dev as dev") > steps.index("enter the namespaces of host")
    assert "mount /dev" not in steps
    assert steps[-2:] == ["join the cgroup /cg/p1/a", "chroot"]


def test_read_only_root_comes_after_all_targets_were_made() -> None:
    steps = described(pod(app={"readOnlyRootFS": True}))
    assert steps[-3:] == ["make the root read-only", "join the cgroup /cg/p1/a", "chroot"]


def test_sandbox_and_pod_plans() -> None:
    network = [op.describe() for op in plan.sandbox_plan("linux", host_network=False)]
    host = [op.describe() for op in plan.sandbox_plan("linux", host_network=True)]
    assert network[0] == "unshare the mount, ipc, uts, net namespaces"
    assert host[0] == "unshare the mount, ipc, uts namespaces"
    assert set(network) - set(host) == {network[0], "set the interface lo up"}
    assert plan.sandbox_plan("fly", host_network=False) == []
    assert [op.describe() for op in plan.pod_plan(pod())] == [
        "set the hostname h1",
        "mount tmpfs as the pod's more/volume.m",
        "make the pod's own root read-only",
    ]


def test_privileged_app_gets_its_own_proc_and_sys() -> None:
    parsed = pod(app={"annotations": [{"name": "gantry.io/privileged", "value": "true"}]})
    assert "mount proc as the pod's more/proc.privileged" in [op.describe() for op in plan.pod_plan(parsed)]
    assert "take /more/proc.privileged as proc" in described(parsed)
    assert plan.app_process(parsed, parsed.apps["a"]).capabilities is None


def test_process() -> None:
    parsed = pod()
    process = plan.app_process(parsed, parsed.apps["a"])
    assert process.capabilities == caps.mask(caps.DEFAULT)
    assert dict(process.environment) == {"AC_APP_NAME": "a", "container": "gantry", "HOSTNAME": "h1"}
    assert process.describe() == "run /x as 0:0 in /"
    fly = pod("fly")
    assert plan.app_process(fly, fly.apps["a"]).capabilities is None


def test_plans_survive_the_way_to_another_process() -> None:
    for flavor in ("linux", "fly"):
        parsed = pod(flavor)
        for todo in (
            plan.sandbox_plan(flavor, host_network=False),
            plan.pod_plan(parsed),
            plan.app_plan(parsed, parsed.apps["a"], plan.Paths("/p"), ("/l",), ("/c/tasks",)),
        ):
            assert ops.unpack(marshal.loads(marshal.dumps(ops.pack(todo)))) == todo
