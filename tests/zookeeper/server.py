"""Real ZooKeeper servers for tests, one or an ensemble, and a way to them that can be cut."""

import asyncio
import contextlib
import fcntl
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError

from tests.ports import free_ports

JARS = Path("/usr/share/java")
LIMIT = 90.0  # seconds a server may take to start

# On tmpfs: the tests are about what ZooKeeper promises, not about this machine's disk.
PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
PREFIX = "gantry-zookeeper-"
LOCK = "lock"

INSTALLED = shutil.which("java") is not None and (JARS / "zookeeper.jar").exists()

_NETTY = ("buffer", "common", "handler", "transport", "resolver", "codec", "transport-native-epoll")
_NETTY += ("transport-native-unix-common",)


def _sweep() -> None:
    """Removes what test runs that were killed have left in memory: theirs is locked by nobody any more."""
    for directory in PLACE.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)


def _directory() -> tuple[Path, BinaryIO]:
    """A new one, and the open file that keeps it."""
    made = Path(tempfile.mkdtemp(prefix="new-", dir=PLACE))
    lock = (made / LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return made.rename(made.with_name(PREFIX + made.name)), lock


class Server:
    """One process. `quorum`: lines of the ensemble; `jaas`: a JAAS file (SASL); `tls`: PEM key+certificate, CA."""

    def __init__(
        self,
        *,
        port: int = 0,
        myid: int = 0,
        quorum: tuple[str, ...] = (),
        jaas: str = "",
        tls: tuple[Path, Path] | None = None,
        settings: tuple[str, ...] = (),
        java: tuple[str, ...] = (),
        memory: int = 96,
    ) -> None:
        _sweep()
        self.directory, self._lock = _directory()
        self.port = port or free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        self._java = list(java)
        self._memory = memory
        lines = [f"dataDir={self.directory}/data", "tickTime=200", "minSessionTimeout=400"]
        lines += ["maxSessionTimeout=60000", "admin.enableServer=false", "initLimit=50", "syncLimit=25"]
        lines += ["maxClientCnxns=0", "4lw.commands.whitelist=*", *quorum, *settings]
        if tls:
            pem, ca = tls
            lines += [f"secureClientPort={self.port}", "secureClientPortAddress=127.0.0.1"]
            lines += ["serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory"]
            for store, file in (("keyStore", pem), ("trustStore", ca)):
                lines += [f"ssl.{store}.location={file}", f"ssl.{store}.type=PEM"]
        else:
            lines += [f"clientPort={self.port}", "clientPortAddress=127.0.0.1"]
        if jaas:
            (self.directory / "jaas.conf").write_text(jaas)
            self._java.append(f"-Djava.security.auth.login.config={self.directory}/jaas.conf")
            lines += ["authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"]
        (self.directory / "data").mkdir()
        if quorum:
            (self.directory / "data" / "myid").write_text(str(myid))
        (self.directory / "zoo.cfg").write_text("\n".join(lines) + "\n")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        jars = [JARS / "zookeeper.jar", *(JARS / f"netty-{name}.jar" for name in _NETTY)]
        command = [
            "java",
            f"-Xmx{self._memory}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
        ]
        command += ["-XX:-UsePerfData", *self._java, "-cp", ":".join(map(str, jars))]
        command += ["org.apache.zookeeper.server.quorum.QuorumPeerMain", str(self.directory / "zoo.cfg")]
        if shutil.which("setpriv"):  # it ends with us, however we end
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)

    def log(self) -> str:
        return (self.directory / "log").read_text()[-3000:]

    def kill(self) -> None:
        """As a machine that fails would do it; `start` again with what is on its disk."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lock.close()


def wait_for(*servers: Server) -> None:
    """Until clients are served by each of them (without TLS)."""
    for server in servers:
        client = KazooClient(server.address)
        try:
            client.start(timeout=LIMIT)
        except KazooTimeoutError:
            pytest.fail("ZooKeeper did not start: " + server.log())
        finally:
            client.stop()
            client.close()


@contextmanager
def running(*servers: Server) -> Iterator[tuple[Server, ...]]:
    """They serve clients (without TLS), until the end; skips the test where there is no ZooKeeper."""
    try:
        if not INSTALLED:
            pytest.skip("no ZooKeeper installed")
        for server in servers:
            server.start()
        wait_for(*servers)
        yield servers
    finally:
        for server in servers:
            server.close()


def ensemble(size: int = 3) -> list[Server]:
    """Not started yet."""
    ports = free_ports(3 * size)
    clients, peers = ports[:size], ports[size:]
    quorum = tuple(f"server.{i + 1}=127.0.0.1:{peers[2 * i]}:{peers[2 * i + 1]}" for i in range(size))
    return [Server(port=clients[i], myid=i + 1, quorum=quorum) for i in range(size)]


class Proxy:
    """TCP between a client and a server, which can be cut, frozen and refused; in the test's loop.

    `tls`: speaks TLS to the client and plain TCP to the server.
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.swallow_answers = False
        """Requests pass, answers don't: what a client that loses its connection cannot know."""
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def refuse(self) -> None:
        """Cut all, and take no connection until `open`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Nothing flows until `thaw`, and nothing is closed: a host that is gone."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def close(self) -> None:
        self.thaw()
        await self.refuse()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, upstream}
        self._writers |= both
        try:
            ends = [self._pump(reader, upstream, False), self._pump(upstream_reader, writer, True)]
            pumps = [asyncio.ensure_future(one) for one in ends]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._writers -= both
            for one in both:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                if answers and self.swallow_answers:
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # the other end went away
