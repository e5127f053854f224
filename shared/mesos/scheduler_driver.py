"""The scheduler driver: pymesos' calls and callbacks on a wire of ours (asyncio, one loop, no threads).

What differs from pymesos' own driver, and why, is on each method. In short: calls made while not subscribed
fail loudly, calls keep their order, missed heartbeats are noticed, an ERROR is final, nothing is ever torn
down. Offers of before a (re-)registration are void: forget them in `registered` and `reregistered`.

Sources: Mesos docs/scheduler-http-api.md, include/mesos/v1/scheduler/scheduler.proto, src/master/http.cpp.
"""

# ruff: noqa: N802  (pymesos' names)

import asyncio
import logging
import random
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from shared.mesos.backoff import Backoff
from shared.mesos.credentials import Credentials
from shared.mesos.detector import masters_of
from shared.mesos.http import Endpoint
from shared.mesos.life import Life
from shared.mesos.subscription import NotConnected, Redirected, Refused, Subscription, Unavailable, describe
from shared.mesos.vocabulary import MesosSchedulerDriver, Scheduler

__all__ = ["NotConnected", "Scheduler", "SchedulerDriver"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Id = str | Mapping[str, Any]

_PATH = "/api/v1/scheduler"
_REDIRECTS = 5  # followed at once; then it is a loop, and backs off
_ASK_AGAIN = 30.0  # seconds, after credentials could not be had


class _NoCredentials(OSError):
    """They cannot be had now."""


def _id(value: Id) -> Json:
    return {"value": value} if isinstance(value, str) else dict(value)


def _ids(values: Id | Iterable[Id]) -> list[Json]:
    return [_id(values)] if isinstance(values, str | Mapping) else [_id(value) for value in values]


class SchedulerDriver(Life, MesosSchedulerDriver):
    """A `pymesos.Scheduler`'s connection to the leading master. All callbacks run on the loop, in order.

    `framework` is a FrameworkInfo; with an `id` the subscription takes that framework over, and the first
    registration is `reregistered`. `suppressed_roles` get no offers until `reviveOffers`; what was suppressed
    stays so over reconnections. A scheduler may have one callback more than pymesos':
    `callRefused(driver, call, status, text)`, for a call that was answered with other than 2xx.

    `tls` makes plain addresses (and those from ZooKeeper) https. Wrong credentials, certificates that are not
    accepted and masters that do not answer are tried again with back-off; `trouble` says which it is.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        framework: Mapping[str, Any],
        master: str,
        *,
        suppressed_roles: Iterable[str] = (),
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        backoff: tuple[float, float] = (0.1, 15.0),
        subscribe_timeout: float = 30.0,
        implicit_acknowledgements: bool = False,
    ) -> None:
        """ValueError for a master that is no address, or a framework without `failover_timeout` (the default
        of 0 would end every task when a connection drops)."""
        Life.__init__(self)
        MesosSchedulerDriver.__init__(
            self,
            scheduler,
            dict(framework),
            master,
            implicit_acknowledgements=implicit_acknowledgements,
            failover=True,
        )
        if "failover_timeout" not in framework:
            raise ValueError(
                "framework: set failover_timeout (seconds); its default of 0 kills on disconnection"
            )
        self._masters = masters_of(master)
        self._masters.on_change = self._leader_changed
        self._suppressed = set(suppressed_roles)
        self._credentials = credentials
        self._tls = tls
        self._rejected: str | None = None  # an authorization that a call was refused with
        self._paused = False
        self._backoff = Backoff(*backoff, jitter=random.random)
        self._subscribe_timeout = subscribe_timeout
        self._redirects = 0  # since the last registration
        self._trouble = "not started"
        self._changed = asyncio.Event()  # another master leads
        self.calls: Counter[str] = Counter()
        """How many were sent, by type; SUBSCRIBE not."""
        self.events: Counter[str] = Counter()
        """How many came, by type."""
        self.failures: Counter[str] = Counter()
        """Connections that ended or did not come about, by what was the matter: connection, credentials, redirect."""

    # ---- life

    async def start(self) -> None:
        """Begin to subscribe; returns at once."""
        if self._running is not None:
            raise RuntimeError("the driver was started already")
        await self._masters.start()
        self._trouble = f"looking for the leading master at {self._masters}"
        self._running = asyncio.create_task(self._run(), name="mesos scheduler driver")

    async def stop(self, timeout: float = 2.0) -> None:
        """Disconnect, after giving calls in flight up to `timeout` seconds to be answered.

        The framework stays registered: tasks run on and the master waits `failover_timeout` for the next
        scheduler. (pymesos tears the framework down here, which kills every task.)
        """
        if self._subscription is not None and self.connected:
            try:
                async with asyncio.timeout(timeout):
                    await self._subscription.drain()
            except TimeoutError:
                logger.warning("stopping with unanswered calls")
        self._stopping = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))
        await self._masters.stop()

    @property
    def master(self) -> str | None:
        """`host:port`, or `https://host:port`, of the master we are subscribed to."""
        if not self.connected or self._subscription is None:
            return None
        return self._subscription.endpoint.url(self._tls)

    @property
    def framework(self) -> Json:
        """The FrameworkInfo as given, with the id once it is known. (pymesos adds GPU_RESOURCES and a
        failover timeout of its own.)"""
        return dict(self._framework)

    def pauseEvents(self) -> None:
        """Hold events back, for a scheduler that has too many to work on; what comes waits, here up to a bound and
        beyond it on the master's side. Calls can be made all the same."""
        self._paused = True
        if self._subscription is not None:
            self._subscription.pause()

    def resumeEvents(self) -> None:
        """Let them come again, in order, beginning with those that were held back."""
        self._paused = False
        if self._subscription is not None:
            self._subscription.resume()

    # ---- calls: sent in the order made, on one connection; NotConnected when there is none

    def acceptOffers(
        self, offer_ids: Id | Iterable[Id], operations: Sequence[Json], filters: Json | None = None
    ) -> None:
        """ACCEPT offers of one agent; without operations it is a DECLINE."""
        super().acceptOffers(self._checked_ids("ACCEPT", offer_ids), operations, filters)

    def launchTasks(
        self, offer_ids: Id | Iterable[Id], tasks: Sequence[Json], filters: Json | None = None
    ) -> None:
        """ACCEPT with one LAUNCH; without tasks it is a DECLINE."""
        super().launchTasks(self._checked_ids("ACCEPT", offer_ids), tasks, filters)

    def declineOffer(self, offer_ids: Id | Iterable[Id], filters: Json | None = None) -> None:
        """DECLINE."""
        super().declineOffer(self._checked_ids("DECLINE", offer_ids), filters)

    def acceptInverseOffers(self, offer_ids: Id | Iterable[Id], filters: Json | None = None) -> None:
        """ACCEPT_INVERSE_OFFERS."""
        super().acceptInverseOffers(self._checked_ids("ACCEPT_INVERSE_OFFERS", offer_ids), filters)

    def declineInverseOffer(self, offer_ids: Id | Iterable[Id], filters: Json | None = None) -> None:
        """DECLINE_INVERSE_OFFERS."""
        super().declineInverseOffer(self._checked_ids("DECLINE_INVERSE_OFFERS", offer_ids), filters)

    def reviveOffers(self, roles: Iterable[str] = ()) -> None:
        """REVIVE these roles, or all. A role that is not the framework's is a ValueError: the master would
        drop the whole call without a word."""
        wanted = self._own_roles("REVIVE", roles)
        super().reviveOffers(wanted)
        self._suppressed -= set(wanted or self._suppressed)

    def suppressOffers(self, roles: Iterable[str] = ()) -> None:
        """SUPPRESS these roles, or all; see `reviveOffers`."""
        wanted = self._own_roles("SUPPRESS", roles)
        super().suppressOffers(wanted)
        self._suppressed |= set(wanted or self._roles())

    def killTask(self, task_id: Id, agent_id: Id | None = None, kill_policy: Json | None = None) -> None:
        """KILL. With the agent's id the master can answer for an agent it does not know; pymesos has neither
        that nor the kill policy."""
        kill: Json = {"task_id": _id(task_id)}
        if agent_id is not None:
            kill["agent_id"] = _id(agent_id)
        if kill_policy is not None:
            kill["kill_policy"] = kill_policy
        self._call("KILL", kill=kill)

    def shutdownExecutor(self, executor_id: Id, agent_id: Id) -> None:
        """SHUTDOWN an executor, with all its tasks. pymesos lacks it."""
        self._call("SHUTDOWN", shutdown={"executor_id": _id(executor_id), "agent_id": _id(agent_id)})

    def acknowledgeStatusUpdate(self, status: Mapping[str, Any]) -> None:
        """ACKNOWLEDGE; nothing is sent for a status without uuid (a reconciliation's), as Mesos wants it."""
        self._check("ACKNOWLEDGE")
        super().acknowledgeStatusUpdate(status)

    def acknowledgeOperationStatusUpdate(self, status: Mapping[str, Any]) -> None:
        """ACKNOWLEDGE_OPERATION_STATUS."""
        self._check("ACKNOWLEDGE_OPERATION_STATUS")
        super().acknowledgeOperationStatusUpdate(status)

    def reconcileTasks(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """RECONCILE these (`task_id`, and `agent_id` where known; pymesos drops it), or all with []."""
        asked = []
        for task in tasks:
            entry: Json = {"task_id": _id(task["task_id"])}
            if task.get("agent_id"):
                entry["agent_id"] = _id(task["agent_id"])
            asked.append(entry)
        self._call("RECONCILE", reconcile={"tasks": asked})

    def reconcileOperations(self, operations_: Sequence[Json]) -> None:
        """RECONCILE_OPERATIONS."""
        self._check("RECONCILE_OPERATIONS")
        super().reconcileOperations(operations_)

    def sendFrameworkMessage(self, executor_id: Id, agent_id: Id, data: str) -> None:
        """MESSAGE, base64; it may be lost."""
        self._check("MESSAGE")
        super().sendFrameworkMessage(_id(executor_id), _id(agent_id), data)

    def tearDown(self) -> None:
        """TEARDOWN: the framework ends and all its tasks with it, and the master closes the connection. Nothing
        in this driver calls it, `stop` least of all."""
        self._call("TEARDOWN")

    def requestResources(self, requests: Sequence[Json]) -> None:
        """REQUEST."""
        self._check("REQUEST")
        super().requestResources(requests)

    def _check(self, call: str) -> None:
        if not self.connected:
            raise NotConnected(f"{call} was not sent: not subscribed to a master")

    def _checked_ids(self, call: str, offer_ids: Id | Iterable[Id]) -> list[Json]:
        self._check(call)
        return _ids(offer_ids)

    def _roles(self) -> list[str]:
        info = self._framework
        return list(info.get("roles") or [info.get("role", "*")])

    def _own_roles(self, call: str, roles: Iterable[str]) -> list[str]:
        self._check(call)
        wanted = [roles] if isinstance(roles, str) else list(roles)
        unknown = sorted(set(wanted) - set(self._roles()))
        if unknown:
            raise ValueError(f"{call}: not a role of this framework: {', '.join(unknown)}")
        return wanted

    def _call(self, kind: str, **body: Any) -> None:
        self._check(kind)
        self._send({"type": kind, "framework_id": {"value": self.framework_id}, **body})

    def _send(self, body: Json) -> None:
        """Where all of pymesos' calls end."""
        self._check(body["type"])
        assert self._subscription is not None
        self._subscription.send(body)
        self.calls[body["type"]] += 1

    # ---- events

    def _received(self, record: bytes) -> None:
        event: Json = {}
        try:
            event = orjson.loads(record)
            self.events[event.get("type", "")] += 1
            self.on_event(event)
        except Exception as error:
            logger.exception("handling an event of type %s failed", event.get("type"))
            self._fail(f"handling an event of type {event.get('type')} failed: {error!r}")

    def on_subscribed(self, info: Json) -> None:
        """SUBSCRIBED: the first one without an id given is `registered`, all others `reregistered`."""
        again = self.framework_id is not None
        self.framework_id = info["framework_id"]["value"]
        master_info = info.get("master_info") or {}
        self.version = master_info.get("version")
        assert self._subscription is not None
        self._subscription.established(info.get("heartbeat_interval_seconds"))
        self._registered = True
        self._backoff.reset()
        self._redirects = 0
        logger.info("subscribed to %s as %s", self._subscription.endpoint, self.framework_id)
        if again:
            self.sched.reregistered(self, dict(master_info))
        else:
            self.sched.registered(self, {"value": self.framework_id}, dict(master_info))

    def on_offers(self, event: Json) -> None:
        """OFFERS."""
        if event.get("offers"):
            self.sched.resourceOffers(self, event["offers"])
        self.on_inverse_offers(event)

    def on_inverse_offers(self, event: Json) -> None:
        """INVERSE_OFFERS."""
        if event.get("inverse_offers"):
            self.sched.inverseOffers(self, event["inverse_offers"])

    def on_failure(self, failure: Json) -> None:
        """FAILURE of an executor (with its wait status, if any) or of a whole agent. A hint, not a fact."""
        agent_id = failure.get("agent_id", {})
        if "executor_id" in failure:
            self.sched.executorLost(self, failure["executor_id"], agent_id, failure.get("status"))
        else:
            self.sched.slaveLost(self, agent_id)

    def on_error(self, event: Json) -> None:
        """ERROR is final: reconnecting would only steal the framework back, or be refused again."""
        self._fail(event.get("message", "the master gave no reason"))

    def _refused(self, call: Json, status: int, text: str) -> None:
        logger.error("the master refused %s with HTTP %d: %s", call.get("type"), status, text)
        callback = getattr(self.sched, "callRefused", None)
        if callback is not None:
            callback(self, call, status, text)
        if status == 401 and self._subscription is not None:
            self._rejected = self._subscription.authorization
        if status != 400:  # 307, 401, 403, 503…: it is not our master, or we are not its framework, any more
            self._close(f"{call.get('type')} was refused with HTTP {status}")

    def _fail(self, message: str) -> None:
        if self._fatal is None:
            self._fatal = message
            self._close(message)
            self.sched.error(self, message)

    def _close(self, reason: str) -> None:
        if self._subscription is not None:
            self._subscription.close(reason)

    def _leader_changed(self) -> None:
        self._changed.set()
        self._close("another master leads")

    # ---- the loop

    async def _run(self) -> None:
        try:
            while self._fatal is None:
                pause = await self._once()
                if pause and self._fatal is None:
                    await self._pause(self._backoff.next())
        except Exception as error:
            logger.exception("the driver failed")
            self._fail(f"the driver failed: {error!r}")

    async def _once(self) -> bool:
        """Find the master, subscribe, stay; whether to pause before the next time."""
        endpoint = await self._masters.endpoint()
        try:
            return await self._subscribe(endpoint)
        except Redirected as redirected:
            self._trouble = f"{endpoint} is not the leader: {redirected}"
            logger.info("%s", self._trouble)
            self._masters.redirected(redirected.endpoint)
            self._redirects += 1
            self.failures["redirect"] += 1
            return self._redirects > _REDIRECTS
        except (OSError, Refused, Unavailable) as error:
            # OSError: no connection, no TLS, no credentials.
            self.failures[
                "credentials" if isinstance(error, (_NoCredentials, Refused)) else "connection"
            ] += 1
            self._trouble = f"cannot subscribe to {endpoint}: {describe(error)}"
            logger.warning("%s", self._trouble)
            self._masters.failed()
        return True

    async def _subscribe(self, endpoint: Endpoint) -> bool:
        authorization = await self._authorize()
        try:
            subscription = self._subscription = Subscription(
                endpoint,
                _PATH,
                on_event=self._received,
                on_refused=self._refused,
                tls=self._tls,
                authorization=authorization,
            )
            if self._paused:
                subscription.pause()
            await self._attend(subscription)
        except Refused as refused:
            mine = self._credentials if refused.status == 401 else None
            if mine and authorization and await mine.renew(authorization):
                logger.info("%s wants other credentials; they were renewed", endpoint)
                return False
            if refused.status in (401, 403):  # credentials can be put right without us
                raise
            self._fail(f"{endpoint} refused the subscription: {refused}")
        return True

    async def _authorize(self) -> str | None:
        if self._credentials is None:
            return None
        try:
            if self._rejected is not None:
                rejected, self._rejected = self._rejected, None
                await self._credentials.renew(rejected)
            return await self._credentials.authorization()
        except OSError as error:
            raise _NoCredentials(describe(error)) from error

    async def _keep_authorized(self, credentials: Credentials, subscription: Subscription) -> None:
        """Give the subscription new credentials before the old ones expire."""
        while (delay := credentials.renew_in()) is not None:
            await asyncio.sleep(delay)
            try:
                subscription.authorization = await credentials.authorization()
            except OSError as error:
                self.failures["credentials"] += 1
                logger.warning("the credentials cannot be renewed: %s", describe(error))
                await asyncio.sleep(_ASK_AGAIN)

    async def _pause(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._backoff.reset()

    async def _attend(self, subscription: Subscription) -> None:
        """Subscribe, and stay until it ends."""
        request: Json = {"type": "SUBSCRIBE", "subscribe": {"framework_info": self.framework}}
        if self._suppressed:
            request["subscribe"]["suppressed_roles"] = sorted(self._suppressed)
        if self.framework_id is not None:
            request["framework_id"] = {"value": self.framework_id}
        keeper: asyncio.Task[None] | None = None
        try:
            await subscription.open(request, self._subscribe_timeout)
            if self._credentials is not None:
                keeper = asyncio.create_task(self._keep_authorized(self._credentials, subscription))
            reason = await subscription.ended
            self.failures["connection"] += 1
            self._trouble = f"disconnected from {subscription.endpoint}: {reason}"
        finally:
            was, self._registered = self._registered, False
            subscription.close("stopped")
            if was and self._fatal is None and not self._stopping:
                self.sched.disconnected(self)
            if keeper is not None:
                keeper.cancel()
                await asyncio.wait((keeper,))
        logger.warning("disconnected from %s: %s", subscription.endpoint, reason)
