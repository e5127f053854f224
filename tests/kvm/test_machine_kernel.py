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


# What programs do all day: nothing of it may be different under the node's own profile.
USUAL = """
import ctypes, fcntl, mmap, os, resource, select, signal, socket, struct, subprocess, tempfile, threading
def ran(name, action):
    try:
        print(name, action())
    except OSError as error:
        print(name, error.strerror)
def talk(kind, address):
    with socket.socket(kind, socket.SOCK_STREAM) as server, socket.socket(kind, socket.SOCK_STREAM) as client:
        server.bind(address); server.listen(); client.connect(server.getsockname())
        client.sendall(b"x"); return server.accept()[0].recv(1)
def child():
    with subprocess.Popen(["/bin/sleep", "100"]) as process:
        os.kill(process.pid, 0); process.send_signal(15); return process.wait()
def traced():
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
    _, status = os.waitpid(pid, os.WUNTRACED); os.kill(pid, 9); os.waitpid(pid, 0); return os.WIFSTOPPED(status)
def files():
    with tempfile.TemporaryDirectory() as place:
        for name in ("a", "b"): open(f"{place}/{name}", "w").close()
        os.link(f"{place}/a", f"{place}/c"); os.symlink("a", f"{place}/d"); os.rename(f"{place}/b", f"{place}/e")
        os.mkfifo(f"{place}/f"); os.chown(f"{place}/a", 1, 2); os.chmod(f"{place}/a", 0o6755)
        fcntl.flock(os.open(place, 0), fcntl.LOCK_EX); os.utime(f"{place}/a"); os.truncate(f"{place}/e", 5)
        return sorted(os.listdir(place))
ran("tcp", lambda: talk(socket.AF_INET, ("127.0.0.1", 0)))
ran("unix", lambda: talk(socket.AF_UNIX, "/tmp/socket"))
ran("abstract", lambda: talk(socket.AF_UNIX, chr(0) + "name"))
ran("pair", lambda: socket.socketpair()[0].send(b"x"))
ran("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).bind((0, 0)))
ran("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
ran("files", files)
ran("child", child)
ran("traced", traced)
ran("shm", lambda: open("/dev/shm/x", "w").write("x"))
ran("code", lambda: mmap.mmap(-1, 4096, prot=7).close())
ran("limits", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
ran("nice", lambda: os.nice(1))
ran("user", lambda: (os.setgroups([3]), os.setresgid(2, 2, 2), os.setresuid(1, 1, 1)))
ran("proc", lambda: [len(open(f"/proc/self/{name}").read()) > 0 for name in ("status", "maps", "cgroup", "environ")])
ran("sys", lambda: open("/sys/kernel/mm/transparent_hugepage/enabled").read() != "")
ran("thread", lambda: threading.Thread(target=print).start())
"""


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
        "usual": labelled("/usr/bin/env", "python3", "-c", USUAL, profile=DEFAULT_PROFILE, mounts=mounts),
        "usual-free": {"exec": ["/usr/bin/env", "python3", "-c", USUAL], "mounts": mounts},
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


async def test_the_node_s_own_profile_lets_programs_be(machine: Any) -> None:
    (_, confined), (_, free) = [await machine.run(app) for app in ("usual", "usual-free")]
    assert confined.splitlines() == free.splitlines()
    assert len(free.splitlines()) > 16, free


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
