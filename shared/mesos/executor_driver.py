"""The executor driver: pymesos' calls and callbacks on a wire of ours (asyncio, one loop, no threads).

Status updates are kept until the agent acknowledged them by uuid (it has them on disk then), tasks until their
terminal update is; both go into every SUBSCRIBE. So an agent may restart at any time: nothing here notices but
`disconnected` and `reregistered`. Not a supervisor: what `shutdown` means is the executor's business.

Sources: Mesos docs/executor-http-api.md, src/executor/executor.cpp, src/slave/slave.cpp (subscribe,
statusUpdate), src/common/validation.cpp (what an UPDATE must have).
"""

# ruff: noqa: N802  (pymesos' names)

import asyncio
import logging
import random
import socket
import ssl
import time
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import orjson

from shared.mesos.backoff import Backoff
from shared.mesos.durations import parse_duration
from shared.mesos.http import Endpoint
from shared.mesos.life import Life
from shared.mesos.settings import tls_from_environ
from shared.mesos.subscription import (
    NotConnected,
    Redirected,
    Refused,
    Subscription,
    Unavailable,
    describe,
)
from shared.mesos.vocabulary import Executor, MesosExecutorDriver, Process

from pymesos import decode_data, encode_data  # isort: skip

__all__ = ["Executor", "ExecutorDriver", "NotConnected"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]

TERMINAL = frozenset(("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR"))

_PATH = "/api/v1/executor"


class ExecutorDriver(Life, MesosExecutorDriver):
    """A `pymesos.Executor`'s connection to its agent. All callbacks run on the loop, in order.

    `environ` is what the agent gave: MESOS_AGENT_ENDPOINT, MESOS_FRAMEWORK_ID and MESOS_EXECUTOR_ID are needed.
    While the agent is away the driver comes back within MESOS_SUBSCRIPTION_BACKOFF_MAX, and after
    MESOS_RECOVERY_TIMEOUT (at once without MESOS_CHECKPOINT) calls `shutdown`. A token or certificate that is
    not accepted is tried again as long; `trouble` says so.

    An agent with TLS is told by MESOS_SSL_ENABLED or LIBPROCESS_SSL_ENABLED, and libprocess' other variables
    (see settings.tls_from_environ); `tls` replaces them. Its certificate must name its address or this host.
    """

    def __init__(
        self,
        executor: Executor,
        environ: Mapping[str, str],
        *,
        tls: ssl.SSLContext | None = None,
        subscribe_timeout: float = 10.0,
    ) -> None:
        """ValueError names the variable or file that is missing or wrong.

        MESOS_EXECUTOR_AUTHENTICATION_TOKEN is taken out of `environ`, as libmesos does: no child shall see it.
        """
        # Not MesosExecutorDriver's, which reads os.environ.
        Process.__init__(self)
        Life.__init__(self)
        self.executor = executor
        self.framework_id = {"value": _need(environ, "MESOS_FRAMEWORK_ID")}
        self.executor_id = {"value": _need(environ, "MESOS_EXECUTOR_ID")}
        self.agent_id: Json | None = (
            {"value": environ["MESOS_SLAVE_ID"]} if "MESOS_SLAVE_ID" in environ else None
        )
        self.framework_info = self.executor_info = None
        self.checkpoint = environ.get("MESOS_CHECKPOINT") == "1"
        self.local = bool(environ.get("MESOS_LOCAL"))
        self.grace_shutdown_period = _seconds(environ, "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs")
        self.tasks: dict[str, Json] = {}  # until their terminal update is acknowledged
        self.updates: dict[str, Json] = {}  # Update messages by uuid, in order, until acknowledged
        self._dict_cls = dict
        self._tls = tls or tls_from_environ(environ)
        agent = Endpoint.parse(_need(environ, "MESOS_AGENT_ENDPOINT"), 5051)
        # The endpoint is an IP address; certificates often have names only.
        self._agent = replace(agent, alias=socket.gethostname())
        self._recovery_timeout = _seconds(environ, "MESOS_RECOVERY_TIMEOUT", "15mins")
        # An agent that came back waits 2 s (its default) for its executors, no longer.
        longest = _seconds(environ, "MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs") / 2
        self._backoff = Backoff(min(0.02, longest), longest, jitter=random.random)
        self._authorization = _token(environ)
        self._subscribe_timeout = subscribe_timeout
        self._unsent: dict[str, None] = {}  # uuids that were in no UPDATE and no SUBSCRIBE of this connection
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()
        self._shutting_down = False

    # ---- life

    async def start(self) -> None:
        """Begin to subscribe; returns at once."""
        if self._running is not None:
            raise RuntimeError("the driver was started already")
        self._running = asyncio.create_task(self._run(), name="mesos executor driver")

    async def stop(self, timeout: float = 60.0) -> None:
        """Disconnect when the agent acknowledged every update, or after `timeout` seconds.

        An update that is lost here becomes TASK_FAILED when the executor exits.
        """
        if self._running is not None and not self._running.done():
            acknowledged = asyncio.ensure_future(self._all_acknowledged.wait())
            await asyncio.wait(
                (acknowledged, self._running), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            acknowledged.cancel()
        if self.updates:
            logger.warning("stopping with %d unacknowledged status updates", len(self.updates))
        self._stopping = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))

    # ---- calls

    def sendStatusUpdate(self, status: Mapping[str, Any]) -> None:
        """UPDATE: sent now or, while the agent is away, with the next SUBSCRIBE; kept until acknowledged.

        `task_id` and `state` are needed; uuid, source, timestamp, executor_id and agent_id are filled in.
        TASK_STAGING is a ValueError: the agent shuts an executor down for it.
        """
        if not status.get("task_id") or not status.get("state"):
            raise ValueError(f"a status update needs task_id and state: {dict(status)!r}")
        if status["state"] == "TASK_STAGING":
            raise ValueError("an executor must not send TASK_STAGING")
        task_id = status["task_id"]
        full: Json = {
            "uuid": encode_data(uuid.uuid4().bytes),
            "timestamp": time.time(),
            **status,
            "task_id": {"value": task_id} if isinstance(task_id, str) else dict(task_id),
            "source": "SOURCE_EXECUTOR",
            "executor_id": self.executor_id,
        }
        if self.agent_id is not None:
            full["agent_id"] = self.agent_id
        self.updates[full["uuid"]] = {"status": full}
        self._unsent[full["uuid"]] = None
        self._all_acknowledged.clear()
        if self.connected:
            self._flush()

    def sendFrameworkMessage(self, data: str) -> None:
        """MESSAGE, base64; it may be lost. NotConnected while the agent is away."""
        if not self.connected or self._subscription is None:
            raise NotConnected("MESSAGE was not sent: not subscribed to the agent")
        self._subscription.send(self._call("MESSAGE", message={"data": data}))

    def _call(self, kind: str, **body: Any) -> Json:
        return {"type": kind, "framework_id": self.framework_id, "executor_id": self.executor_id, **body}

    def _flush(self) -> None:
        assert self._subscription is not None
        for key in list(self._unsent):
            del self._unsent[key]
            self._subscription.send(self._call("UPDATE", update=self.updates[key]))

    # ---- events

    def _received(self, record: bytes) -> None:
        event: Json = {}
        try:
            event = orjson.loads(record)
            self.on_event(event)
        except Exception as error:
            logger.exception("handling an event of type %s failed", event.get("type"))
            self._fail(f"handling an event of type {event.get('type')} failed: {error!r}")

    def on_subscribed(self, info: Json) -> None:
        """SUBSCRIBED; updates made since SUBSCRIBE was sent follow."""
        assert self._subscription is not None
        agent_info = info.get("agent_info") or {}
        self.agent_id = agent_info.get("id") or self.agent_id
        self._subscription.established(None)  # an agent's heartbeats are half an hour apart
        self._registered = True
        self._backoff.reset()
        logger.info("subscribed to the agent at %s", self._agent)
        self._flush()
        if self.executor_info is None:
            self.executor_info, self.framework_info = info["executor_info"], info["framework_info"]
            self.executor.registered(self, self.executor_info, self.framework_info, agent_info)
        else:
            self.executor.reregistered(self, agent_info)

    def on_launch(self, event: Json) -> None:
        """LAUNCH."""
        task = event["task"]
        if self._new_task(task):
            self.executor.launchTask(self, task)

    def on_launch_group(self, event: Json) -> None:
        """LAUNCH_GROUP."""
        tasks = [task for task in event["task_group"]["tasks"] if self._new_task(task)]
        if tasks:
            self.executor.launchTaskGroup(self, tasks)

    def _new_task(self, task: Json) -> bool:
        task_id = task["task_id"]["value"]
        if task_id in self.tasks:
            logger.error("task %s was launched twice; the second launch is dropped", task_id)
            return False
        self.tasks[task_id] = task
        return True

    def on_kill(self, event: Json) -> None:
        """KILL, with the kill policy of the call if it has one (pymesos drops it)."""
        self.executor.killTask(self, event["task_id"], event.get("kill_policy"))

    def on_acknowledged(self, event: Json) -> None:
        """ACKNOWLEDGED: the agent has the update on disk. (pymesos forgets the whole task here.)"""
        # As bytes and back: any spelling of the base64 is the same uuid.
        update = self.updates.pop(encode_data(decode_data(event["uuid"])), None)
        if update is None:
            logger.debug("an update was acknowledged that is not waiting for it: %s", event["uuid"])
        elif update["status"]["state"] in TERMINAL:
            self.tasks.pop(event["task_id"]["value"], None)
        if not self.updates:
            self._all_acknowledged.set()

    def on_error(self, event: Json) -> None:
        """ERROR is final."""
        self._fail(event.get("message", "the agent gave no reason"))

    def on_shutdown(self) -> None:
        """SHUTDOWN. (pymesos kills the process group by itself; here the executor decides, and `stop()`s.)"""
        self._shut_down("the agent says so")

    def _shut_down(self, why: str) -> None:
        if not self._shutting_down:
            self._shutting_down = True
            logger.info("shutting down: %s", why)
            self.executor.shutdown(self)

    def _refused(self, call: Json, status: int, text: str) -> None:
        logger.error("the agent refused %s with HTTP %d: %s", call.get("type"), status, text)
        if status == 400 and call.get("type") == "UPDATE":
            # It will never be acknowledged, and must not be in every SUBSCRIBE from now on.
            self._fail(f"the agent refused a status update: {text}")
        elif status != 400:
            self._close(f"{call.get('type')} was refused with HTTP {status}")

    def _fail(self, message: str) -> None:
        if self._fatal is None:
            self._fatal = message
            self._close(message)
            self.executor.error(self, message)

    def _close(self, reason: str) -> None:
        if self._subscription is not None:
            self._subscription.close(reason)

    # ---- the loop

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._recovery_timeout
        try:
            while self._fatal is None:
                if await self._once():
                    deadline = loop.time() + self._recovery_timeout
                    if not self.checkpoint:
                        self._shut_down("the agent is gone, and the framework does not checkpoint")
                        return
                left = deadline - loop.time()
                if left <= 0:
                    self._shut_down(f"the agent was away for {self._recovery_timeout:g} s")
                    return
                if self._fatal is None:
                    await asyncio.sleep(min(self._backoff.next(), left))
        except Exception as error:
            logger.exception("the driver failed")
            self._fail(f"the driver failed: {error!r}")

    async def _once(self) -> bool:
        """Subscribe and stay until it ends; whether it came to be."""
        subscription = self._subscription = Subscription(
            self._agent,
            _PATH,
            on_event=self._received,
            on_refused=self._refused,
            tls=self._tls,
            authorization=self._authorization,
        )
        was = False
        request = self._call(
            "SUBSCRIBE",
            subscribe={
                "unacknowledged_tasks": list(self.tasks.values()),
                "unacknowledged_updates": list(self.updates.values()),
            },
        )
        self._unsent.clear()
        try:
            await subscription.open(request, self._subscribe_timeout)
            self._trouble = f"disconnected from the agent: {await subscription.ended}"
            logger.warning("%s", self._trouble)
        except (OSError, Refused, Unavailable, Redirected) as error:
            if isinstance(error, Refused) and error.status not in (401, 403):
                self._fail(f"the agent refused the subscription: {error}")
            else:
                self._trouble = f"cannot subscribe to the agent at {self._agent}: {describe(error)}"
                logger.warning("%s", self._trouble)
        finally:
            was, self._registered = self._registered, False
            subscription.close("stopped")
            if was and self._fatal is None and not self._stopping:
                self.executor.disconnected(self)
        return was


def _need(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        raise ValueError(f"{name} is not set: an executor is started by a Mesos agent")
    return value


def _token(environ: Mapping[str, str]) -> str | None:
    name = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN"
    token = environ.get(name)
    if isinstance(environ, MutableMapping):
        environ.pop(name, None)
    if token and (not token.isascii() or not token.isprintable()):
        raise ValueError(f"{name}: not a token")
    return f"Bearer {token}" if token else None


def _seconds(environ: Mapping[str, str], name: str, default: str) -> float:
    try:
        return parse_duration(environ.get(name) or default)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
