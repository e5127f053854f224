"""The links of all simulated agents, and the faults that befall them."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import aiohttp

from local.link import PATH, SocketLink
from local.simulation.agent import SimulatedAgent
from local.simulation.faults import Fault, Kind
from local.simulation.record import Record

log = logging.getLogger(__name__)

AGAIN = 0.2
"""Seconds between attempts to reach the master."""
AT_ONCE = 200
"""Agents that connect at the same time; the master's backlog is not for ever."""


class Connection:
    """Keeps one agent's link open, and breaks it when asked to."""

    def __init__(
        self, agent: SimulatedAgent, session: aiohttp.ClientSession, url: str, door: asyncio.Semaphore
    ) -> None:
        """`door`: so many may connect at once, see AT_ONCE."""
        self.agent = agent
        self._door = door
        self._session = session
        self._url = url
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._allowed = asyncio.Event()
        self._allowed.set()
        self.down = asyncio.Event()
        self.down.set()
        self.launched = asyncio.Event()

    async def run(self) -> None:
        """Link after link, until cancelled."""
        while True:
            await self._allowed.wait()
            try:
                await self._link()
            except (aiohttp.ClientError, OSError) as error:
                log.info("no link to the master: %s", error)
                await asyncio.sleep(AGAIN)

    async def _link(self) -> None:
        agent = self.agent
        async with self._door:
            socket = await self._session.ws_connect(f"{self._url}{PATH}", max_msg_size=0, compress=0)
        async with socket:
            self._socket = socket
            self.down.clear()
            link = SocketLink(socket)
            link.send(agent.hello())
            try:
                async for message in link.messages():
                    if not self._allowed.is_set():
                        break
                    agent.handle(message, link.send)
                    if message["type"] == "RUN":
                        self.launched.set()
                    elif message["type"] == "SHUTDOWN":
                        break
            finally:
                agent.disconnected()
                await link.aclose()
                self._socket = None
                self.down.set()

    async def cut(self) -> None:
        """Break the link, and keep it so until `mend`. Nothing is sent or heard from now on."""
        self._allowed.clear()
        self.agent.disconnected()
        if self._socket is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._socket.close()
        await self.down.wait()

    def mend(self) -> None:
        self._allowed.set()


async def misbehave(connections: Sequence[Connection], faults: Sequence[Fault], record: Record) -> None:
    """Make all faults happen, the first some time after the first launch; then say that they are over."""
    waiting = [asyncio.create_task(one.launched.wait()) for one in connections]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    loop = asyncio.get_running_loop()
    began = loop.time()
    busy: set[Connection] = set()
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(began + fault.at - loop.time())
            if victim := _victim(connections, fault, busy):
                group.create_task(_happen(victim, fault, record, busy))
    record.fault("over", "")
    log.info("no more faults: %d were to be made", len(faults))


def _victim(connections: Sequence[Connection], fault: Fault, busy: set[Connection]) -> Connection | None:
    """An agent with tasks, if there is one to which nothing happens now; else any."""
    idle = [one for one in connections if one not in busy]
    choice = [one for one in idle if one.agent.held.runs] or idle
    return choice[fault.agent % len(choice)] if choice else None


async def _happen(connection: Connection, fault: Fault, record: Record, busy: set[Connection]) -> None:
    agent = connection.agent
    busy.add(connection)
    record.fault(fault.kind.value, agent.machine.hostname)
    match fault.kind:
        case Kind.AGENT_LOST:
            await connection.cut()
            agent.die(fault.kind.value)
            await asyncio.sleep(fault.pause)
            connection.mend()
        case Kind.AGENT_AWAY:
            await connection.cut()
            await asyncio.sleep(fault.pause)
            connection.mend()
        case Kind.FLAP:
            await connection.cut()
            connection.mend()
            await asyncio.sleep(fault.pause / 10)
            await connection.cut()
            connection.mend()
        case Kind.EXECUTOR_LOST:
            agent.lose_executors()
        case Kind.SLOW:
            agent.lateness = fault.pause
            await asyncio.sleep(fault.pause * 10)
            agent.lateness = 0.0
    busy.discard(connection)
