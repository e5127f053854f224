"""The link between master and agent: a WebSocket the agent opens, JSON messages in both directions, in order.

Our own protocol (Mesos has libprocess there), not an API. `type` names the message; ids are plain strings.

agent → master: REGISTER{version, info, checkpointed} · REREGISTER{version, info, checkpointed, frameworks, executors,
  tasks} · PONG · UNREGISTER ·
  UPDATE{framework_id, status, latest_state} · EXITED_EXECUTOR{framework_id, executor_id, status} ·
  MESSAGE{framework_id, executor_id, data} · OVERSUBSCRIBED{resources}
master → agent: REGISTERED{agent_id} · REREGISTERED{agent_id, reconciliations: [{framework, task_ids}]} · PING ·
  CHECKPOINT_RESOURCES{resources} · RUN{framework, runs: [{tasks, executor, launch_executor, group?}]} ·
  KILL{framework_id, task_id, kill_policy?} · ACKNOWLEDGE{framework_id, task_id, uuid} ·
  SHUTDOWN_EXECUTOR{framework_id, executor_id} · SHUTDOWN_FRAMEWORK{framework_id} · UPDATE_FRAMEWORK{framework} ·
  DRAIN{config} · MESSAGE{framework_id, executor_id, data} · SHUTDOWN{message}

The first message of an agent is REGISTER or REREGISTER. A broken link loses nothing that matters: the agent opens a
new one, re-registers and sends again what is not acknowledged.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

import aiohttp
import orjson

log = logging.getLogger(__name__)

PATH = "/gantry/agent"


class _Socket(Protocol):
    """What client and server WebSockets have in common."""

    async def send_bytes(self, data: bytes) -> None: ...

    async def receive(self) -> aiohttp.WSMessage: ...

    async def close(self) -> bool: ...


class SocketLink:
    """One end. `send` never waits; messages are written in order by a task of the link."""

    def __init__(self, socket: _Socket) -> None:
        self._socket = socket
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write())

    def send(self, message: dict[str, Any]) -> None:
        self._queue.put_nowait(orjson.dumps(message))

    def close(self) -> None:
        """Close once everything queued is written."""
        self._queue.put_nowait(None)

    async def _write(self) -> None:
        try:
            while (data := await self._queue.get()) is not None:
                await self._socket.send_bytes(data)
        except (ConnectionError, aiohttp.ClientError) as error:
            log.debug("link broke: %s", error)
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.close()

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the peer sends, until the link ends."""
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                yield orjson.loads(message.data)
            else:
                return

    async def aclose(self) -> None:
        """Close now and end the writing task."""
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.close()
