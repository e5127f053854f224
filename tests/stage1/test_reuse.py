"""Which user and network namespaces the next pod may have, and what it finds there."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.network.namespaces import in_thread, within
from executor.pods.launcher import Launcher
from executor.stage1 import caps, manifest, ops, reuse, seccomp, syscalls, userns
from tests.stage1.conftest import Pods, Runner

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
        (read()._replace(metadata_url="http://x"), False),
    ],
    ids=str,
)
def test_pods_that_can_leave_no_trace(pod: manifest.Pod, expected: bool) -> None:
    assert reuse.leaves_no_trace(pod) is expected


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

    def namespaces(self) -> reuse.Namespaces:
        users = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return reuse.Namespaces(users, os.dup(self.network), userns.take_range(str(self.directory)))


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
    assert kept(pool, made), "a socket that is closed leaves nothing"
    in_thread(lambda: pool.keep(made.namespaces()))
    in_thread(lambda: pool.keep(made.namespaces()))
    one = pool.take()
    assert one is not None
    assert pool.take() is None, "it is full"
    one.close()


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
        lambda: os.system("ip link add trace0 type dummy"),
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
    if family != socket.AF_NETLINK:  # whose sockets the kernel lets go of a little later
        assert kept(pool, made)


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


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("ping -c 1 -w 5 127.0.0.1", {"network": "loopback"}),
        ("true", {}),
        ("nc -w 1 192.0.2.1 9; true", {"network": "loopback"}),
    ],
    ids=["used", "not-told", "tried"],
)
async def test_no_pod_has_what_another_has_used(
    pods: Pods, image: Path, command: str, more: dict[str, str]
) -> None:
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    try:
        runner = Runner(launcher, pods)
        cookies = []
        for _ in range(4):
            running = await runner.pod(pods.make(pods.app("/bin/sh", "-c", command), **more))
            cookies.append(cookie(running.sandbox.pid))
            await running.start()
            assert (await running.ended()).exit_code == 0
            await running.stop()
        assert len(set(cookies)) == len(cookies)
    finally:
        await launcher.close()
