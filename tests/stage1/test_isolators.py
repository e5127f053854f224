"""What holds an app or a pod back beyond cpu and memory: processes, rlimits, sysctls, limits of the whole pod."""

from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import cgroups, manifest
from executor.stage1.manifest import Limits

pytestmark = pytest.mark.root


def test_pids_and_shares_in_both_versions() -> None:
    limits = Limits(cpu_request_milli=100, cpu_shares=2048, pids=64)
    assert cgroups.limit_writes(1, limits) == [("cpu", "cpu.shares", "2048"), ("pids", "pids.max", "64")]
    assert cgroups.limit_writes(2, limits) == [("cpu", "cpu.weight", "79"), ("pids", "pids.max", "64")]


async def test_a_fork_bomb_ends_at_its_limit(runner: Any) -> None:
    script = "i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); done; echo all"
    result = await runner.sh(script, isolators=[{"name": "gantry.io/pids", "value": {"limit": 16}}])
    assert "Resource temporarily unavailable" in result.output
    assert "all" not in result.lines


async def test_the_limit_of_a_pod_holds_for_all_its_apps(runner: Any) -> None:
    script = "i=0; while [ $i -lt 9 ]; do sleep 1000 >&- 2>&- & i=$((i+1)); done; echo all; exec sleep 1000 >&- 2>&-"
    apps = [runner.pods.app("/bin/sh", "-c", script, name=name) for name in ("a", "b", "c")]
    directory = runner.pods.make(*apps, isolators=[{"name": "gantry.io/pids", "value": {"limit": 26}}])
    running = await runner.pod(directory)
    texts = []
    for name in ("a", "b", "c"):
        _, output = await running.start(name)
        texts.append(await output.text())
    assert texts[:2] == ["all\n", "all\n"]
    assert "Resource temporarily unavailable" in texts[2]


async def test_rlimits(runner: Any) -> None:
    limits = {"nofile": {"soft": 100, "hard": 200}, "core": {"soft": 0}}
    result = await runner.sh(
        "ulimit -n; ulimit -Hn; ulimit -c", isolators=[{"name": "gantry.io/rlimits", "value": limits}]
    )
    assert result.lines == ["100", "200", "0"]


@pytest.mark.parametrize("users", ["private", "host"])
async def test_sysctls_are_the_pod_s_own(runner: Any, users: str) -> None:
    names = ("net/ipv4/ip_unprivileged_port_start", "kernel/shm_rmid_forced", "fs/mqueue/msg_max")
    before = [Path(f"/proc/sys/{name}").read_text() for name in names]
    settings = {
        "net.ipv4.ip_unprivileged_port_start": "7",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "11",
    }
    result = await runner.sh(
        "cat "
        + " ".join(f"/proc/sys/{name}" for name in names)
        + "; echo 9 > /proc/sys/fs/mqueue/msg_max; ls /proc.sysctl",
        pod={"isolators": [{"name": "os/unix/sysctl", "value": settings}], "user_namespace": users},
    )
    assert result.lines[:3] == ["7", "1", "11"]
    assert "Read-only file system" in result.output
    assert [Path(f"/proc/sys/{name}").read_text() for name in names] == before


@pytest.mark.parametrize(
    ("isolator", "message"),
    [
        ({"name": "os/unix/sysctl", "value": {"kernel.panic": "1"}}, "kernel.panic is not the pod's own"),
        ({"name": "os/unix/sysctl", "value": {"net.../../kernel/panic": "1"}}, "is not the pod's own"),
        (
            {"name": "os/unix/sysctl", "value": {"net.ipv4.nonsense": "1"}},
            "set sysctl net.ipv4.nonsense: No such file",
        ),
        (
            {"name": "os/unix/sysctl", "value": {"net.ipv4.ip_forward": "maybe"}},
            "net.ipv4.ip_forward: Invalid argument",
        ),
        ({"name": "os/linux/whatever", "value": 1}, "not supported on a pod"),
    ],
)
async def test_what_cannot_be_set_on_a_pod_is_refused(runner: Any, isolator: Any, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        await runner.sh("true", pod={"isolators": [isolator]})


@pytest.mark.parametrize(
    ("isolator", "message"),
    [
        ({"name": "os/linux/cpu-shares", "value": 1}, "not a number from 2"),
        ({"name": "gantry.io/pids", "value": {"limit": 0}}, "not a positive number"),
        ({"name": "gantry.io/rlimits", "value": {"files": {"soft": 1}}}, "no limit 'files'"),
        ({"name": "gantry.io/rlimits", "value": {"nofile": {"soft": "many"}}}, "are not numbers"),
    ],
)
def test_what_cannot_be_set_on_an_app_is_refused(isolator: Any, message: str) -> None:
    app = {"name": "a", "app": {"exec": ["/x"], "isolators": [isolator]}}
    text = manifest.json.dumps({"acKind": "PodManifest", "apps": [app]})
    with pytest.raises(manifest.ManifestError, match=message):
        manifest.read(text)


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_groups_that_only_the_image_knows(runner: Any, flavor: str) -> None:
    notes = [{"name": "gantry.io/groups", "value": "strict"}]
    who = {"user": "1234", "group": "2345", "supplementaryGIDs": [9], "flavor": flavor}
    assert (await runner.sh("id -G", **who)).output == "2345 9 77\n"
    assert (await runner.sh("id -G", annotations=notes, **who)).output == "2345 9\n"


async def test_the_whole_of_proc(runner: Any) -> None:
    script = "head -c 9 /proc/timer_list | wc -c; grep -c ' /proc/' /proc/self/mountinfo"
    unmasked = {"annotations": [{"name": "gantry.io/proc-mount", "value": "unmasked"}]}
    assert (await runner.sh(script, pod={"user_namespace": "private"})).lines[-1] != "0"
    result = await runner.sh(script, pod={"user_namespace": "private"}, **unmasked)
    assert result.lines[-1] == "0"
    with pytest.raises(LaunchError, match="unmasked needs a user namespace"):
        await runner.sh(script, **unmasked)
