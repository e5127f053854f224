"""Listeners in pods' networks: each pod has its own, and it goes with the pod."""

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

import pytest

from executor.metadata.doors import CROWD, PORT, URL_FILE, Door, Pace, listen
from executor.metadata.service import Service
from executor.pods import netns
from executor.pods.launcher import LaunchError

pytestmark = pytest.mark.root


async def test_two_pods_and_neither_s_token_opens_the_other_s(
    make_pod: Callable[..., Any], make_network: Any, service: Service, ask_inside: Any
) -> None:
    pods = [make_pod(host_network=False) for _ in range(2)]
    networks = [make_network() for _ in range(2)]
    for pod, network in zip(pods, networks, strict=True):
        assert stat.S_IMODE((pod.path / URL_FILE).stat().st_mode) == 0o600
        await service.open(pod.path, network)
        assert not (pod.path / URL_FILE).exists()  # stage1 has read it, nobody else has to
        assert pod.url.startswith(f"http://127.0.0.1:{PORT}/")
    for pod, other, network in ((*pods, networks[0]), (*reversed(pods), networks[1])):
        assert await ask_inside(network.pid, pod.url, "/pod/uuid") == (200, pod.uid)
        assert (await ask_inside(network.pid, other.url, "/pod/uuid"))[0] == 401
        assert (await ask_inside(network.pid, pod.url, "/pod/uuid", headers=""))[0] == 403
    with socket.socket() as ours:  # not on the host
        assert ours.connect_ex(("127.0.0.1", PORT)) != 0
    before = len(os.listdir("/proc/self/fd"))
    service.close(pods[0].path.name)
    service.close(pods[0].path.name)
    assert len(os.listdir("/proc/self/fd")) == before - 1
    with pytest.raises(ConnectionRefusedError):
        await ask_inside(networks[0].pid, pods[0].url, "/pod/uuid")
    assert await ask_inside(networks[1].pid, pods[1].url, "/pod/uuid") == (200, pods[1].uid)


async def test_one_pod_s_crowd_does_not_keep_another_s_waiting(
    make_pod: Callable[..., Any], make_network: Any, service: Service, ask_inside: Any
) -> None:
    loud, quiet = (make_pod(host_network=False) for _ in range(2))
    networks = [make_network() for _ in range(2)]
    await service.open(loud.path, networks[0])
    await service.open(quiet.path, networks[1])
    held = []
    try:
        while len(held) < 40:
            held.append(netns.make_socket(networks[0].pid, socket.AF_INET))
            held[-1].connect(("127.0.0.1", PORT))
        assert await ask_inside(networks[1].pid, quiet.url, "/pod/uuid") == (200, quiet.uid)
    finally:
        for one in held:
            one.close()
    assert await ask_inside(networks[0].pid, loud.url, "/pod/uuid") == (200, loud.uid)


def test_so_many_a_second() -> None:
    now = 0.0
    pace = Pace(rate=4.0, crowd=3, clock=lambda: now)

    def come() -> int:
        count = 0
        while pace.wait() == 0:
            pace.count()
            count += 1
        return count

    assert come() == 3
    assert pace.wait() == 0.25
    now = 0.5
    assert come() == 2
    now = 100.0
    assert come() == 3


async def test_whoever_asks_a_lot_waits_and_is_answered() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    waits: list[float] = []

    class Told(Pace):
        def wait(self) -> float:
            waits.append(super().wait())
            return waits[-1]

    def take(connection: socket.socket, ended: Callable[[], None]) -> None:
        connection.close()
        ended()

    door = Door(listening, take, pace=Told(rate=200.0, crowd=2))
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*door.address)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
    door.close()
    assert max(waits) > 0


async def test_a_machine_is_told_no_instead(make_pod: Callable[..., Any], service: Service) -> None:
    pod, machine = make_pod(host_network=False), Machine()
    await service.open(pod.path, machine)
    ends = []

    def connect_without_end() -> None:
        while len(ends) < 10_000:
            ends.append(machine.connect())

    try:
        with pytest.raises(BlockingIOError):
            connect_without_end()
        assert len(ends) >= CROWD
    finally:
        for end in ends:
            end.close()


async def test_connections_end_with_the_pod(
    make_pod: Callable[..., Any], make_network: Any, service: Service, ask_inside: Any
) -> None:
    pod, network = make_pod(host_network=False), make_network()
    await service.open(pod.path, network)
    with netns.make_socket(network.pid, socket.AF_INET) as idle:
        idle.connect(("127.0.0.1", PORT))
        idle.setblocking(False)
        assert await ask_inside(network.pid, pod.url, "/pod/uuid") == (200, pod.uid)
        service.close(pod.path.name)
        async with asyncio.timeout(9):  # by itself it would end after ten seconds
            try:
                assert await asyncio.get_running_loop().sock_recv(idle, 10) == b""
            except ConnectionResetError:
                pass


async def test_a_port_that_is_taken_is_an_error(
    make_pod: Callable[..., Any], make_network: Any, service: Service
) -> None:
    pod, network = make_pod(host_network=False), make_network()
    with listen(network.pid), pytest.raises(LaunchError, match=r"127\.0\.0\.1:18112: Address already in use"):
        await service.open(pod.path, network)
    with pytest.raises(LaunchError, match="No such file"):
        listen(2**22)


class Machine:
    """A sandbox whose network is elsewhere: it connects whenever it is told to, as something in there would."""

    pid = 1

    async def relay(self, port: int, connect: Callable[[], socket.socket]) -> None:
        self.port, self.connect = port, connect

    async def ask(self, text: bytes) -> bytes:
        with self.connect() as ours:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(60):
                await loop.sock_sendall(ours, text)
                answer = b""
                while data := await loop.sock_recv(ours, 1 << 16):
                    answer += data
        return answer


async def test_a_network_that_is_no_namespace_here_is_relayed_to(
    make_pod: Callable[..., Any], service: Service
) -> None:
    pod, machine = make_pod(host_network=False), Machine()
    await service.open(pod.path, machine)
    assert machine.port == PORT
    place = pod.url.removeprefix(f"http://127.0.0.1:{PORT}")
    asked = f"GET {place}/acMetadata/v1/pod/uuid HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: AppContainer\r\n\r\n"
    for _ in range(3):
        answer = await machine.ask(asked.encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(pod.uid.encode())
