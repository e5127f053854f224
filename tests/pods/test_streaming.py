"""exec, attach and port-forward at the node server, with real pods: over WebSockets and over SPDY."""

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from executor.server.app import Tokens, make_app
from executor.server.spdy import DICTIONARY

pytestmark = pytest.mark.root

Host = Any
V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
ECHO = "while read line; do echo got $line; done; echo end"


@pytest.fixture
async def server(host: Host) -> AsyncIterator[TestServer]:
    tokens = Tokens()
    tokens.add("secret")
    made = TestServer(make_app(host.pods, tokens), handler_cancellation=True)
    await made.start_server()
    yield made
    await made.close()


@pytest.fixture
async def client(server: TestServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        asyncio.timeout(90),
        aiohttp.ClientSession(server.make_url("/"), headers={"Authorization": "Bearer secret"}) as made,
    ):
        yield made


@pytest.fixture
async def pod(host: Host) -> Callable[..., Awaitable[str]]:
    """`await pod(script, …fields)`: a container c0 of a pod p that runs it."""

    async def make(script: str, **fields: Any) -> str:
        task: str = host.run({"run": script, **fields})
        await host.until(task, lambda r: bool(r.status["containerStatuses"][0]["ready"]))
        return task

    return make


async def heard(socket: Any) -> tuple[dict[int, bytes], dict[str, Any]]:
    """What came on the channels, and how it ended."""
    said: dict[int, bytes] = {}
    async for message in socket:
        channel, data = message.data[0], message.data[1:]
        said[channel] = said.get(channel, b"") + data
    return said, json.loads(said.pop(3, b"null"))


def command(*words: str) -> str:
    return "".join(f"&command={word}" for word in words)


async def test_exec_has_streams_and_an_exit_code(
    client: aiohttp.ClientSession, pod: Callable[..., Any]
) -> None:
    await pod(FOREVER)
    script = "echo%20out;echo%20err>%262;exit%203"
    url = f"/exec/default/p/c0?output=1&error=1{command('sh', '-c', script)}"
    async with client.ws_connect(url, protocols=(V5,)) as socket:
        assert socket.protocol == V5
        said, end = await heard(socket)
    assert said == {1: b"out\n", 2: b"err\n"}
    assert (end["status"], end["reason"]) == ("Failure", "NonZeroExitCode")
    assert end["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


async def test_exec_reads_until_its_input_ends(
    client: aiohttp.ClientSession, pod: Callable[..., Any]
) -> None:
    await pod(FOREVER)
    sent = b"x" * 200_000
    url = f"/exec/default/p/c0?input=1&output=1{command('cat')}"
    async with client.ws_connect(url, protocols=(V5, V4)) as socket:
        hearing = asyncio.ensure_future(heard(socket))
        for start in range(0, len(sent), 1 << 15):
            await socket.send_bytes(b"\0" + sent[start : start + (1 << 15)])
        await socket.send_bytes(b"\xff\0")
        said, end = await hearing
    assert said == {1: sent}
    assert end["status"] == "Success"


async def test_exec_on_a_terminal(client: aiohttp.ClientSession, pod: Callable[..., Any]) -> None:
    await pod(FOREVER)
    script = "while%20[%20%22$(stty%20size)%22%20!=%20%2233%2077%22%20];do%20:;done;echo%20$TERM"
    url = f"/exec/default/p/c0?input=1&output=1&tty=1{command('sh', '-c', script)}"
    async with client.ws_connect(url, protocols=(V4,)) as socket:
        await socket.send_bytes(b"\x04" + json.dumps({"Width": 77, "Height": 33}).encode())
        said, end = await heard(socket)
    assert said[1].endswith(b"xterm\r\n")
    assert end["status"] == "Success"


async def test_what_is_executed_ends_with_its_client(
    client: aiohttp.ClientSession, pod: Callable[..., Any], host: Host
) -> None:
    await pod(FOREVER)
    url = f"/exec/default/p/c0?output=1{command('sh', '-c', 'echo%20$$;exec%20sleep%201000')}"
    async with client.ws_connect(url, protocols=(V4,)) as socket:
        pid = b""
        while not pid.endswith(b"\n"):
            pid += (await socket.receive_bytes())[1:]
    sandbox = host.pods.find("default", "p").sandbox
    gone = f"while kill -0 {int(pid)} 2>/dev/null; do :; done"
    process = await sandbox.exec("c0", ["sh", "-c", gone], streams=(1, 2))
    assert await process.ended == (0, None)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/exec/default/p/c0?output=1", 400, "at least 1 command"),
        ("/exec/default/p/c0?command=true", 400, "at least 1 of stdin, stdout, stderr"),
        ("/exec/default/p/c0?command=true&error=1&tty=1", 400, "tty and stderr cannot both be true"),
        ("/exec/default/p/nope?command=true&output=1", 400, 'container not found ("nope")'),
        (
            "/exec/default/q/c0?command=true&output=1",
            404,
            'pod "q" in namespace "default" is not on this node',
        ),
        ("/exec/default/p/c0?command=true&output=1", 400, "Upgrade request required"),
        ("/attach/default/p/c0?output=1&tty=1", 400, "has no terminal"),
        ("/portForward/default/p", 400, "Upgrade request required"),
    ],
)
async def test_what_cannot_be_done_is_said(
    client: aiohttp.ClientSession, pod: Callable[..., Any], path: str, status: int, said: str
) -> None:
    await pod(FOREVER)
    async with client.post(path) as answer:
        assert (answer.status, said in await answer.text()) == (status, True)


async def test_a_token_is_needed(client: aiohttp.ClientSession, pod: Callable[..., Any]) -> None:
    await pod(FOREVER)
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await client.ws_connect(
            "/exec/default/p/c0?output=1&command=true", headers={"Authorization": "Bearer x"}
        )
    assert error.value.status == 401


async def test_a_program_that_is_not_there(client: aiohttp.ClientSession, pod: Callable[..., Any]) -> None:
    await pod(FOREVER)
    url = f"/exec/default/p/c0?output=1{command('/bin/nope')}"
    async with client.ws_connect(url, protocols=(V4,)) as socket:
        _, end = await heard(socket)
    assert end["status"] == "Failure"
    assert "/bin/nope: No such file or directory" in end["message"]


@pytest.mark.parametrize("tty", [False, True])
async def test_attach(client: aiohttp.ClientSession, pod: Callable[..., Any], host: Host, tty: bool) -> None:
    task = await pod(ECHO, stdin=True, stdinOnce=True, tty=tty)
    url = f"/attach/default/p/c0?input=1&output=1{'&tty=1' if tty else ''}"
    async with client.ws_connect(url, protocols=(V5,)) as socket:
        await socket.send_bytes(b"\0one\n")
        await socket.send_bytes(b"\0\x04" if tty else b"\xff\0")
        said, end = await heard(socket)
    lines = said[1].decode().split()
    assert lines == (["one"] if tty else []) + ["got", "one", "end"]  # a terminal echoes
    assert end["status"] == "Success"
    await host.end(task)
    assert (await host.log("p")).split() == lines


async def test_input_stays_open_unless_it_is_for_one(
    client: aiohttp.ClientSession, pod: Callable[..., Any], host: Host
) -> None:
    await pod(ECHO, stdin=True)
    for word in ("one", "two"):
        async with client.ws_connect("/attach/default/p/c0?input=1&output=1", protocols=(V4,)) as socket:
            await socket.send_bytes(b"\0" + word.encode() + b"\n")
            said = b""
            while word.encode() not in said:
                said += (await socket.receive_bytes())[1:]
    assert (await host.log("p")) == "got one\ngot two\n"


SERVE = "exec httpd -f -p 127.0.0.1:8000 -h /etc"
GET = b"GET /nope HTTP/1.0\r\n\r\n"


async def test_ports_over_channels(client: aiohttp.ClientSession, pod: Callable[..., Any]) -> None:
    await pod(SERVE, readinessProbe={"tcpSocket": {"port": 8000}, "periodSeconds": 1})
    async with client.ws_connect("/portForward/default/p?port=8000&port=9", protocols=(V4,)) as socket:
        await socket.send_bytes(b"\0" + GET)
        said, _ = await heard_ports(socket)
    assert said[0][:2] == struct.pack("<H", 8000)
    assert said[0][2:].startswith(b"HTTP/1.1 404")
    assert said[1] == struct.pack("<H", 8000)
    assert b"dial tcp 127.0.0.1:9: connect: connection refused" in said[3]


async def heard_ports(socket: Any) -> tuple[dict[int, bytes], None]:
    said: dict[int, bytes] = {}
    async for message in socket:
        said[message.data[0]] = said.get(message.data[0], b"") + message.data[1:]
    return said, None


# --- SPDY ------------------------------------------------------------------------------------------------------------


def test_the_dictionary_is_that_of_the_specification() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


class Spdy:
    """A client, as far as a test needs one."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._number = -1

    def open(self, **headers: str) -> tuple[int, bytes]:
        self._number += 2
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for word in (name.lower(), value):
                block += struct.pack(">I", len(word)) + word.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack(">IIBB", self._number, 0, 0, 0) + packed
        return self._number, struct.pack(">II", 0x80030001, len(body)) + body

    @staticmethod
    def data(stream: int, data: bytes = b"", *, fin: bool = False) -> bytes:
        return struct.pack(">II", stream, fin << 24 | len(data)) + data


async def frames(receive: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[tuple[int, bool, bytes]]:
    """The data frames: stream, whether it is the last one, what it holds."""
    while True:
        first, second = struct.unpack(">II", await receive(8))
        body = await receive(second & 0xFFFFFF)
        if first < 1 << 31:
            yield first, bool(second >> 24), body


async def test_exec_over_spdy(server: TestServer, pod: Callable[..., Any]) -> None:
    await pod(FOREVER)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    lines = [
        "POST /exec/default/p/c0?input=1&output=1&command=cat HTTP/1.1",
        "Host: x",
        "Authorization: Bearer secret",
        "Connection: Upgrade",
        "Upgrade: SPDY/3.1",
        f"X-Stream-Protocol-Version: {V4}",
        "X-Stream-Protocol-Version: v3.channel.k8s.io",
        "Content-Length: 0",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert f"X-Stream-Protocol-Version: {V4}".encode() in head
    spdy = Spdy()
    streams = {}
    for name in ("error", "stdin", "stdout"):
        streams[name], frame = spdy.open(streamtype=name)
        writer.write(frame)
    writer.write(spdy.data(streams["stdin"], b"hello"))
    writer.write(spdy.data(streams["stdin"], fin=True))
    said: dict[int, bytes] = {}
    async with asyncio.timeout(60):
        async for stream, last, data in frames(reader.readexactly):
            said[stream] = said.get(stream, b"") + data
            if last and stream == streams["stdout"]:
                break
    writer.close()
    assert said[streams["stdout"]] == b"hello"
    assert json.loads(said[streams["error"]])["status"] == "Success"


async def test_ports_over_spdy_in_a_websocket(client: aiohttp.ClientSession, pod: Callable[..., Any]) -> None:
    """As kubectl forwards ports: a tunnel (KEP-4006)."""
    await pod(SERVE, readinessProbe={"tcpSocket": {"port": 8000}, "periodSeconds": 1})
    tunnel = "SPDY/3.1+portforward.k8s.io"
    spdy = Spdy()
    buffer = bytearray()
    async with client.ws_connect("/portForward/default/p", protocols=(tunnel,)) as socket:

        async def receive(count: int) -> bytes:
            while len(buffer) < count:
                buffer.extend(await socket.receive_bytes())
            data = bytes(buffer[:count])
            del buffer[:count]
            return data

        said: dict[int, bytes] = {}
        numbers = {}
        for number, port in enumerate(("8000", "9")):
            for kind in ("error", "data"):
                stream, frame = spdy.open(streamtype=kind, port=port, requestID=str(number))
                numbers[kind, port] = stream
                await socket.send_bytes(frame)
        await socket.send_bytes(spdy.data(numbers["data", "8000"], GET))
        open_ones = set(numbers.values())
        async for stream, last, data in frames(receive):
            said[stream] = said.get(stream, b"") + data
            open_ones -= {stream} if last else set()
            if not open_ones:
                break
    assert said[numbers["data", "8000"]].startswith(b"HTTP/1.1 404")
    assert said[numbers["error", "8000"]] == b""
    assert b"error forwarding port 9 to pod p: dial tcp 127.0.0.1:9" in said[numbers["error", "9"]]


@pytest.mark.parametrize(
    "junk",
    [
        b"\x80\x02\x00\x01\0\0\0\x00",
        b"\x80\x03\x00\x01\x00\x00\x00\x04abcd",
        b"\0\0\0\1\0\xff\xff\xff",
        b"x" * 100,
    ],
)
async def test_junk_ends_the_connection(
    client: aiohttp.ClientSession, pod: Callable[..., Any], junk: bytes
) -> None:
    await pod(FOREVER)
    tunnel = "SPDY/3.1+portforward.k8s.io"
    async with client.ws_connect("/portForward/default/p", protocols=(tunnel,)) as socket:
        await socket.send_bytes(junk)
        async for _ in socket:
            pass
        assert socket.closed
