"""Flavor fly, seen from inside: its own root and limits, everything else the host's."""

import os
import socket
from typing import Any

import pytest

from executor.stage1 import caps

pytestmark = pytest.mark.root


async def test_namespaces_are_the_host_s_but_the_mounts(runner: Any) -> None:
    result = await runner.sh(
        "for n in pid ipc uts net cgroup mnt; do readlink /proc/self/ns/$n; done", flavor="fly"
    )
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "ipc", "uts", "net", "cgroup", "mnt")]
    assert result.lines[:5] == outside[:5]
    assert result.lines[5] != outside[5]


async def test_root_is_the_image_s(runner: Any) -> None:
    script = "cat plain.txt; touch new && ls -d /new; hostname; ls /proc/self/root/plain.txt; [ -c /dev/null ] && echo"
    result = await runner.sh(script, flavor="fly")
    assert result.lines == ["not a program", "/new", socket.gethostname(), "/proc/self/root/plain.txt", ""]
    assert not (runner.pods.image / "new").exists()


async def test_capabilities(runner: Any) -> None:
    result = await runner.sh("grep CapEff /proc/self/status", flavor="fly")
    assert int(result.lines[0].split()[1], 16) == caps.held()
    retain = [{"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_NET_RAW"]}}]
    result = await runner.sh("grep CapEff /proc/self/status", flavor="fly", isolators=retain)
    assert int(result.lines[0].split()[1], 16) == caps.mask(["CAP_NET_RAW"])


async def test_user_and_environment(runner: Any) -> None:
    result = await runner.sh("id -u; id -G; env | sort", flavor="fly", user="app", group="2345")
    assert result.lines[:2] == ["1234", "2345 77"]
    assert "AC_APP_NAME=app" in result.lines
    assert not [line for line in result.lines if line.startswith(("VIRTUAL_ENV", "PYTEST", "HOSTNAME"))]


async def test_several_apps(runner: Any) -> None:
    apps = [
        runner.pods.app("/bin/sh", "-c", f"echo {name}; exit {code}", name=name)
        for code, name in enumerate("abc")
    ]
    pod = await runner.pod(runner.pods.make(*apps, flavor="fly"))
    for code, name in enumerate("abc"):
        _, output = await pod.start(name)
        assert await output.text() == f"{name}\n"
        assert (await pod.ended()).exit_code == code


async def test_what_an_app_leaves_behind_is_killed(runner: Any, nothing_left: Any) -> None:
    """A process that leaves its session and parent is still the app's: its output closes because it is dead."""
    pod = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", "setsid sleep 1000 & echo started"), flavor="fly")
    )
    _, output = await pod.start()
    assert (await pod.ended()).exit_code == 0
    assert await output.text() == "started\n"
    await pod.sandbox.stop()
    await nothing_left(pod.directory)
