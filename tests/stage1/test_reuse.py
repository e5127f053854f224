"""Which pods' inits the next pod may have, and what it finds there. Each way to leave something is tried."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher
from executor.stage1 import caps, machine, manifest, reuse, seccomp, userns
from executor.stage1.machine import assemble
from executor.stage1.machine.assemble import List, Value
from tests.stage1.conftest import Pods, Runner, Running, ready_for_the_next
from tests.waiting import until


def read(pod: str = "", app: str = "", isolators: str = "", **notes: str) -> manifest.Pod:
    """A pod of one app; `app` and `isolators` are JSON."""
    said = {
        "flavor": "linux",
        "network": "loopback",
        "hostname": "name",
        **{name.replace("_", "-"): v for name, v in notes.items()},
    }
    listed = ",".join(f'{{"name": "gantry.io/{name}", "value": "{value}"}}' for name, value in said.items())
    return manifest.read(
        f"""{{"acVersion": "0.8.11", "acKind": "PodManifest", "annotations": [{listed}] {pod},
        "apps": [{{"name": "a", "image": {{"id": "sha512-0"}} {app},
        "app": {{"exec": ["/x"], "user": "0", "group": "0", "isolators": [{isolators}]}}}}]}}""".encode()
    )


RETAIN = '{"name": "os/linux/capabilities-retain-set", "value": {"set": ["%s"]}}'
UNCONFINED = '{"name": "os/linux/seccomp-retain-set", "value": {"set": ["@appc.io/all"]}}'
NOTE = ', "annotations": [{"name": "gantry.io/%s", "value": "%s"}]'
VOLUME = ', "volumes": [{"name": "v", "kind": "host", "source": "%s"}]'
EMPTY = ', "volumes": [{"name": "v", "kind": "empty"}]'
MEMORY = ', "volumes": [{"name": "v", "kind": "empty", "gantry.io/medium": "Memory"}]'
SYSCTL = ', "isolators": [{"name": "os/unix/sysctl", "value": {"net.ipv4.ip_forward": "1"}}]'


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (read(), True),
        (read(isolators=RETAIN % "CAP_NET_RAW"), True),
        (read(network=""), False),
        (read(isolators=RETAIN % "CAP_NET_ADMIN"), False),
        (read(isolators=UNCONFINED), False),
        (read(app=NOTE % ("privileged", "true")), False),
        (read(app=NOTE % ("proc-mount", "unmasked"), user_namespace="private"), False),
        (read(SYSCTL), False),
        (read(privileged="true"), False),
        (read(host_network="true"), False),
        (read(host_ipc="true"), False),
        (read(VOLUME % "/run"), False),
        (read(VOLUME % "/pods/u1x"), False),
        (read(VOLUME % "/pods/u1/volumes/config"), True),
        (read(EMPTY), True),
        (read(MEMORY), False),
        (read(hostname=""), False),
        (read(flavor="fly"), False),
        (read()._replace(metadata_url="http://x"), True),
    ],
    ids=str,
)
def test_pods_that_can_leave_no_trace(pod: manifest.Pod, expected: bool) -> None:
    assert reuse.leaves_no_trace(pod, "/pods/u1") is expected


CALLS = """add_key bpf fsconfig fsmount fsopen fspick keyctl mount mount_setattr move_mount open_tree perf_event_open
pivot_root quotactl reboot request_key setdomainname sethostname setns umount umount2 unshare userfaultfd"""
POWERS = (
    "BPF CHECKPOINT_RESTORE IPC_OWNER NET_ADMIN PERFMON SYS_ADMIN SYS_BOOT SYS_NICE SYS_PTRACE SYS_RESOURCE"
)


def test_no_default_lets_what_is_not_looked_at_be_changed() -> None:
    """What `leaves_no_trace` counts on: who has neither of the two can keep nothing in those namespaces."""
    allowed = {name for rule in seccomp.default_filter(caps.DEFAULT).rules for name in rule.names}
    assert not allowed & set(CALLS.split())
    assert not caps.DEFAULT & {f"CAP_{name}" for name in POWERS.split()}


def test_a_network_is_its_loopback_or_not_told() -> None:
    with pytest.raises(
        manifest.ManifestError, match=r"annotation gantry.io/network: 'bridge' is not loopback"
    ):
        read(network="bridge")


ADD_A_KEY = """
import ctypes, os, sys
number, users, of_the_user = int(sys.argv[1]), int(sys.argv[2]), -4
library = ctypes.CDLL(None, use_errno=True)
assert library.setns(users, 0x10000000) == 0
os.setresuid(33, 33, 33)
syscall = library.syscall
assert syscall(number, b"user", b"trace", b"x", 1, of_the_user) > 0, ctypes.get_errno()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.root
def test_users_that_have_keys_are_told() -> None:
    last = userns.FIRST + (userns.COUNT - 1) * userns.SIZE  # a range that no other test has meanwhile
    ids, lists = userns.Range(last, -1), machine.get()
    if lists is None:
        pytest.skip("no lists for this machine")
    keeper = reuse.Keeper(lists.function)
    assert not keeper.has_keys(ids)
    number = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    users = userns.namespace(ids.base)
    command = [sys.executable, "-c", ADD_A_KEY, str(number), str(users)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[users]) as process:
        os.close(users)
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        assert keeper.has_keys(ids)
        process.communicate()


class Turns:
    """Pods that run one after the other in one launcher."""

    def __init__(self, launcher: Launcher, pods: Pods) -> None:
        self.launcher = launcher
        self.pods = pods
        self.runner = Runner(launcher, pods)

    async def begin(self, *command: str, stdin: int | None = None, **notes: Any) -> Running:
        """One that is like the others but for what is said."""
        layers, volumes = notes.pop("layers", ()), notes.pop("volumes", [])
        notes = {"network": "loopback", **notes}
        app = self.pods.app(*command)
        pod = self.pods.make(
            app, layers=layers, volumes=volumes, **{key: value for key, value in notes.items() if value}
        )
        running = await self.runner.pod(pod)
        await running.start(stdin=stdin)
        return running

    async def init(self, *command: str, **more: Any) -> int:
        """The pid of the init of one that has run and ended."""
        running = await self.begin(*command, **more)
        pid = running.sandbox.pid
        ended = await running.ended()
        assert ended.exit_code == 0, (command, [await one.text() for one in running.outputs])
        await self.stop(running)
        return pid

    async def stop(self, running: Running) -> None:
        await running.stop()
        await ready_for_the_next(self.launcher)

    async def kept(self) -> int:
        """The pid of an init that waits for the next."""
        for _ in range(20):
            init = await self.init("/bin/true")
            if Path(f"/proc/{init}").exists():
                return init
        pytest.fail("none was kept")


@pytest.fixture
async def turns(pods: Pods, image: Path) -> AsyncIterator[Turns]:
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    try:
        yield Turns(launcher, pods)
    finally:
        await launcher.close()


CONNECT = {"x86_64": 42, "aarch64": 203}
TO_ITSELF = (
    socket.AF_INET6.to_bytes(2, "little") + bytes([0, 9]) + bytes(19) + b"\1" + bytes(4)
)  # port 9 of ::1


def a_list(*calls: tuple[Any, ...]) -> bytes:
    """Calls of the kernel, for the program that executes such; "result" is what the one before has said."""
    todo = List()
    todo._numbers = {**todo._numbers, "connect": CONNECT[os.uname().machine]}
    place = todo.room(8)
    for name, *arguments in calls:
        given = [Value(place) if one == "result" else one for one in arguments]
        todo.call(
            name, *[todo.room(0, one) if isinstance(one, bytes) else one for one in given], result=place
        )
    todo.call("exit_group", 0)
    return todo.finish()


OF_IPV6 = ("packet6", "way-to-nobody")
KEPT: dict[str, list[tuple[Any, ...]]] = {
    "shm": [("shmget", 77, 4096, 0o1600)],
    "sem": [("semget", 77, 3, 0o1600)],
    "msg": [("msgget", 77, 0o1600)],
    "shm-gone": [("shmget", 0, 4096, 0o600), ("shmctl", "result", 0, 0)],
    "sem-gone": [("semget", 0, 3, 0o600), ("semctl", "result", 0, 0, 0)],
    "msg-gone": [("msgget", 0, 0o600), ("msgctl", "result", 0, 0)],
    "way-to-nobody": [("socket", 10, 2, 0), ("connect", "result", TO_ITSELF, 28)],
    "file-without-a-name": [("openat", -100, "/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)],
}
LATER = (
    "t=$(stat -c %Y /dev/mqueue); while [ $(date +%s) = $t ]; do sleep 0.02; done"  # its times are in seconds
)
LEFT = {
    "file": "echo x > /dev/shm/x",
    "file-gone": "echo x > /dev/shm/x; rm /dev/shm/x",
    "directory": "mkdir /dev/shm/x",
    "link": "ln -s x /dev/shm/x",
    "time-of-shm": "touch /dev/shm",
    "listed-shm": "ls /dev/shm",
    "queue": "touch /dev/mqueue/x",
    "queue-gone": f"{LATER}; touch /dev/mqueue/x; rm /dev/mqueue/x",
    "mode-of-mqueue": "chmod 777 /dev/mqueue",
    "time-of-mqueue": "touch -d 2000-01-01 /dev/mqueue",
    "listed-mqueue": f"{LATER}; ls /dev/mqueue",
    "packet": "ping -c 1 -w 5 127.0.0.1",
    "packet6": "ping -c 1 -w 5 ::1 || true",
    "packet-to-nowhere": "nc -w 1 192.0.2.1 9 || true",
    "knock": "nc -w 1 127.0.0.1 9 || true",
}


@pytest.mark.root
async def test_whoever_leaves_something_leaves_it_to_nobody(turns: Turns, tmp_path: Path) -> None:
    layer = tmp_path / "lists"
    (layer / "bin").mkdir(parents=True)
    (layer / "bin" / "list").write_bytes(assemble.program())
    (layer / "bin" / "list").chmod(0o755)
    for name, calls in KEPT.items():
        (layer / name).write_bytes(a_list(*calls))
    attempts = {**LEFT, **{name: f"/bin/list 3< /{name}" for name in KEPT}}
    if not os.path.exists("/proc/net/if_inet6"):
        attempts = {name: script for name, script in attempts.items() if name not in OF_IPV6}
    passed_on, met = [], 0
    before = await turns.init("/bin/true", layers=(layer,))
    for name, script in attempts.items():
        during = await turns.init("/bin/sh", "-c", script, layers=(layer,))
        after = await turns.init("/bin/true", layers=(layer,))
        met += during == before
        if after == during:
            passed_on.append(name)
        before = after
    assert passed_on == []
    assert met > len(attempts) // 2, "whoever has left nothing has an heir, unless that takes too long"


HARMLESS = """
sleep 1000 & sleep 1000 & (sleep 1000 &)
for number in 1 2 3 4 5 6 7 8; do /bin/true; done
stat /proc/version /proc/meminfo /sys/kernel/notes /sys/devices > /dev/null
find /proc/1 /proc/sys/kernel > /dev/null
hostname not-mine; echo 5 > /proc/1/oom_score_adj; umount /dev/shm; kill -9 1; renice -n 5 -p 1
mkdir /proc/x /sys/x; chmod 777 /proc/uptime /sys/kernel /proc /sys /dev/shm
chown 1 /dev/shm /proc /dev/mqueue; chgrp 1 /dev/mqueue
(echo 0 5 1 > /proc/self/projid_map) && exit 1; (echo deny > /proc/self/setgroups) && exit 1
cat /proc/self/stat > /tmp/x; ulimit -n 5; cd /dev/shm && [ ! -e y ]
exit 0
"""
LOOK = """
echo $$; hostname; cat /proc/net/dev /proc/1/oom_score_adj /proc/1/limits /proc/sys/kernel/domainname
cat /proc/1/status | grep -E 'SigP|SigB|SigI|SigC|Shd|Cap|Threads|Pid|Uid|NoNew|Seccomp|Groups'
ls -d /proc/[0-9]*; ipcs; id; ifconfig lo; stat -c '%a %u %g %s %h' /dev/shm /dev/mqueue; stat -c '%a %u %g' /proc /sys
df /dev/shm; grep -E '^([^ ]+ ){4}/(dev|proc|sys)' /proc/self/mountinfo | cut -d ' ' -f 3-9 | sed 's/^[0-9]*:[0-9]* //'
ls -la /dev/shm /dev/mqueue | wc -l
"""


async def look(turns: Turns, number: int) -> tuple[int, list[str]]:
    """The pid of the init of a pod that looks around, and what it sees."""
    running = await turns.begin("/bin/sh", "-c", LOOK, hostname=f"host{number}")
    init = running.sandbox.pid
    ended = await running.ended()
    text = (await running.outputs[0].text()).replace(f"host{number}\n", "host\n")
    await turns.stop(running)
    assert ended.exit_code == 0, text
    return init, text.splitlines()


@pytest.mark.root
async def test_the_next_pod_has_it_and_cannot_tell(turns: Turns) -> None:
    _, new = await look(turns, 0)  # it has listed directories, and leaves its init to nobody
    for number in range(1, 20):
        first = await turns.init("/bin/true")
        second = await turns.init("/bin/sh", "-c", HARMLESS)
        third, seen = await look(turns, number)
        if first == second == third:
            break
    else:
        pytest.fail("nobody got what others had")
    assert seen == new
    assert seen[:2] == ["3", "host"]


@pytest.mark.root
async def test_nobody_sees_when_somebody_has_looked_at_a_file(turns: Turns) -> None:
    """The kernel says of most files of /proc and /sys that they are as old as the first look at them."""
    names = ("proc/version", "proc/sys/kernel/osrelease", "sys/kernel/notes", "sys/class/net/lo/mtu")
    looks = "; ".join(f"stat /{name} > /dev/null" for name in names)
    for _ in range(20):
        init = await turns.init("/bin/sh", "-c", f"{looks}; true")
        then = time.time()
        running = await turns.begin("/bin/sleep", "1000")
        if running.sandbox.pid == init:
            break
        await running.stop()
    else:
        pytest.fail("nobody got what another had")
    for name in names:
        assert os.stat(f"/proc/{init}/root/{name}").st_ctime >= then - 0.02, (
            name
        )  # the kernel's clock has ticks
    await running.stop()


BY_THE_HOST = {
    "process": ["--pid", "sleep", "1000"],
    "hostname": ["--uts", "hostname", "another"],
    "domain": ["--uts", "sh", "-c", "echo another > /proc/sys/kernel/domainname"],
    "address": ["--net", "ip", "address", "add", "127.0.0.2/8", "dev", "lo"],
    "setting": ["--ipc", "sh", "-c", "echo 1 > /proc/sys/kernel/shm_next_id"],
}


async def is_kept_after(turns: Turns, *command: str) -> bool:
    """Whether the init of a pod in whose namespaces somebody of the host's has executed something. A process that stays
    there ends with it."""
    running = await turns.begin("/bin/true")
    init = running.sandbox.pid
    process = await asyncio.create_subprocess_exec("nsenter", "--target", str(init), *command)
    if "--pid" in command:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        await asyncio.to_thread(until, "a process in there", lambda: bool(children.read_text()))
    else:
        assert await process.wait() == 0
    await running.ended()
    await turns.stop(running)
    kept = Path(f"/proc/{init}").exists()
    await process.wait()
    return kept


@pytest.mark.root
@pytest.mark.parametrize("name", BY_THE_HOST)
async def test_what_no_app_can_do_is_looked_at_all_the_same(turns: Turns, name: str) -> None:
    assert not await is_kept_after(turns, *BY_THE_HOST[name])


@pytest.mark.root
async def test_whoever_has_only_looked_has_left_nothing(turns: Turns) -> None:
    for _ in range(20):
        if await is_kept_after(turns, "--uts", "--ipc", "--net", "true"):
            return
    pytest.fail("none was kept")


HOST = [{"name": "v", "kind": "host", "source": "/var/tmp"}]
HINTS: dict[str, dict[str, Any]] = {
    "not-told": {"network": ""},
    "another-tenant": {"tenant": "%d"},
    "a-way-out": {"volumes": HOST},  # through a socket there, anything that is open could be handed over
    "a-socket": {},
    "of-the-host": {"user_namespace": "host"},
    "in-memory": {"volumes": [{"name": "m", "kind": "empty", "gantry.io/medium": "Memory"}]},
}


@pytest.mark.root
@pytest.mark.parametrize("name", HINTS)
async def test_no_pod_has_one_that_is_not_for_it(turns: Turns, name: str) -> None:
    ours, theirs = socket.socketpair()
    try:
        inits = []
        for number in range(3):
            said = {key: value % number if key == "tenant" else value for key, value in HINTS[name].items()}
            stdin = theirs.fileno() if name == "a-socket" else None
            inits.append(await turns.init("/bin/true", stdin=stdin, **said))
        assert len(set(inits)) == len(inits)
    finally:
        ours.close()
        theirs.close()


@pytest.mark.root
async def test_a_pod_that_is_stopped_takes_its_init_along(turns: Turns) -> None:
    running = await turns.begin("/bin/sleep", "1000")
    init = running.sandbox.pid
    await running.stop()
    assert running.sandbox.pid == -1, "nobody reaches another pod by it"
    assert not Path(f"/proc/{init}").exists()


@pytest.mark.root
async def test_nobody_waits_for_long(turns: Turns, eventually: Any) -> None:
    init = await turns.kept()
    await eventually(lambda: not Path(f"/proc/{init}").exists())


@pytest.mark.root
async def test_it_ends_with_the_launcher(turns: Turns) -> None:
    end = os.pidfd_open(await turns.kept())
    try:
        os.kill(turns.launcher.pid, signal.SIGKILL)
        assert select.select([end], [], [], 60)[0]
    finally:
        os.close(end)
    await turns.launcher.died


@pytest.mark.root
async def test_a_launcher_without_spares_keeps_none(pods: Pods, image: Path) -> None:
    launcher = await Launcher.start(spares=0, points=image.with_name("points"))
    try:
        init = await Turns(launcher, pods).init("/bin/true")
        assert not Path(f"/proc/{init}").exists()
    finally:
        await launcher.close()
