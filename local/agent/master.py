"""The agent's side of the link: find the master, register, follow its orders, start again.

Source: Mesos src/slave/slave.cpp (`detected`, `doReliableRegistration`, `registered`, `reregistered`).
"""

import asyncio
import logging
import random
from collections.abc import Callable

import aiohttp

from local.agent import checkpoint
from local.agent.core import VERSION, Core
from local.agent.executors import Executors
from local.agent.launches import Launches
from local.link import PATH, SocketLink
from local.wire.authentication import basic_header
from local.wire.proto import Json

log = logging.getLogger(__name__)

_FIRST_WAIT = 0.05  # seconds


class MasterConnection:
    """Keeps a link for as long as the agent runs."""

    def __init__(self, core: Core, executors: Executors, registered: Callable[[], None]) -> None:
        """`registered` is called whenever the agent is."""
        self._core = core
        self._announce = registered
        self._executors = executors
        launches = Launches(core, executors)
        self._launches = launches
        self._handlers: dict[str, Callable[[Json], None]] = {
            "REGISTERED": self._registered,
            "REREGISTERED": self._reregistered,
            "PING": lambda _: core.send({"type": "PONG"}),
            "RUN": launches.run,
            "CHECKPOINT_RESOURCES": core.checkpoint_resources,
            "KILL": launches.kill,
            "DRAIN": lambda m: launches.drain(m["config"]),
            "ACKNOWLEDGE": lambda m: core.acknowledged(m["framework_id"], m["task_id"], m["uuid"]),
            "SHUTDOWN_EXECUTOR": launches.shutdown_executor,
            "SHUTDOWN_FRAMEWORK": lambda m: executors.shutdown_framework(m["framework_id"]),
            "UPDATE_FRAMEWORK": launches.update_framework,
            "MESSAGE": launches.message,
            "SHUTDOWN": lambda m: self.shutdown(m["message"]),
        }

    async def run(self) -> None:
        """Link after link, following redirects to the leading master; ends with the agent."""
        wait = _FIRST_WAIT
        async with aiohttp.ClientSession() as session:
            while not self._core.stopped.is_set():
                try:
                    await self._link(session, self._core.flags.master)
                    wait = _FIRST_WAIT
                except (aiohttp.ClientError, OSError) as error:
                    log.info("no link to the master: %s", error)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, self._core.flags.registration_backoff_factor)

    async def _link(self, session: aiohttp.ClientSession, address: tuple[str, int]) -> None:
        host, port = address
        core = self._core
        tls, credential = core.flags.tls, core.flags.credential
        url = f"{tls.scheme}://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
        headers = {} if credential is None else {"Authorization": basic_header(*credential)}
        async with session.ws_connect(
            url, max_msg_size=0, compress=0, headers=headers, ssl=tls.client or True
        ) as socket:
            link = SocketLink(socket)
            link.send(self._hello())
            try:
                async for message in link.messages():
                    if core.link is None and message["type"] in ("REGISTERED", "REREGISTERED"):
                        core.link = link
                    self._handlers[message["type"]](message)
            finally:
                log.info("the link to the master at %s:%d ended", host, port)
                core.link = None
                core.updates.pause()
                await link.aclose()

    def _hello(self) -> Json:
        core = self._core
        info = {**core.info(), "ip": core.flags.ip, "checkpoint": True}
        remembered = core.memory.resources.to_json()
        if core.agent_id is None:
            return {"type": "REGISTER", "version": VERSION, "info": info, "checkpointed": remembered}
        executors = [e for f in core.frameworks.values() for e in f.executors.values()]
        live = [e for e in executors if e.state.value != "terminated"]
        return {
            "type": "REREGISTER",
            "version": VERSION,
            "info": info,
            "checkpointed": remembered,
            "frameworks": [framework.info for framework in core.frameworks.values()],
            "executors": [executor.info for executor in live],
            "tasks": [task.to_json() for executor in executors for task in executor.tasks()],
        }

    def _registered(self, message: Json) -> None:
        core = self._core
        core.agent_id = message["agent_id"]
        checkpoint.save_agent(core.flags.work_dir, message["agent_id"], core.info())
        log.info("registered as agent %s", core.agent_id)
        core.updates.resume()
        self._announce()

    def _reregistered(self, message: Json) -> None:
        log.info("re-registered as agent %s", self._core.agent_id)
        self._core.updates.resume()
        self._announce()
        for item in message["reconciliations"]:
            self._launches.reconcile(item["framework"], item["task_ids"])

    def unregister(self) -> None:
        """SIGUSR1: say good-bye, then shut down."""
        self._core.send({"type": "UNREGISTER"})
        self.shutdown("asked to by a signal")

    def shutdown(self, why: str) -> None:
        """End all executors, then the agent; the next one in this work directory is a new one."""
        core = self._core
        if core.terminating:
            return
        log.warning("shutting down: %s", why)
        core.terminating = True
        checkpoint.forget_agent(core.flags.work_dir)
        for framework_id in list(core.frameworks):
            self._executors.shutdown_framework(framework_id)
        if not core.frameworks:
            core.stop()
