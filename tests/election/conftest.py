"""A real ZooKeeper; candidates in this process; and whole clusters of several schedulers as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.election.candidacy import Candidacy
from scheduler.election.messages import Candidate
from shared.zookeeper.location import Location
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings
from tests.engine.processes.local import Local, until
from tests.waiting import PATIENCE
from tests.zookeeper.server import Proxy, Server, running

TESTS = Path(__file__).parents[1]
GONE = 6
"""With this code a scheduler ends whose session has expired, which on a busy machine any may: to be started again."""


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[Any]:
    """One server; `address`, `kill`, `start`."""
    with running(Server()) as (server,):
        yield server


# ---- candidates in this process


class Voter:
    """A candidacy, and what it was told, in order."""

    def __init__(self, settings: ZooKeeperSettings, name: str) -> None:
        self.me = Candidate(name, f"http://{name}:1")
        self.session = Session(settings)
        self.candidacy = Candidacy(self.session, self)
        self.told: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.task = asyncio.create_task(self.candidacy.run())

    def leads(self, epoch: int) -> None:
        self.told.put_nowait(("leads", epoch))

    def follows(self, leader: Candidate | None) -> None:
        self.told.put_nowait(("follows", leader.instance if leader else None))

    def cut_off(self, on: bool) -> None:
        self.told.put_nowait(("cut off", on))

    def lost(self, why: str) -> None:
        self.told.put_nowait(("lost", why))

    def enter(self) -> Voter:
        self.candidacy.enter(self.me)
        return self

    async def hears(self, kind: str) -> Any:
        """What it is told next of this kind; others pass."""
        async with asyncio.timeout(PATIENCE):
            while True:
                what, fact = await self.told.get()
                if what == kind:
                    return fact

    async def follows_one(self, leader: str | None) -> None:
        while await self.hears("follows") != leader:
            pass

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.session.stop()


@pytest.fixture
async def voter(zookeeper: Any, request: pytest.FixtureRequest) -> AsyncIterator[Callable[[str], Voter]]:
    made: list[Voter] = []
    path = "/" + re.sub(r"\W", "-", request.node.name)

    def make(name: str, address: str = zookeeper.address, timeout: float = 4.0) -> Voter:
        one = Voter(ZooKeeperSettings(Location(address, path), session_timeout=timeout), name)
        made.append(one)
        return one

    yield make
    for one in made:
        await one.stop()


@pytest.fixture
async def proxy(zookeeper: Any) -> AsyncIterator[Any]:
    """A way to ZooKeeper that can be cut."""
    one = await Proxy(zookeeper.address).open()
    yield one
    await one.close()


# ---- clusters of real processes


class Ha(Local):
    """A master, agents with the scripted executor, and any number of schedulers on one ZooKeeper."""

    def __init__(self, directory: Path, zookeeper: Any, *, timeout: float = 4.0) -> None:
        super().__init__(directory)
        self.zookeeper = zookeeper
        self.timeout = timeout
        self.url = f"zk://{zookeeper.address}/{directory.name}"
        self.ports: dict[str, int] = {}
        self._flags: dict[str, tuple[str, ...]] = {}
        self._spawned: list[subprocess.Popen[bytes]] = []

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        """As everywhere, and as somebody who supervises the schedulers."""

        def tended() -> Any:
            self._tend()
            return check()

        return until(what, tended)

    def _tend(self) -> None:
        for name, flags in self._flags.items():
            if name in self.processes and self.processes[name].poll() == GONE:
                self.start_one(name, *flags)

    def spawn(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        """It ends with us, however we end; and with `stop`, whatever a test did with it."""
        with (self.directory / f"{name}.log").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "gantry", *argv]
            environ = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, env=environ
            )
        self._spawned.append(process)
        self.processes[name] = process
        return process

    def begin(
        self, *schedulers: str, agents: tuple[str, ...] = ("agent-1",), flags: tuple[str, ...] = ()
    ) -> None:
        """All of it; the first scheduler leads."""
        self.start_master()
        for name in agents:
            self.start_agent(name)
        for name in schedulers:
            self.start_one(name, *flags)
            self.ready(name)
        self.use(schedulers[0])
        self.until("the nodes", lambda: len(self.items("/api/v1/nodes")) == len(agents))

    def start_one(self, name: str, *flags: str) -> subprocess.Popen[bytes]:
        """A scheduler, on the port that it had if it had one."""
        port = self.ports[name] = self.ports.get(name) or self.free_port()
        self._flags[name] = flags
        base = (
            "--store",
            self.url,
            "--listen",
            f"127.0.0.1:{port}",
            "--zk-session-timeout",
            str(self.timeout),
        )
        return self.spawn_scheduler(*base, *flags, name=name)

    def use(self, name: str) -> None:
        """`call`, `get` and the like ask this one from now on."""
        self.api = self.ports[name]

    def ask(self, name: str, path: str) -> str:
        """The body, whatever the status; "" when nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            return ""

    def ready(self, name: str) -> None:
        self.until(f"{name} to be ready", lambda: self._alive(name) and self.ask(name, "/readyz") == "ok")

    def _alive(self, name: str) -> bool:
        code = self.processes[name].poll()
        assert code in (None, GONE), f"{name} ended with exit code {code}:\n{self.log(name)[-3000:]}"
        return True

    def leads(self, name: str) -> bool:
        return "this scheduler leads" in self.ask(name, "/readyz?verbose")

    def leader(self) -> str:
        """Waits for one that is ready."""
        return str(self.until("a leader", self._leader))

    def _leader(self) -> str:
        for name in self.ports:
            said = self.ask(name, "/readyz?verbose") if name in self.processes else ""
            if "this scheduler leads" in said and "readyz check passed" in said:
                return name
        return ""

    def child(self, name: str) -> int:
        """The pid of the scheduler proper; `processes` has the parent's."""
        pid = self.processes[name].pid
        path = Path(f"/proc/{pid}/task/{pid}/children")
        return int(self.until(f"the child of {name}", lambda: path.read_text().split()[:1])[0])

    def metric(self, name: str, metric: str) -> float:
        for line in self.ask(name, "/metrics").splitlines():
            if line.startswith(metric + " "):
                return float(line.split()[1])
        raise AssertionError(f"{name} has no {metric}")

    def launch(self, *kinds: str) -> list[str]:
        """New pods that run; their names."""
        names = [f"{kind}-{uuid.uuid4().hex[:6]}" for kind in kinds]
        self.create(*names)
        self.until(f"{names} to run", lambda: all(self.phases().get(name) == "Running" for name in names))
        return names

    def roles(self) -> tuple[str, str]:
        """Who leads, and the other one."""
        leader = self.leader()
        return leader, next(name for name in self.ports if name != leader)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def stop(self) -> None:
        children: list[int] = []  # descriptors: a process id may be somebody else's by then
        for process in self._spawned:
            if process.poll() is not None:
                continue
            path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            for pid in path.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    children.append(os.pidfd_open(int(pid)))
            process.kill()
            process.wait()
        super().stop()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


@pytest.fixture
def ha(zookeeper: Any, tmp_path: Path) -> Iterator[Ha]:
    """Nothing started yet."""
    made = Ha(tmp_path, zookeeper)
    try:
        yield made
    except BaseException:
        made.stop()
        raise
    made.stop()


@pytest.fixture(scope="module")
def _pair(zookeeper: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ha]:
    made = Ha(tmp_path_factory.mktemp("pair"), zookeeper)
    try:
        made.begin("one", "two")
        yield made
    except BaseException:
        made.stop()
        raise
    made.stop()


@pytest.fixture
def pair(_pair: Ha) -> Ha:
    """Two schedulers, whoever leads, and two pods more than before that run. A module's tests share the cluster."""
    for name in ("one", "two"):
        if name in _pair.processes and _pair.processes[name].poll() is not None:
            _pair.processes.pop(name)
        if name not in _pair.processes:
            _pair.start_one(name)
    for name in ("one", "two"):
        _pair.ready(name)
    _pair.use(_pair.leader())
    _pair.launch("before", "before")
    return _pair
