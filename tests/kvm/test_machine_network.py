"""The network of a pod in a machine: the interfaces of its namespace; probes, hooks and forwarded ports."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio

from executor.network.namespaces import within
from executor.pods.core.events import Answer
from executor.pods.handlers import HookError, Place, hook, probe
from executor.pods.launcher import LaunchError
from executor.pods.netns import connect
from executor.server.forwarding import Target, relay

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]

HTTPD = "mkdir /www; echo fine > /www/index.html; exec httpd -f -p 127.0.0.1:8000 -h /www"
HTTPD6 = "mkdir /www; echo six > /www/index.html; exec httpd -f -p [::1]:8006 -h /www"
ANY = """
mkdir /www; echo any > /www/index.html; dd if=/dev/zero of=/www/much bs=1k count=2048; exec httpd -f -p 8080 -h /www
"""
# More at a time than are taken, and one that nobody takes.
ASKS = """
i=0; while [ $i -lt 20 ]; do wget -q -O - http://127.0.0.1:18112/$i & i=$((i+1)); done; wait
wget -q -O - http://127.0.0.1:18113/ 2> /dev/null || echo refused
"""
# Says how much it was sent, when that has ended.
COUNTS = "exec nc -ll -p 8001 -e sh -c 'wc -c; echo end'"


MAC = "02:00:5e:10:00:02"
SHOW = "cat /sys/class/net/eth1/address /sys/class/net/eth1/mtu; ip -o addr; ip route; ip -6 route; ip neigh"
FETCH = f"{SHOW}; wget -q -O - http://192.0.2.1:8080/; wget -q -O - http://198.51.100.7:8080/"


def _nsenter(pid: int, script: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", "sh", "-e", "-c", script], check=True)


@pytest.fixture(scope="module")
def outside() -> Iterator[int]:
    """A process with a network of its own, which is the other end of the pod's."""
    code = "import signal, ctypes; ctypes.CDLL(None).prctl(1, 9); print(flush=True); signal.pause()"
    with subprocess.Popen(["unshare", "-n", "python3", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.send_signal(signal.SIGKILL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(start: Any, outside: int) -> Any:
    """A pod with web servers on 127.0.0.1, ::1 and all addresses, a server that says how much it was sent, and a
    network."""

    def network(pid: int) -> None:
        _nsenter(
            outside,
            f"ip link add out address 02:00:5e:10:00:01 type veth peer name eth1 address {MAC} mtu 1400 netns {pid}",
        )
        _nsenter(
            outside,
            "echo 0 > /proc/sys/net/ipv4/ip_forward; "  # it is the host's at first
            "ip addr add 192.0.2.1/24 dev out; ip addr add 198.51.100.7/32 dev out; ip link set out up; "
            "ip addr add 2001:db8::1/64 dev out nodad",
        )
        _nsenter(
            pid,
            "ip addr add 192.0.2.2/24 dev eth1; ip -6 addr add 2001:db8::2/64 dev eth1 nodad; ip link set eth1 up; "
            "ip route add 192.0.2.9 dev eth1; ip route add default via 192.0.2.9 metric 50; "
            "ip neigh add 192.0.2.9 dev eth1 lladdr 02:00:5e:10:00:01",
        )

    scripts = {
        "web": HTTPD,
        "six": HTTPD6,
        "counts": COUNTS,
        "any": ANY,
        "fetch": FETCH,
        "asks": ASKS,
    }
    made = await start({name: {"exec": ["sh", "-c", script]} for name, script in scripts.items()}, network)
    null = os.open("/dev/null", os.O_WRONLY)
    for app in scripts.keys() - {"fetch", "asks"}:
        await made.sandbox.start_app(app, stdin=None, stdout=null, stderr=null)
    os.close(null)
    web = Place(made.sandbox, "web", {"ports": [{"name": "web", "containerPort": 8000}]}, "")
    async with asyncio.timeout(60):
        for port, host in ((8000, "127.0.0.1"), (8001, "127.0.0.1"), (8006, "::1"), (8080, "127.0.0.1")):
            tcp = {"tcpSocket": {"port": port, "host": host}, "timeoutSeconds": 30}
            while (await probe(web, tcp))[0] is not Answer.SUCCESS:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    made.web = web
    return made


async def test_probes_and_hooks_are_made_in_the_machine(machine: Any) -> None:
    web, slow = machine.web, {"timeoutSeconds": 30}
    assert await probe(web, {"httpGet": {"port": "web"}, **slow}) == (Answer.SUCCESS, "")
    assert await probe(web, {"httpGet": {"port": 8000, "path": "nope"}, **slow}) == (
        Answer.FAILURE,
        "HTTP probe failed with statuscode: 404",
    )
    assert await probe(web, {"httpGet": {"port": 9}, **slow}) == (
        Answer.FAILURE,
        'Get "http://127.0.0.1:9/": connect: connection refused',
    )
    assert await probe(web, {"tcpSocket": {"port": 9}, **slow}) == (
        Answer.FAILURE,
        "dial tcp 127.0.0.1:9: connect: connection refused",
    )
    answer, said = await probe(web, {"tcpSocket": {"port": 80, "host": "203.0.113.1"}})
    assert (answer, "i/o timeout" in said) == (Answer.FAILURE, True), f"not the node's network: {said}"
    answer, said = await probe(web, {"grpc": {"port": 8000}, **slow})
    assert answer is Answer.FAILURE
    assert said.startswith("error: health rpc failed: ")
    await hook(web, {"httpGet": {"port": 8000}})
    with pytest.raises(HookError, match="connection refused"):
        await hook(web, {"httpGet": {"port": 9}})


async def test_ports_are_forwarded(machine: Any) -> None:
    """More than a window each way, ends that are passed on, and many at once."""
    target = Target(machine.sandbox, "default_p")
    with pytest.raises(
        OSError, match=r"^error forwarding port 9 to pod default_p: dial tcp 127\.0\.0\.1:9: connect: conn"
    ):
        await target.open(9)
    chunks = [bytes(65536)] * 16 + [b""]
    answer = bytearray()

    async def read() -> bytes:
        return chunks.pop(0)

    async def write(data: bytes) -> None:
        answer.extend(data)

    async with asyncio.timeout(120):
        await relay(await target.open(8001), read, write)
    assert answer.split() == [b"1048576", b"end"]

    async def get(port: int) -> bytes:
        loop = asyncio.get_running_loop()
        with await target.open(port) as sock:
            await loop.sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
            found = b""
            while data := await loop.sock_recv(sock, 4096):
                found += data
        return found

    async with asyncio.timeout(120):
        pages = await asyncio.gather(*(get(port) for port in (8000, 8006) * 4))
    assert [page.rpartition(b"\n\r\n")[2] for page in pages] == [b"fine\n", b"six\n"] * 4
    streams = machine.sandbox._guest.wire.streams
    async with asyncio.timeout(60):
        while {stream.kind for stream in streams.values()} != {"out"}:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)  # until only the apps' outputs are left


def _listen(address: str) -> socket.socket:
    sock = socket.create_server((address, 8080))
    sock.setblocking(False)
    return sock


async def test_the_interfaces_of_its_namespace_are_the_machine_s(machine: Any, outside: int) -> None:
    """Their addresses, routes and neighbours, too; what the default route leads to answers to no ARP."""
    loop = asyncio.get_running_loop()
    with within(outside, lambda: _listen("0.0.0.0")) as server:

        async def serve() -> list[str]:
            peers = []
            for _ in range(2):
                sock, (peer, _port) = await loop.sock_accept(server)
                with sock:
                    await loop.sock_recv(sock, 4096)
                    await loop.sock_sendall(sock, b"HTTP/1.0 200 OK\r\n\r\nfrom outside\n")
                peers.append(peer)
            return peers

        serving = asyncio.ensure_future(serve())
        ended, output = await machine.run("fetch")
        assert ended.exit_code == 0, output
        assert await asyncio.wait_for(serving, 60) == ["192.0.2.2"] * 2
    assert output.count("from outside\n") == 2
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[:2] == [MAC, "1400"]
    for part in (
        "eth1 inet 192.0.2.2/24 ",
        "eth1 inet6 2001:db8::2/64 scope global",
        "default via 192.0.2.9 dev eth1 metric 50",
        "192.0.2.9 dev eth1 lladdr 02:00:5e:10:00:01 ",
        "2001:db8::/64 dev eth1",
    ):
        assert any(part in line for line in lines), (part, lines)


async def test_the_network_reaches_the_machine(machine: Any, outside: int) -> None:
    loop = asyncio.get_running_loop()
    for family, address in ((socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")):
        sock = within(outside, lambda family=family: socket.socket(family))
        with sock:
            sock.setblocking(False)
            async with asyncio.timeout(60):
                await loop.sock_connect(sock, (address, 8080))
                await loop.sock_sendall(sock, b"GET /much HTTP/1.0\r\n\r\n")
                size = 0
                while data := await loop.sock_recv(sock, 1 << 16):
                    size += len(data)
        assert size > 2048 * 1024
    its_own = Place(machine.sandbox, "any", {}, "192.0.2.2")
    assert await probe(its_own, {"httpGet": {"port": 8080}, "timeoutSeconds": 30}) == (Answer.SUCCESS, "")


async def test_the_pod_reaches_what_is_relayed(machine: Any) -> None:
    """Of the metadata service: ports of its loopback whose connections are carried to the host."""
    asked: list[str] = []

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()

        async def answer() -> None:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
            writer.write(f"HTTP/1.0 200 OK\r\n\r\nanswer {asked[-1]}\n".encode())
            writer.close()
            await writer.wait_closed()

        tasks.add(asyncio.ensure_future(answer()))
        return theirs

    def refuse() -> socket.socket:
        raise ConnectionRefusedError

    tasks: set[asyncio.Task[None]] = set()
    await machine.sandbox.relay(18112, connect)
    await machine.sandbox.relay(18113, refuse)
    with pytest.raises(
        LaunchError, match=r"listen in the machine on 127\.0\.0\.1:8000: Address already in use"
    ):
        await machine.sandbox.relay(8000, refuse)
    ended, output = await machine.run("asks")
    assert ended.exit_code == 0
    await asyncio.gather(*tasks)
    assert sorted(asked) == sorted(f"/{number}" for number in range(20))
    assert sorted(output.split("\n")) == sorted(["", "refused", *(f"answer {path}" for path in asked)])


async def test_a_client_that_goes_is_not_waited_for(machine: Any) -> None:
    """Neither by the app, which is told, nor by the wire."""
    loop = asyncio.get_running_loop()
    wire = machine.sandbox._guest.wire
    sock = await connect(machine.sandbox, "127.0.0.1", 8001)
    assert not sock.getblocking()
    before = set(wire.streams)
    await loop.sock_sendall(sock, b"x")
    sock.close()
    async with asyncio.timeout(60):
        while before <= set(wire.streams):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def test_a_machine_that_has_ended_has_no_ports(machine: Any) -> None:
    """Last: it ends the machine, while a connection is open."""
    sock = await connect(machine.sandbox, "127.0.0.1", 8000)
    await machine.sandbox.stop()
    async with asyncio.timeout(90):
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    sock.close()
    with pytest.raises(OSError, match="the pod was stopped"):
        await connect(machine.sandbox, "127.0.0.1", 8000)
