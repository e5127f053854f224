"""Which user and network namespaces the next pod may have, and what it finds there."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.network.namespaces import in_thread, within
from executor.pods.launcher import Launcher
from executor.stage1 import caps, manifest, ops, reuse, seccomp, syscalls, userns
from tests.stage1.conftest import Pods, Runner
from tests.waiting import until

SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h: of each network namespace another


def read(pod: str = "", app: str = "", isolators: str = "", **notes: str) -> manifest.Pod:
    """A pod of one app; `app` and `isolators` are JSON."""
    said = {
        "flavor": "linux",
        "network": "loopback",
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
        (read()._replace(metadata_url="http://x"), True),
    ],
    ids=str,
)
def test_pods_that_can_leave_no_trace(pod: manifest.Pod, expected: bool) -> None:
    assert reuse.leaves_no_trace(pod, "/pods/u1") is expected


def test_no_default_lets_keys_or_networks_be_changed() -> None:
    """What `leaves_no_trace` counts on: who has neither of the two can keep nothing in those namespaces."""
    allowed = {name for rule in seccomp.default_filter(caps.DEFAULT).rules for name in rule.names}
    assert not allowed & {"add_key", "keyctl", "request_key", "setns", "unshare", "mount", "bpf", "fsopen"}
    assert not caps.DEFAULT & {
        "CAP_NET_ADMIN",
        "CAP_SYS_ADMIN",
        "CAP_SYS_RESOURCE",
        "CAP_BPF",
        "CAP_SYS_PTRACE",
    }


def test_a_network_is_its_loopback_or_not_told() -> None:
    with pytest.raises(
        manifest.ManifestError, match=r"annotation gantry.io/network: 'bridge' is not loopback"
    ):
        read(network="bridge")


class Made:
    """A network namespace of the test's own, with a user namespace and a range that are none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = in_thread(self._new)

    @staticmethod
    def _new() -> int:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        ops.Loopback().execute(ops.Context({}))
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def there(self, work: Callable[[], Any]) -> Any:
        def entered() -> Any:
            syscalls.setns(self.network, syscalls.CLONE_NEWNET)
            return work()

        return in_thread(entered)

    def namespaces(self, tenant: str = "", pods: int = 1) -> reuse.Namespaces:
        users = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        ids = userns.take_range(str(self.directory))
        return reuse.Namespaces(users, os.dup(self.network), ids, tenant, pods)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    one = Made(tmp_path)
    yield one
    os.close(one.network)


@pytest.fixture
def pool() -> Iterator[reuse.Pool]:
    one = reuse.Pool(1)
    yield one
    one.close()


def kept(pool: reuse.Pool, made: Made) -> bool:
    """Whether the pool keeps it: in a thread, for it goes there, as the launcher does, which has only one."""
    in_thread(lambda: pool.keep(made.namespaces()))
    one = pool.take()
    if one is not None:
        one.close()
    return one is not None


@pytest.mark.root
def test_one_that_was_never_used_is_as_new(pool: reuse.Pool, made: Made) -> None:
    assert kept(pool, made)
    made.there(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close())
    until("a socket that is closed to leave nothing", lambda: kept(pool, made))
    in_thread(lambda: pool.keep(made.namespaces()))
    in_thread(lambda: pool.keep(made.namespaces()))
    one = pool.take()
    assert one is not None
    assert pool.take() is None, "it is full"
    one.close()


@pytest.mark.root
def test_they_wait_for_a_pod_of_the_same_tenant_and_not_for_long(made: Made) -> None:
    pool = reuse.Pool(3)
    for tenant in ("blue", "red"):
        in_thread(lambda tenant=tenant: pool.keep(made.namespaces(tenant, pods=7)))
    assert pool.take("green") is None
    blue = pool.take("blue")
    assert blue is not None
    assert (blue.tenant, blue.pods) == ("blue", 7)
    blue.close()
    pool.close(older=1000)
    assert len(pool) == 1
    pool.close(older=0)
    assert len(pool) == 0
    in_thread(lambda: pool.keep(made.namespaces(pods=100)))
    assert len(pool) == 0, "they have had pods enough"


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
def test_users_that_have_keys_are_nobody_s(pool: reuse.Pool, made: Made) -> None:
    last = userns.FIRST + (userns.COUNT - 1) * userns.SIZE  # a range that no other test has meanwhile
    ids = userns.Range(last, os.open("/dev/null", os.O_RDONLY))
    assert not reuse._have_keys(ids)
    number = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    users = userns.namespace(ids.base)
    command = [sys.executable, "-c", ADD_A_KEY, str(number), str(users)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[users]) as process:
        os.close(users)
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        assert reuse._have_keys(ids)
        made.network, before = os.dup(made.network), made.network
        kept_ones = reuse.Namespaces(os.open("/dev/null", os.O_RDONLY), before, ids)
        in_thread(lambda: pool.keep(kept_ones))
        assert len(pool) == 0
        process.communicate()


def send(family: int, address: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", (address, 9))
        except OSError:
            pass  # there is no way to it: that is counted, too


@pytest.mark.root
@pytest.mark.parametrize(
    "work",
    [
        lambda: send(socket.AF_INET, "127.0.0.1"),
        lambda: send(socket.AF_INET6, "::1"),
        lambda: send(socket.AF_INET, "192.0.2.1"),
        lambda: send(socket.AF_INET6, "2001:db8::1"),
        lambda: subprocess.run(["ip", "link", "add", "trace0", "type", "veth"], check=True),
    ],
    ids=["loopback", "loopback6", "nowhere", "nowhere6", "interface"],
)
def test_one_that_was_used_is_not(pool: reuse.Pool, made: Made, work: Callable[[], Any]) -> None:
    made.there(work)
    assert not kept(pool, made)


@pytest.mark.root
@pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_PACKET, socket.AF_NETLINK]
)
def test_one_in_which_somebody_has_a_socket_is_not(pool: reuse.Pool, made: Made, family: int) -> None:
    kind = socket.SOCK_RAW if family in (socket.AF_PACKET, socket.AF_NETLINK) else socket.SOCK_DGRAM
    sock = made.there(lambda: socket.socket(family, kind))
    assert not kept(pool, made)
    sock.close()
    until("the kernel to let go of it", lambda: kept(pool, made))


def cookie(pid: int) -> int:
    """Of the network namespace of a process."""
    with within(pid, lambda: socket.socket(socket.AF_UNIX)) as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


LOOK = """
cat /proc/self/uid_map /proc/net/dev
hostname; ls /dev/shm /dev/mqueue; ipcs | grep -c 0x; id -u; ifconfig lo
"""


@pytest.mark.root
async def test_the_next_pod_has_them_and_cannot_tell(pods: Pods, image: Path) -> None:
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    try:
        runner = Runner(launcher, pods)
        seen: dict[int, list[str]] = {}
        for number in range(20):
            app = pods.app("/bin/sh", "-c", f"{LOOK}touch /dev/shm/x")
            running = await runner.pod(pods.make(app, hostname=f"host{number}", network="loopback"))
            key = cookie(running.sandbox.pid)
            _, output = await running.start()
            assert (await running.ended()).exit_code == 0
            seen.setdefault(key, []).append((await output.text()).replace(f"host{number}\n", "host\n"))
            await running.stop()
            if len(seen[key]) > 1:
                break
        else:
            pytest.fail("no pod got what another had")
        first, second = seen[key]
        assert first == second
        assert "host\n" in second
        assert "inet addr:127.0.0.1" in second
    finally:
        await launcher.close()


HOST = [{"name": "v", "kind": "host", "source": "/var/tmp"}]
HINTS = {
    "used": ("ping -c 1 -w 5 127.0.0.1", {}),
    "not-told": ("true", {"network": ""}),
    "tried": ("nc -w 1 192.0.2.1 9; true", {}),
    "another-tenant": ("true", {"tenant": "%d"}),
    "a-way-out": (
        "true",
        {"volumes": HOST},
    ),  # through a socket there, anything that is open could be handed over
    "a-socket": ("true", {}),
}


@pytest.mark.root
@pytest.mark.parametrize("name", HINTS)
async def test_no_pod_has_what_another_has_used(pods: Pods, image: Path, name: str) -> None:
    command, more = HINTS[name]
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    ours, theirs = socket.socketpair()
    try:
        runner = Runner(launcher, pods)
        cookies = []
        for number in range(4):
            said = {"network": "loopback", **more}
            if "tenant" in said:
                said["tenant"] %= number
            notes = {key: value for key, value in said.items() if value}
            running = await runner.pod(pods.make(pods.app("/bin/sh", "-c", command), **notes))
            cookies.append(cookie(running.sandbox.pid))
            await running.start(stdin=theirs.fileno() if name == "a-socket" else None)
            assert (await running.ended()).exit_code == 0
            await running.stop()
        assert len(set(cookies)) == len(cookies)
    finally:
        ours.close()
        theirs.close()
        await launcher.close()


def holders(network: str, launcher: int) -> list[str]:
    """Who of a launcher and its children is in a network namespace, or has it open."""
    found = []
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for pid in (str(launcher), *children):
        place = Path("/proc", pid)
        for link in (place / "ns/net", *(place / "fd").glob("*")):
            try:
                if os.readlink(link) == network:
                    found.append(str(link))
            except OSError:
                continue
    return found


@pytest.mark.root
async def test_nobody_waits_for_long(pods: Pods, image: Path, eventually: Any) -> None:
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    try:
        running = await Runner(launcher, pods).pod(pods.make(pods.app("/bin/true"), network="loopback"))
        network = os.readlink(f"/proc/{running.sandbox.pid}/ns/net")
        await running.start()
        await running.ended()
        await running.stop()
        assert holders(network, launcher.pid)
        await eventually(lambda: not holders(network, launcher.pid))
    finally:
        await launcher.close()
