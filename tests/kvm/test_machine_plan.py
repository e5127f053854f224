"""What a pod's manifest makes of its machine. Pure."""

import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from executor.kvm import acpi, machine
from executor.kvm.boot import Boot
from executor.kvm.guest import frames
from executor.kvm.machine import MIB, MachineError, Size
from executor.kvm.probe import Accelerator, Tools
from executor.stage1 import manifest

TOOLS = Tools(Path("/usr/bin/qemu-system-x86_64"), Path("/usr/lib/qemu/virtiofsd"))
BOOT = Boot(Path("/state/k/kernel"), Path("/state/k/root.cpio"))
TCG = Accelerator("tcg", "max", 2_000_000, "there is no /dev/kvm")
KVM = Accelerator("kvm", "host", 0, "")


def pod(*apps: dict[str, Any], **more: Any) -> dict[str, Any]:
    entries = [
        {"name": f"app{number}", "app": {"exec": ["/x"], "isolators": [
            {"name": f"resource/{name}", "value": value} for name, value in app.items()
        ]}}
        for number, app in enumerate(apps)
    ]  # fmt: skip
    return {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": entries, "annotations": [], **more}


def test_the_size_is_the_limits_and_what_it_takes_itself() -> None:
    limited = pod(
        {"memory": {"limit": "64Mi"}, "cpu": {"limit": "1500m"}},
        {"memory": {"limit": "1G"}, "cpu": {"limit": "1"}},
    )
    found = machine.size(limited, 8)
    assert found.memory == 1152 * MIB, "64 Mi, 954, 110, a share of 18, and whole blocks"
    assert (found.cpus, found.cpu_limit_milli) == (3, 2750)
    assert machine.size(limited, 2).cpus == 2
    both = machine.size(pod({"memory": {"limit": "64Mi"}, "cpu": {"limit": "1500m"}}, {}), 8)
    assert (both.cpus, both.cpu_limit_milli) == (3, None), "one for the app without a limit"
    free = machine.size(pod({"memory": {"limit": "64Mi"}}, {}), 8)
    assert free.memory == 768 * MIB
    assert machine.memory_of_apps(pod({"memory": {"limit": "64Mi"}}, {})) == machine.DEFAULT_MEMORY + 64 * MIB
    assert (free.cpus, free.cpu_limit_milli) == (1, None)
    own = pod({}, isolators=[{"name": "resource/memory", "value": {"limit": "256Mi"}}])
    assert machine.size(own, 8).memory == 384 * MIB
    assert machine.size(pod({"memory": {"limit": "1Mi"}}), 8).memory == acpi.BASE_MEMORY


def test_all_that_apps_may_have_is_there_whatever_the_size() -> None:
    for limit in (1, 100, 128, 512, 1000, 8000, 100_000):
        found = machine.size(pod({"memory": {"limit": f"{limit}Mi"}}), 8).memory
        assert found % machine.BLOCK == 0
        assert found - found // 64 - limit * MIB >= machine.GUEST_OVERHEAD


def test_memory_that_no_app_s_limit_bounds_is_bounded_in_the_guest() -> None:
    def bound(*apps: dict[str, Any], **more: Any) -> Any:
        guest = machine.guest_manifest(pod(*apps, **more), {})
        return {one["name"]: one["value"] for one in guest["isolators"]}.get("resource/memory")

    limited = {"memory": {"limit": "64Mi"}}
    assert bound(limited, limited) is None, "their own cgroups do"
    assert bound(limited, {}) == {"limit": str(576 * MIB)}
    assert bound() == {"limit": str(machine.DEFAULT_MEMORY)}
    own = [{"name": "resource/memory", "value": {"limit": "256Mi"}}]
    assert bound(limited, isolators=own) == {"limit": str(256 * MIB)}


def test_one_template_does_for_all_memory_and_for_some_numbers_of_cpus() -> None:
    templates = {cpus: Size(700 * MIB, cpus, 500, 100).template for cpus in range(1, 10)}
    assert {cpus: one.cpus for cpus, one in templates.items()} == {
        1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8, 9: 16,
    }  # fmt: skip
    assert {one.memory for one in templates.values()} == {acpi.BASE_MEMORY}
    assert {one.template for one in templates.values()} == set(templates.values())


def test_what_does_not_run_at_the_same_time_is_not_added() -> None:
    """Kubernetes' rule: an init container has the sidecars before it beside it, not those after it."""
    mib = lambda *sizes: [{"memory": {"limit": f"{size}Mi"}, "cpu": {"limit": f"{size}m"}} for size in sizes]  # noqa: E731

    def memory(roles: str, *sizes: int) -> int:
        asked = pod(*mib(*sizes))
        for app, role in zip(asked["apps"], roles, strict=True):
            if role != "-":
                app["annotations"] = [
                    {"name": "gantry.io/init", "value": {"i": "once", "s": "sidecar"}[role]}
                ]
        found = machine.size(asked, 8)
        most = machine.memory_of_apps(asked) // MIB
        assert found.cpu_limit_milli == most + machine.CPU_OVERHEAD_MILLI
        return most

    assert memory("i--", 100, 30, 30) == 100
    assert memory("i--", 50, 30, 30) == 60
    assert memory("ii-", 100, 200, 30) == 200
    assert memory("si-", 50, 100, 30) == 150
    assert memory("is-", 100, 50, 30) == 100
    assert memory("iss-", 100, 50, 50, 30) == 130


@pytest.mark.parametrize("how", [TCG, KVM], ids=["tcg", "kvm"])
def test_stage1_takes_both_manifests(how: Accelerator) -> None:
    asked = pod(
        {"memory": {"limit": "64Mi"}},
        volumes=[
            {"name": "v", "kind": "host", "source": "/srv", "readOnly": True},
            {"name": "w", "kind": "host", "source": "/home"},
        ],
        isolators=[
            {"name": "gantry.io/pids", "value": {"limit": 100}},
            {"name": "resource/block-iops", "value": {"default": True, "limit": "100"}},
        ],
    )
    asked["apps"][0]["mounts"] = [
        {"volume": "v", "path": "/v"},
        {"volume": "w", "path": "/w", "gantry.io/sub-path": "user"},
    ]
    made = machine.host_manifest(
        asked, {"app0": ["/l/2", "/l/1"]}, TOOLS, BOOT, how, machine.size(asked, 2), "/pod", "/machine"
    )
    host = manifest._pod(made)
    assert set(host.apps) == {"vm", "files"}
    assert host.apps["vm"].capabilities == frozenset()
    assert host.apps["vm"].no_new_privileges
    assert host.volumes["image.app0"].layers == ("/l/2", "/l/1")
    assert host.volumes["image.app0"].read_only
    assert host.volumes["v"].read_only
    shared = {mount.path: (mount.volume, mount.sub_path) for mount in host.apps["files"].mounts}
    assert {("w", "user"), ("v", "")} <= {*shared.values()}
    assert shared["/share/volumes/v"] == ("v", "")
    assert ("machine.kvm" in host.volumes) == (how is KVM)
    assert host.limits.memory_limit == machine.size(asked, 2).host_memory
    assert host.limits.block_iops == 100, "the disks are the host's"
    guest = manifest._pod(machine.guest_manifest(asked, {"nofile": (100, 200), "core": (0, -1)}))
    assert guest.volumes["v"].source == "/share/volumes/v"
    assert (guest.flavor, guest.limits.pids, guest.limits.block_iops) == ("linux", 100, None)
    assert set(guest.apps["app0"].rlimits) == {
        (resource.RLIMIT_NOFILE, 100, 200),
        (resource.RLIMIT_CORE, 0, -1),
    }
    assert guest.apps["app0"].oom_score_adj == 0, "not what the guest's own processes have"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"annotations": [{"name": "gantry.io/host-network", "value": "true"}]}, "host network"),
        (
            {"volumes": [{"name": "d", "kind": "host", "source": "/dev/x", "gantry.io/device": True}]},
            "/dev/x",
        ),
    ],
)
def test_what_a_machine_cannot_have_is_refused(more: dict[str, Any], what: str) -> None:
    with pytest.raises(MachineError, match=what):
        machine.check(pod({}, **more))


def test_a_pod_that_asks_for_what_no_machine_has_is_told_the_field() -> None:
    container = {"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}}}
    machine.check_pod({"spec": {"containers": [{"name": "c", "image": "x"}]}})
    with pytest.raises(MachineError, match=r"^spec\.containers\[0\]\.resources\.limits\[nvidia\.com/gpu\]: "):
        machine.check_pod({"spec": {"containers": [container]}})
    with pytest.raises(MachineError, match=r"^spec\.hostNetwork: a virtual machine has a network of its own"):
        machine.check_pod({"spec": {"hostNetwork": True, "containers": [container]}})


@pytest.mark.root
def test_qemu_s_own_device_is_the_host_s_and_open_to_nobody(tmp_path: Path) -> None:
    machine.make_device(tmp_path / "kvm", Path("/dev/null"))
    info = (tmp_path / "kvm").stat()
    assert stat.S_ISCHR(info.st_mode)
    assert (stat.S_IMODE(info.st_mode), info.st_rdev) == (0o666, Path("/dev/null").stat().st_rdev)


def test_ids_that_no_user_namespace_has_are_the_host_s() -> None:
    private = pod({}, annotations=[{"name": "gantry.io/user-namespace", "value": "private"}])
    assert machine.users_on_host(private, 65_535) == "private"
    assert machine.users_on_host(pod({}), 65_535) == ""
    assert machine.users_on_host(pod({}), 65_536) == "host"
    with pytest.raises(MachineError, match="no user or group 70000"):
        machine.users_on_host(private, 70_000)


def test_frames_arrive_however_they_are_cut() -> None:
    sent = [frames.message({"id": 1}), frames.pack(frames.DATA, 7, b"x" * 1000), frames.credit(7, 99)]
    wire = b"".join(sent)
    for step in (1, 5, 100, len(wire)):
        decoder, found = frames.Decoder(), []
        for at in range(0, len(wire), step):
            found += decoder.feed(wire[at : at + step])
        assert [one.kind for one in found] == [frames.MESSAGE, frames.DATA, frames.CREDIT]
        assert found[0].message() == {"id": 1}
        assert found[1].data == b"x" * 1000
        assert found[2].credit() == 99


def test_a_broken_wire_is_noticed() -> None:
    with pytest.raises(frames.FrameError):
        frames.Decoder().feed(b"no frame at all!")
    with pytest.raises(frames.FrameError):
        frames.Decoder(limit=10).feed(frames.pack(frames.DATA, 1, b"x" * 11))
