"""A scripted master or agent; schedulers and executors that write down what they are told; an embedded Mesos."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.mesos.executor_driver import ExecutorDriver
from shared.mesos.recordio import encode
from shared.mesos.scheduler_driver import SchedulerDriver
from shared.mesos.vocabulary import Executor, Scheduler
from shared.security.tokens import BearerTokenFile
from tests.mesos.words import FRAMEWORK, SUBSCRIBED
from tests.security.authority import Authority
from tests.security.iam import Iam

LIMIT = 60.0  # seconds any single wait may take before a test fails

Json = dict[str, Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Stream:
    """The peer's end of one subscription."""

    def __init__(self, request: web.Request, body: Json, response: web.StreamResponse) -> None:
        self.request = request
        self.body = body
        self._response = response
        self.over = asyncio.Event()

    async def send(self, *events: Json) -> None:
        await self.raw(b"".join(encode(json.dumps(event).encode()) for event in events))

    async def drip(self, event: Json) -> None:
        """One HTTP chunk a byte."""
        for byte in encode(json.dumps(event).encode()):
            await self.raw(bytes([byte]))

    async def raw(self, data: bytes) -> None:
        await self._response.write(data)

    def end(self) -> None:
        """End the response as HTTP has it."""
        self.over.set()

    def cut(self) -> None:
        """Reset the TCP connection."""
        assert self.request.transport is not None
        self.request.transport.abort()
        self.over.set()


class Peer:
    """Answers SUBSCRIBE with the next of `answers` (or a stream), everything else with 202."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.refusals: deque[tuple[str, int, str]] = deque()  # (call type, status, text)
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.calls: asyncio.Queue[Json] = asyncio.Queue()
        self.call_connections: set[int] = set()
        self.headers: list[Any] = []
        self.subscribes: list[Json] = []
        self.hold: asyncio.Event | None = None  # calls are not answered until it is set
        self.operator: Answer | None = None
        self._runner: web.AppRunner | None = None
        self._open: list[Stream] = []
        self._call_transports: list[asyncio.Transport] = []
        self.port = 0
        self.certificates: list[Json | None] = []  # what clients showed, a request

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def listen(self, port: int = 0, tls: ssl.SSLContext | None = None) -> "Peer":
        app = web.Application()
        app.router.add_post("/api/v1/scheduler", self._handle)
        app.router.add_post("/api/v1/executor", self._handle)
        app.router.add_post("/api/v1", self._operate)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def close(self) -> None:
        for stream in self._open:
            stream.over.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def drop_call_connections(self) -> None:
        for transport in self._call_transports:
            transport.abort()

    async def stream(self) -> Stream:
        async with asyncio.timeout(LIMIT):
            return await self.streams.get()

    async def call(self) -> Json:
        async with asyncio.timeout(LIMIT):
            return await self.calls.get()

    async def _operate(self, request: web.Request) -> web.StreamResponse:
        assert self.operator is not None
        return await self.operator(request)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.headers.append(request.headers)
        self.certificates.append(request.get_extra_info("peercert"))
        if body["type"] == "SUBSCRIBE":
            self.subscribes.append(body)
            if self.answers:
                return await self.answers.popleft()(request)
            return await self._subscribe(request, body)
        assert request.transport is not None
        self.call_connections.add(id(request.transport))
        self._call_transports.append(request.transport)
        self.calls.put_nowait(body)
        if self.hold is not None:
            await self.hold.wait()
        if self.refusals and self.refusals[0][0] == body["type"]:
            _, status, text = self.refusals.popleft()
            return web.Response(status=status, text=text)
        return web.Response(status=202)

    async def _subscribe(self, request: web.Request, body: Json) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Mesos-Stream-Id": "stream"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        stream = Stream(request, body, response)
        self._open.append(stream)
        self.streams.put_nowait(stream)
        await stream.over.wait()
        return response


class _Book:
    """Callbacks in the order they came."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.then: dict[str, Callable[..., None]] = {}  # done inside of the callback of that name

    def _note(self, name: str, driver: Any, *arguments: Any) -> None:
        self.seen.put_nowait((name, *arguments))
        if name in self.then:
            self.then[name](driver, *arguments)

    async def next(self, name: str) -> tuple[Any, ...]:
        """The arguments of the next callback, which must be that one."""
        async with asyncio.timeout(LIMIT):
            got = await self.seen.get()
        assert got[0] == name, f"expected {name}, got {got}"
        return got[1:]

    def nothing(self) -> bool:
        return self.seen.empty()


_SCHEDULER = [name for name in vars(Scheduler) if not name.startswith("_") and name != "processHeartBeat"]
_EXECUTOR = [name for name in vars(Executor) if not name.startswith("_")]


def _recorder(base: type, names: list[str]) -> type:
    def method(name: str) -> Callable[..., None]:
        return lambda self, driver, *arguments: self._note(name, driver, *arguments)

    return type("Recorder", (_Book, base), {name: method(name) for name in names})


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    one = await Peer().listen()
    yield one
    await one.close()


@pytest.fixture
async def other_peer() -> AsyncIterator[Peer]:
    one = await Peer().listen()
    yield one
    await one.close()


@pytest.fixture
async def secure_peer() -> AsyncIterator[Peer]:
    """Not listening yet: `listen(tls=…)`."""
    one = Peer()
    yield one
    await one.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def jwt(tmp_path: Path) -> BearerTokenFile:
    """Credentials: `Bearer jwt`."""
    path = tmp_path / "jwt"
    path.touch(0o600)
    path.write_text("jwt")
    return BearerTokenFile(path)


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def iam(rsa_key: rsa.RSAPrivateKey) -> AsyncIterator[Iam]:
    """DC/OS' login endpoint."""
    one = Iam(rsa_key)
    await one.listen()
    yield one
    await one.close()


@pytest.fixture
def scheduler() -> Any:
    return _recorder(Scheduler, [*_SCHEDULER, "callRefused"])()


@pytest.fixture
def executor() -> Any:
    return _recorder(Executor, _EXECUTOR)()


@pytest.fixture
async def make(peer: Peer, scheduler: Any) -> AsyncIterator[Callable[..., SchedulerDriver]]:
    """make(master="", framework=…, **options): a scheduler's driver, for `peer` unless another master is given."""
    drivers: list[SchedulerDriver] = []

    def build(
        master: str = "",
        framework: dict[str, Any] = FRAMEWORK,
        cls: type[SchedulerDriver] = SchedulerDriver,
        **options: Any,
    ) -> SchedulerDriver:
        options = {"backoff": (0.005, 0.02), **options}
        drivers.append(cls(scheduler, framework, master or peer.address, **options))
        return drivers[-1]

    yield build
    for driver in drivers:
        await driver.stop(timeout=0.1)


@pytest.fixture
async def driver(make: Callable[..., SchedulerDriver], peer: Any, scheduler: Any) -> SchedulerDriver:
    """Registered with `peer`, whose stream is `peer.now`."""
    one = make()
    await one.start()
    peer.now = await peer.stream()
    await peer.now.send(SUBSCRIBED)
    await scheduler.next("registered")
    return one


@pytest.fixture
async def make_executor(peer: Peer, executor: Any) -> AsyncIterator[Callable[..., ExecutorDriver]]:
    """make_executor(**environ): an executor's driver, for `peer` unless `environ` says otherwise."""
    drivers: list[ExecutorDriver] = []

    def build(**environ: str) -> ExecutorDriver:
        env = {
            "MESOS_AGENT_ENDPOINT": peer.address,
            "MESOS_FRAMEWORK_ID": "F-0002",
            "MESOS_EXECUTOR_ID": "gantry.1",
            "MESOS_SLAVE_ID": "S0",
            "MESOS_CHECKPOINT": "1",
            "MESOS_RECOVERY_TIMEOUT": "2mins",
            "MESOS_SUBSCRIPTION_BACKOFF_MAX": "20ms",
            **environ,
        }
        drivers.append(ExecutorDriver(executor, env))
        return drivers[-1]

    yield build
    for driver in drivers:
        await driver.stop(timeout=0.05)


class EmbeddedMesos:
    """`gantry master` and `gantry agent` as real processes, with everything below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[tuple[subprocess.Popen[str], signal.Signals]] = []

    def spawn(
        self, name: str, *command: str, pipe: bool = False, end: signal.Signals = signal.SIGTERM
    ) -> Any:
        """A Python process whose output goes to `<name>.log`; `end` is the signal that ends it."""
        with (self.directory / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE if pipe else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._processes.append((process, end))
        return process

    def master(self, port: str = "0") -> tuple[Any, str]:
        """The process and its address."""
        work = self.directory / "master"
        flags = [
            "--ip",
            "127.0.0.1",
            "--port",
            port,
            "--work_dir",
            str(work),
            "--allocation_interval",
            "100ms",
        ]
        process = self.spawn("master", "-m", "gantry", "master", *flags)
        return process, self._endpoint(work, process)

    def agent(self, master: str, port: str = "0") -> tuple[Any, str]:
        """The process and its address."""
        work = self.directory / "agent"
        flags = ["--master", master, "--ip", "127.0.0.1", "--port", port, "--work_dir", str(work)]
        flags += ["--resources", "cpus:1;mem:256;disk:1024", "--launcher", "posix"]
        # SIGTERM would leave the executors running.
        process = self.spawn("agent", "-m", "gantry", "agent", *flags, end=signal.SIGUSR1)
        return process, self._endpoint(work, process)

    def kill(self, process: Any) -> None:
        """SIGKILL, as a machine that fails would do it."""
        process.kill()
        process.wait()
        for endpoint in self.directory.glob("*/endpoint"):
            endpoint.unlink()

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in self.directory.glob("*.log"))

    def close(self) -> None:
        for process, end in reversed(self._processes):
            process.send_signal(end)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _endpoint(self, work_dir: Path, process: Any) -> str:
        """What `--port 0` came to, once it is written."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                text = (work_dir / "endpoint").read_text().strip()
            except FileNotFoundError:
                text = ""
            if text:
                return text
            time.sleep(0.02)
        raise AssertionError(f"no endpoint in {work_dir}\n{self.logs()}")


@pytest.fixture
def mesos(tmp_path: Path) -> Iterator[EmbeddedMesos]:
    one = EmbeddedMesos(tmp_path)
    yield one
    one.close()
