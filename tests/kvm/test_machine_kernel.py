"""What the guest's kernel has, and those of many hosts have not: AppArmor, which enforces profiles that one app loads
with the host's parser, and cgroup v2 with all its files."""

import os
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from executor.pods.apparmor import PROFILE
from executor.pods.launcher import LaunchError
from executor.stage1.lsm import DEFAULT_PROFILE

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("kvm-kernel"),
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="needs apparmor"),
]

OWN = """
profile own flags=(attach_disconnected) {
  file, capability, network, signal, ptrace, unix,
  deny /tmp/secret r,
}
"""
LOAD = """
mount -t securityfs securityfs /sys/kernel/security
PATH=/usr/sbin:/usr/bin:/bin apparmor_parser --replace --skip-cache /profiles
"""
CONFINED = "cat /proc/self/attr/current; echo hidden > /tmp/secret; cat /tmp/secret; echo ended"


LIMITS = [
    {"name": "resource/cpu", "value": {"request": "500m", "limit": "1500m"}},
    {"name": "resource/memory", "value": {"limit": "64Mi"}},
    {"name": "gantry.io/pids", "value": {"limit": 32}},
]
FILES = ("cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
SHOW = f"mount -t cgroup2 none /tmp && cd /tmp && for f in {' '.join(FILES)}; do echo $f $(cat $f); done"
BOMB = "sh -c 'tail /dev/zero'; echo the shell lives"


def labelled(*command: str, profile: str = "own", **more: Any) -> dict[str, Any]:
    label = {"name": "os/linux/apparmor-profile", "value": {"profile": profile}}
    return {"exec": list(command), "isolators": [label], **more}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(start: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    profiles = tmp_path_factory.mktemp("profiles") / "profiles"
    profiles.write_text(PROFILE + OWN)
    places = {"/usr": "/usr", "/etc/apparmor.d": "/etc/apparmor.d", "/profiles": str(profiles)}
    volumes = [
        {"name": f"v{number}", "kind": "host", "source": source, "readOnly": True, "recursive": False}
        for number, source in enumerate(places.values())
    ]
    mounts = [{"volume": f"v{number}", "path": place} for number, place in enumerate(places)]
    mounts += [{"volume": "v0", "path": f"/{name}", "gantry.io/sub-path": name} for name in ("lib", "lib64")]
    privileged = [{"name": "gantry.io/privileged", "value": "true"}]
    apps = {
        "load": {"exec": ["/bin/sh", "-c", LOAD], "mounts": mounts, "notes": privileged},
        "limited": {"exec": ["/bin/sh", "-c", SHOW], "isolators": LIMITS, "notes": privileged},
        "bomb": {"exec": ["/bin/sh", "-c", BOMB], "isolators": LIMITS},
        "default": labelled("/bin/sh", "-c", CONFINED, profile=DEFAULT_PROFILE),
        "own": labelled("/bin/sh", "-c", CONFINED),
        "free": {"exec": ["/bin/sh", "-c", CONFINED]},
        "missing": labelled("/bin/true", profile="nobody-loaded-it"),
        "runs": labelled("/bin/sleep", "1000", user="1234", group="2345"),
    }
    apps["runs"]["isolators"].append({"name": "os/linux/no-new-privileges", "value": True})
    made = await start(apps, volumes=volumes)
    ended, output = await made.run("load")
    assert ended.exit_code == 0, output
    yield made


async def test_profiles_are_enforced(machine: Any) -> None:
    outputs = {app: (await machine.run(app))[1].splitlines() for app in ("default", "own", "free")}
    assert outputs == {
        "default": [f"{DEFAULT_PROFILE} (enforce)", "hidden", "ended"],
        "own": ["own (enforce)", "cat: can't open '/tmp/secret': Permission denied", "ended"],
        "free": ["unconfined", "hidden", "ended"],
    }


async def test_a_profile_that_nobody_has_loaded(machine: Any) -> None:
    why = "label the app nobody-loaded-it for AppArmor: the profile nobody-loaded-it is not loaded"
    with pytest.raises(LaunchError, match=why):
        await machine.run("missing")


async def test_what_is_executed_later_is_confined_as_well(machine: Any) -> None:
    """Whoever the app is, and with no_new_privs, which forbids to change profiles afterwards."""
    reader, writer = os.pipe()
    await machine.sandbox.start_app("runs", stdin=None, stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    code, _, output = await machine.exec(
        "runs", "/bin/cat", "/proc/1/attr/current", "/proc/self/attr/current"
    )
    assert (code, output.splitlines()[-1]) == (0, "own (enforce)")
    await machine.sandbox.signal_app("runs", signal.SIGKILL)
    await machine.exits["runs"].get()


async def test_limits_are_where_cgroup_v2_has_them(machine: Any) -> None:
    _, output = await machine.run("limited")
    found = dict(line.split(" ", 1) for line in output.splitlines())
    assert found == {
        "cpu.weight": "20",
        "cpu.max": "150000 100000",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "32",
    }


async def test_who_exceeds_a_limit_of_memory_ends_as_a_whole(machine: Any) -> None:
    ended, output = await machine.run("bomb")
    assert (ended.signal, ended.oom_killed, output) == (signal.SIGKILL, True, "")
