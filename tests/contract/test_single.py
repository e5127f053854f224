"""A stage1 of one app, as rkt's fly: what it is told, what it finds, what becomes of it."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError

pytestmark = pytest.mark.root


async def start(world: Any, pod: Path, out: Any, err: Any | None = None, app: str = "a0") -> Any:
    sandbox = await world.run(pod)
    await sandbox.start_app(app, stdin=None, stdout=out.fd, stderr=(err or out).fd)
    return sandbox


async def test_the_app_runs_and_its_exit_code_is_the_pods(world: Any, output: Any) -> None:
    out, err = output("out"), output("err")
    pod = world.pod(world.stage1(), "cat /data; echo; echo problem >&2; exit 7")
    await start(world, pod, out, err)
    ended = await world.exit_of()
    assert (ended.exit_code, ended.signal, ended.oom_killed) == (7, None, False)
    assert (out.text, err.text) == ("from the image\n", "problem\n")


async def test_run_is_told_what_the_contract_says(world: Any, output: Any) -> None:
    out = output()
    pod = world.pod(world.stage1(version=5), "pwd; echo $AC_APP_NAME $HOSTNAME; id -u")
    await start(world, pod, out)
    await world.exit_of()
    *options, uuid = (pod / "run-arguments").read_text().split()
    assert uuid == pod.name
    assert options[:4] == [
        "--net=none",
        "--local-config=/etc/rkt",
        "--hostname=pod-host",
        "--dns-conf-mode=resolv=host,hosts=default",
    ]
    assert out.text == "/\na0 pod-host\n0\n"
    environment = dict(
        line.partition("=")[::2] for line in (pod / "run-environment").read_text().splitlines()
    )
    assert environment.keys() - {"PWD", "_", "OLDPWD", "SHLVL"} == {
        "PATH", "RKT_LOCK_FD", "RKT_SELINUX_CONTEXT", "RKT_SELINUX_MOUNT_CONTEXT"
    }  # fmt: skip


async def test_the_manifest_is_appc_and_nothing_else(world: Any, output: Any) -> None:
    isolators = [
        {"name": "resource/memory", "value": {"limit": "64Mi"}},
        {"name": "gantry.io/pids", "value": {"limit": 50}},
    ]
    volumes = [{"name": "termination.a0", "kind": "empty", "gantry.io/medium": "Memory"}]
    mounts = [
        {"volume": "termination.a0", "path": "/x"},
        {"volume": "termination.a0", "path": "/y", "readOnly": True},
    ]
    pod = world.pod(world.stage1(), "true", isolators=isolators, volumes=volumes, mounts=mounts)
    await start(world, pod, output())
    await world.exit_of()
    text = (pod / "pod").read_text()
    assert "gantry.io" not in text
    manifest = json.loads(text)
    assert [v["name"] for v in manifest["volumes"]] == ["termination-a0", "termination-a0-2"]
    assert [v["readOnly"] for v in manifest["volumes"]] == [False, True]
    assert manifest["apps"][0]["image"]["id"].startswith("sha512-")
    assert [one["name"] for one in manifest["apps"][0]["app"]["isolators"]] == ["resource/memory"]


async def test_volumes_of_every_kind(world: Any, output: Any, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("host's\n")
    volumes = [
        {"name": "memory", "kind": "empty", "gantry.io/medium": "Memory", "gantry.io/size-limit": "65536"},
        {"name": "disk", "kind": "empty", "mode": "0777"},
        {"name": "host", "kind": "host", "source": str(tmp_path / "host")},
    ]
    mounts = [
        {"volume": "memory", "path": "/m"},
        {"volume": "disk", "path": "/d", "gantry.io/sub-path": "below/it"},
        {"volume": "host", "path": "/h", "readOnly": True},
    ]
    script = (
        "cat /h/file; touch /h/no 2>/dev/null && echo bad; echo d > /d/made; "
        "dd if=/dev/zero of=/m/big bs=1k count=99 2>/dev/null || echo full; stat -c %a /m"
    )
    out = output()
    pod = world.pod(world.stage1(), script, volumes=volumes, mounts=mounts)
    sandbox = await world.run(pod)
    assert os.path.isdir(f"/proc/{sandbox.pid}/root/volume.memory")  # where the runner writes Secrets
    await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
    await world.exit_of()
    assert out.text == "host's\nfull\n755\n"
    assert (pod / "sharedVolumes/disk/below/it/made").read_text() == "d\n"
    assert not (tmp_path / "host" / "no").exists()


async def test_a_sub_path_does_not_lead_out(world: Any, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "out").symlink_to("/etc")
    volumes = [{"name": "v", "kind": "host", "source": str(tmp_path / "v")}]
    mounts = [{"volume": "v", "path": "/x", "gantry.io/sub-path": "out"}]
    pod = world.pod(world.stage1(), "true", volumes=volumes, mounts=mounts)
    with pytest.raises(LaunchError, match=r"take volume .*/v, path out in it"):
        await world.run(pod)


async def test_nothing_is_mounted_on_the_host(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1(), "sleep 100")
    await start(world, pod, output())
    assert pod.name not in Path("/proc/self/mountinfo").read_text()
    assert list((pod / "stage1/rootfs").iterdir()) == []


async def test_the_lock_is_inherited_and_held(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1(), "sleep 100")
    await start(world, pod, output())
    pid = int((pod / "pid").read_text())
    held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert str(pod) in held


async def test_stop_is_graceful_then_it_is_not(world: Any, output: Any, until: Any) -> None:
    out = output()
    pod = world.pod(world.stage1(), "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    sandbox = await start(world, pod, out)
    await until(lambda: "up" in out.text)
    await sandbox.signal_app("a0", signal.SIGTERM)
    assert (await world.exit_of()).exit_code == 3
    assert out.text == "up\nbye\n"
    assert (pod / "stop-arguments").read_text() == f"{pod.name}\n"


async def test_sigkill_is_stop_by_force(world: Any, output: Any, until: Any) -> None:
    out = output()
    pod = world.pod(world.stage1(), "trap '' TERM; echo up; while :; do sleep 0.05; done")
    sandbox = await start(world, pod, out)
    await until(lambda: "up" in out.text)
    await sandbox.signal_app("a0", signal.SIGTERM)
    await sandbox.signal_app("a0", signal.SIGKILL)
    ended = await world.exit_of()
    assert (ended.exit_code, ended.signal) == (None, signal.SIGKILL)
    assert (pod / "stop-arguments").read_text().splitlines() == [pod.name, f"--force {pod.name}"]


async def test_without_a_stop_entrypoint_run_is_signalled(world: Any, output: Any, until: Any) -> None:
    out = output()
    pod = world.pod(world.stage1(stop=None), "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done")
    sandbox = await start(world, pod, out)
    await until(lambda: "up" in out.text)
    await sandbox.signal_app("a0", signal.SIGTERM)
    assert (await world.exit_of()).exit_code == 4


async def test_what_the_app_leaves_behind_dies_with_it(world: Any, output: Any, left: Any) -> None:
    pod = world.pod(world.stage1(), "setsid sleep 1000 & exit 0")
    sandbox = await start(world, pod, output())
    assert (await world.exit_of()).exit_code == 0
    assert not sandbox.members()


async def test_the_pod_runs_again_afresh(world: Any, output: Any) -> None:
    out = output()
    pod = world.pod(world.stage1(), "cat /mark 2>/dev/null; echo old > /mark; echo run")
    sandbox = await start(world, pod, out)
    await world.exit_of()
    with pytest.raises(LaunchError, match="cannot start a0 again"):
        await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
    await sandbox.remove_app("a0")
    assert (pod / "logs" / "gc").read_text() == f"--local-config /etc/rkt {pod.name}\n"
    await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
    await world.until(lambda: len(world.exits) == 2)
    assert out.text == "run\nrun\n"


async def test_exec_goes_through_enter(world: Any, output: Any, until: Any) -> None:
    out = output()
    pod = world.pod(world.stage1(), "echo here > /mark; sleep 100")
    sandbox = await start(world, pod, output("app"))
    await until(lambda: list(pod.glob("overlay/*/upper/a0/mark")))
    ran = await sandbox.exec(
        "a0",
        ["/bin/sh", "-c", "cat /mark; echo $AC_APP_NAME; cat /proc/self/cgroup; exit 5"],
        streams=(out.fd, out.fd),
    )
    assert await asyncio.wait_for(ran.ended, 60) == (5, None)
    lines = out.text.splitlines()
    assert lines[:2] == ["here", "a0"]
    assert all(
        f"gantry.{pod.name}" in line
        for line in lines[2:]
        if ":pids:" in line or ":memory:" in line or line.startswith("0::/gantry")
    )


async def test_exec_on_a_terminal(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1(), "sleep 100")
    sandbox = await start(world, pod, output())
    ran = await sandbox.exec("a0", ["/bin/sh", "-c", "test -t 0 && echo yes; exit 0"])
    try:
        assert await asyncio.wait_for(ran.ended, 60) == (0, None)
        assert os.read(ran.terminal, 100) == b"yes\r\n"
    finally:
        os.close(ran.terminal)


async def test_exec_is_refused_where_it_cannot_be(world: Any, output: Any) -> None:
    closed, open_one = world.stage1(enter=None), world.stage1()
    pod = world.pod(closed, "sleep 100")
    sandbox = await start(world, pod, output())
    with pytest.raises(LaunchError, match="no enter entrypoint"):
        await sandbox.exec("a0", ["true"], streams=(0, 1, 2))
    other = await start(world, world.pod(open_one, "exit 0"), output("2"))
    await world.exit_of()
    with pytest.raises(LaunchError, match="a0 does not run"):
        await other.exec("a0", ["true"], streams=(0, 1, 2))


async def test_gc_runs_when_the_directory_goes(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1(), "exit 0")
    sandbox = await start(world, pod, output())
    await world.exit_of()
    await sandbox.stop()
    assert not (pod / "logs" / "gc").exists()
    await asyncio.to_thread(world.made[0].strip)
    assert (pod / "logs" / "gc").read_text() == f"--local-config /etc/rkt {pod.name}\n"
    await asyncio.to_thread(world.made[0].strip)
    assert len((pod / "logs" / "gc").read_text().splitlines()) == 1


async def test_limits_hold_for_the_pod(world: Any, output: Any) -> None:
    isolators = [{"name": "resource/memory", "value": {"limit": "16Mi"}}]
    pod = world.pod(
        world.stage1(),
        "head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null; exit 9",
        isolators=isolators,
    )
    await start(world, pod, output())
    ended = await world.exit_of()
    assert ended.exit_code == 9
    assert ended.oom_killed
