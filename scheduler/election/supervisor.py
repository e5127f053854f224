"""The parent: keeps the session and the candidacy, starts the scheduler as its child, and starts it again.

It has little memory and nothing to crash over: it reads no objects and serves nobody. A child that dies costs the
leadership at once; one that ends for good reason (bad flags, a refusal of Mesos) ends the parent with its exit code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence

from scheduler.election.candidacy import Candidacy
from scheduler.election.messages import (
    LARGEST,
    TICK,
    VARIABLE,
    Candidate,
    Message,
    decode,
    encode,
    pair,
)
from scheduler.exitcodes import LISTEN, LOST, MESOS, OK, STORE, USAGE
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings

log = logging.getLogger("gantry.supervisor")

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0
"""Seconds before a child that crashed is started again; twice as long each time."""

STEADY = 60.0
"""Seconds a child has to live for its end to be no consequence of its start."""

HUNG = 30.0
"""Seconds without a sign of life after which a child is killed."""

STOPPING = 30.0
"""Seconds a child has to end in order."""

LEAVING = 2.0
"""Seconds for giving the leadership away at the end; closing the session does it, too."""

FINAL = frozenset((OK, USAGE, LISTEN, MESOS))
"""Exit codes of a child for which starting it again would be of no use, or which were asked for."""


class Child:
    """A running scheduler."""

    def __init__(self, process: Process, end: socket.socket) -> None:
        self.process = process
        self.started = self.heard = asyncio.get_running_loop().time()
        self.announced = False
        self._end = end

    @classmethod
    async def start(cls, command: Sequence[str]) -> Child:
        mine, its = pair()
        with its:
            environ = {**os.environ, VARIABLE: str(its.fileno())}
            process = await asyncio.create_subprocess_exec(*command, pass_fds=(its.fileno(),), env=environ)
        mine.setblocking(False)
        return cls(process, mine)

    def send(self, data: bytes) -> None:
        try:
            self._end.send(data)
        except OSError as error:  # it is dying, which is noticed elsewhere; or it is hung, and that is, too
            log.debug("the scheduler does not listen: %s", error)

    async def receive(self) -> Message | None:
        """None when it is dead: its end of the socket is closed before anything else can be noticed."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._end, LARGEST)
        except OSError:
            data = b""
        self.heard = asyncio.get_running_loop().time()
        return decode(data) if data else None

    def signal(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    def close(self) -> None:
        self._end.close()


class Supervisor:
    """See the module. `run` returns the exit code."""

    def __init__(self, command: Sequence[str], settings: ZooKeeperSettings) -> None:
        self._command = command
        self._timeout = settings.session_timeout
        self._session = Session(settings)
        self._candidacy = Candidacy(self._session, self)
        self._child: Child | None = None
        self._stop = asyncio.Event()
        self._over = asyncio.Event()
        self._epoch: int | None = None
        self._following: Candidate | None = None
        self._cut_off = True

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        election = asyncio.create_task(self._candidacy.run(), name="candidacy")
        scheduler = asyncio.create_task(self._supervise(), name="scheduler")
        over = asyncio.create_task(self._over.wait(), name="leadership")
        try:
            await asyncio.wait((election, scheduler, over), return_when=asyncio.FIRST_COMPLETED)
            if self._over.is_set():
                return self._exit_code(LOST)
            if election.done():
                await election  # it ends by a bug only
            return await scheduler
        finally:
            await self._end((election, scheduler, over))

    async def _end(self, tasks: Sequence[asyncio.Task[object]]) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.wait(tasks[1:])
        if not self._over.is_set():
            self._candidacy.leave()
            try:
                async with asyncio.timeout(LEAVING):
                    await self._candidacy.left()
            except TimeoutError:
                log.warning(
                    "ZooKeeper is out of reach: the next leader has to wait for our session to time out"
                )
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        if self._session.state == "CONNECTED":
            await self._session.stop()

    def _exit_code(self, code: int) -> int:
        """What an end by this code means: who was to end has lost nothing when another one leads already."""
        return OK if code == LOST and self._stop.is_set() else code

    # ---- the child

    async def _supervise(self) -> int:
        """Starts it again and again; its exit code when that is of no use."""
        delay = FIRST_DELAY
        while True:
            child = self._child = await Child.start(self._command)
            code = await self._attend(child)
            self._child = None
            final = code in FINAL or (code == STORE and not child.announced)
            if final or self._stop.is_set():
                return self._exit_code(code) if code >= 0 else 128 - code
            lived = asyncio.get_running_loop().time() - child.started
            delay = FIRST_DELAY if lived >= STEADY else min(delay * 2, LONGEST_DELAY)
            log.error("the scheduler ended (%s), starting it again in %.1f s", _described(code), delay)
            try:
                async with asyncio.timeout(delay):
                    await self._stop.wait()
                return OK
            except TimeoutError:
                pass

    async def _attend(self, child: Child) -> int:
        """Until it has ended: its exit code, negative for a signal."""
        self._brief(child)
        tasks = [
            asyncio.create_task(self._beat(child), name="signs of life"),
            asyncio.create_task(self._pass_stop(child), name="stop"),
        ]
        try:
            while (message := await child.receive()) is not None:
                self._take(child, message)
            self._leave()
            return await child.process.wait()
        finally:
            child.signal(signal.SIGKILL)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            child.close()

    def _take(self, child: Child, message: Message) -> None:
        match message.pop("kind"):
            case "candidate":
                child.announced = True
                if not self._stop.is_set():
                    self._candidacy.enter(Candidate(**message))
            case "withdraw":
                self._leave()

    def _leave(self) -> None:
        self._epoch = self._following = None
        self._candidacy.leave()

    async def _beat(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        while True:
            child.send(encode("tick"))
            await asyncio.sleep(TICK)
            if loop.time() - child.heard > HUNG:
                log.error("the scheduler gave no sign of life for %.0f s: killing it", HUNG)
                child.signal(signal.SIGKILL)
                return

    async def _pass_stop(self, child: Child) -> None:
        await self._stop.wait()
        child.signal(signal.SIGTERM)
        await asyncio.sleep(STOPPING)
        log.error("the scheduler did not end within %.0f s: killing it", STOPPING)
        child.signal(signal.SIGKILL)

    # ---- the election

    def _brief(self, child: Child) -> None:
        """All that a new child has to know."""
        self._send_session()
        child.send(encode("cut off", on=self._cut_off))
        self._send_leader()

    def _send_session(self) -> None:
        found = self._session.client_id
        if self._child is not None and found is not None:
            number, password = found
            self._child.send(encode("session", id=number, password=password.hex(), timeout=self._timeout))

    def _send_leader(self) -> None:
        if self._child is None:
            return
        if self._epoch is not None:
            self._child.send(encode("lead", epoch=self._epoch))
            return
        leader = self._following
        facts = {name: getattr(leader, name) for name in leader.__slots__} if leader else None
        self._child.send(encode("follow", leader=facts))

    def leads(self, epoch: int) -> None:
        self._epoch = epoch
        self._send_leader()

    def follows(self, leader: Candidate | None) -> None:
        if self._epoch is not None or leader != self._following:
            self._epoch, self._following = None, leader
            self._send_leader()

    def cut_off(self, on: bool) -> None:
        self._cut_off = on
        if self._child is not None:
            if not on:
                self._send_session()
            self._child.send(encode("cut off", on=on))

    def lost(self, why: str) -> None:
        """What it decided meanwhile was refused by the store; what it would decide has no use."""
        log.critical("the leadership is lost: %s", why)
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
        self._over.set()


def _described(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def run(argv: Sequence[str], settings: ZooKeeperSettings) -> int:
    """Supervises `gantry scheduler` with these arguments; returns the exit code."""
    command = [sys.executable, "-m", "gantry", "scheduler", *argv]
    return asyncio.run(Supervisor(command, settings).run())
