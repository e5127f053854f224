"""What reaches a port in a machine: probes, hooks and forwarded ports, as with any pod."""

import asyncio
import os
from typing import Any

import pytest
import pytest_asyncio

from executor.pods.core.events import Answer
from executor.pods.handlers import HookError, Place, hook, probe
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
# Says how much it was sent, when that has ended.
COUNTS = "exec nc -ll -p 8001 -e sh -c 'wc -c; echo end'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(start: Any) -> Any:
    """A pod with web servers on 127.0.0.1 and ::1, and a server that says how much it was sent."""
    scripts = {"web": HTTPD, "six": HTTPD6, "counts": COUNTS}
    made = await start({name: {"exec": ["sh", "-c", script]} for name, script in scripts.items()})
    null = os.open("/dev/null", os.O_WRONLY)
    for app in scripts:
        await made.sandbox.start_app(app, stdin=None, stdout=null, stderr=null)
    os.close(null)
    web = Place(made.sandbox, "web", {"ports": [{"name": "web", "containerPort": 8000}]}, "")
    async with asyncio.timeout(60):
        for port, host in ((8000, "127.0.0.1"), (8001, "127.0.0.1"), (8006, "::1")):
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
    answer, said = await probe(web, {"tcpSocket": {"port": 80, "host": "192.0.2.1"}})
    assert (answer, "unreachable" in said) == (Answer.FAILURE, True), "not the node's network"
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
    left = machine.sandbox._guest.wire.streams.values()
    assert {stream.kind for stream in left} == {"out"}, "only the apps' outputs are left"


async def test_a_client_that_goes_is_not_waited_for(machine: Any) -> None:
    """Neither by the app, which is told, nor by the wire."""
    loop = asyncio.get_running_loop()
    wire = machine.sandbox._guest.wire
    sock = await connect(machine.sandbox, "127.0.0.1", 8001)
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
    async with asyncio.timeout(30):
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    sock.close()
    with pytest.raises(OSError, match="the pod was stopped"):
        await connect(machine.sandbox, "127.0.0.1", 8000)
