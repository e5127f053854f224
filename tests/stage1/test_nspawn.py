"""Flavor nspawn: the container is systemd-nspawn's, the apps in it are what they are under linux."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import caps, manifest, nspawn

pytestmark = pytest.mark.root

NEEDS = pytest.mark.skipif(bool(nspawn.why_not()), reason=nspawn.why_not() or "-")


def of(command: str) -> list[int]:
    """Pids of the processes of that name."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text().strip() == command:
                found.append(int(path.name))
        except OSError:
            pass
    return found


def in_pod(pid: int, directory: Path) -> bool:
    try:
        return directory.name in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


@NEEDS
async def test_the_container_is_nspawn_s_and_in_the_pod_s_cgroup(runner: Any, nothing_left: Any) -> None:
    pod = await runner.pod(
        runner.pods.make(
            runner.pods.app("/bin/sh", "-c", "sleep 1000 >&- 2>&- & ps; hostname"), flavor="nspawn"
        )
    )
    _, output = await pod.start()
    (supervisor,) = (pid for pid in of("systemd-nspawn") if in_pod(pid, pod.directory))
    lines = (await output.text()).splitlines()
    assert lines[1].split()[0] == "1"
    assert [line for line in lines if "gantry-init" in line]
    assert lines[-1] == "pod-host"
    assert f"--machine={nspawn.machine_name(pod.directory.name)}".encode() in Path(
        f"/proc/{supervisor}/cmdline"
    ).read_bytes().split(b"\0")
    await pod.sandbox.stop()
    await nothing_left(pod.directory)


@NEEDS
async def test_an_app_is_what_it_is_under_linux(runner: Any) -> None:
    """But for the user namespace, which linux can do without and nspawn does."""
    script = (
        "grep -E 'Cap|Seccomp:|NoNewPrivs|Groups' /proc/self/status; id; env | sort; pwd; "
        "cut -d' ' -f5 /proc/self/mountinfo | sort; ls /dev; cat /etc/hosts; set -- /proc/[0-9]*; echo $#"
    )
    seen = [
        (await runner.sh(script, flavor=flavor, pod={"user_namespace": "host"})).lines
        for flavor in ("linux", "nspawn")
    ]
    more = int(seen[1].pop()) - int(seen[0].pop())
    assert more == 1, "the container's own pid 1, beside what holds the pod's mounts"
    assert seen[0] == seen[1]
    assert f"CapBnd:\t{caps.mask(caps.DEFAULT):016x}" in seen[1]


@NEEDS
async def test_namespaces(runner: Any) -> None:
    script = "for n in pid ipc uts net mnt cgroup user; do readlink /proc/self/ns/$n; done"
    names = ("pid", "ipc", "uts", "net", "mnt", "cgroup", "user")
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    inside = (await runner.sh(script, flavor="nspawn")).lines
    assert [a == b for a, b in zip(inside, outside, strict=True)] == [False] * 6 + [True]
    inside = (await runner.sh(script, flavor="nspawn", pod={"host_network": "true"})).lines
    assert inside[3] == outside[3]


@NEEDS
async def test_the_sandbox_s_process_is_in_the_pod_s_network_and_has_its_mounts(runner: Any) -> None:
    volumes = [{"name": "v", "kind": "empty", "gantry.io/medium": "Memory"}]
    app = runner.pods.app("/bin/sleep", "1000", mounts=[{"volume": "v", "path": "/v"}])
    pod = await runner.pod(runner.pods.make(app, volumes=volumes, flavor="nspawn"))
    pid, _ = await pod.start()
    ours, theirs, apps = (os.readlink(f"/proc/{who}/ns/net") for who in ("self", pod.sandbox.pid, pid))
    assert ours != theirs == apps
    Path(f"/proc/{pod.sandbox.pid}/root/more/volume.v/file").write_text("from outside")
    assert Path(f"/proc/{pid}/root/v/file").read_text() == "from outside"


@NEEDS
async def test_volumes_sysctls_and_exec(runner: Any) -> None:
    volumes = [{"name": "v", "kind": "empty", "gantry.io/medium": "Memory"}]
    sysctls = [{"name": "os/unix/sysctl", "value": {"net.ipv4.ip_unprivileged_port_start": "7"}}]
    app = runner.pods.app(
        *("/bin/sh", "-c", "echo hello > /v/file; echo ready; exec sleep 1000 >&- 2>&-"),
        mounts=[{"volume": "v", "path": "/v"}],
    )
    pod = await runner.pod(runner.pods.make(app, volumes=volumes, isolators=sysctls, flavor="nspawn"))
    pid, output = await pod.start()
    assert await output.text() == "ready\n"
    read_end, write_end = os.pipe()
    script = "cat /v/file /proc/sys/net/ipv4/ip_unprivileged_port_start; readlink /proc/self/ns/mnt"
    made = await pod.sandbox.exec("app", ["/bin/sh", "-c", script], streams=(write_end, write_end))
    assert await made.ended == (0, None)
    os.close(write_end)
    with os.fdopen(read_end) as file:
        assert file.read().split() == ["hello", "7", os.readlink(f"/proc/{pid}/ns/mnt")]


@NEEDS
@pytest.mark.parametrize("victim", ["systemd-nspawn", "gantry-nspawn", "gantry-init"])
async def test_kill_of_any_part_is_the_end_of_the_pod(runner: Any, nothing_left: Any, victim: str) -> None:
    directory = runner.pods.make(runner.pods.app("/bin/sleep", "1000"), flavor="nspawn")
    pod = await runner.pod(directory)
    await pod.start()
    pids = [pid for pid in of(victim) if in_pod(pid, directory)]
    if victim == "gantry-init":  # the container's pid 1: the holder is another
        pids = [
            pid
            for pid in pids
            if Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split("\n")[0].endswith("\t1")
        ]
    (pid,) = pids
    os.kill(pid, signal.SIGKILL)
    assert (await pod.ended()).signal == 9
    assert "died" in await pod.gone
    await nothing_left(directory)


@NEEDS
async def test_kill_of_the_launcher_is_the_end_of_the_pod(runner: Any, nothing_left: Any) -> None:
    directory = runner.pods.make(runner.pods.app("/bin/sleep", "1000"), flavor="nspawn")
    pod = await runner.pod(directory)
    app, _ = await pod.start()
    watch = os.pidfd_open(app)
    os.kill(runner.launcher.pid, signal.SIGKILL)
    await runner.launcher.died
    import select

    assert select.select([watch], [], [], 20)[0], "the app outlives its launcher"
    os.close(watch)


@NEEDS
async def test_what_nspawn_says_is_told(runner: Any) -> None:
    directory = runner.pods.make(runner.pods.app("/bin/true"), flavor="nspawn", hostname="not a name")
    with pytest.raises(LaunchError, match=r"^systemd-nspawn: Invalid hostname: not a name"):
        await runner.pod(directory)


def test_names_of_machines() -> None:
    assert nspawn.machine_name("6f1b_2c.1") == "gantry-6f1b-2c.1"
    assert len(nspawn.machine_name("x" * 100)) == 64


def test_no_user_namespace() -> None:
    app = {"name": "a", "app": {"exec": ["/x"]}}
    notes = [
        {"name": f"gantry.io/{k}", "value": v}
        for k, v in (("flavor", "nspawn"), ("user-namespace", "private"))
    ]
    text = manifest.json.dumps({"acKind": "PodManifest", "apps": [app], "annotations": notes})
    with pytest.raises(manifest.ManifestError, match="private needs flavor linux"):
        manifest.read(text)
